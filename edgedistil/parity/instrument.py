"""A graph whose inner tensors can be read and replaced.

The parts of an encoder end at tensors that the exporter named after them: the embeddings, the
blocks of each layer, the transform of a masked-LM head
(docs/decisions.md#the-exporter-names-the-tensors-that-divide-the-encoder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError
from edgedistil.core.session import PROVIDERS, SessionOptions

# The part after the last boundary.
OUTPUT_PART = "output"
# Suffix of the graph inputs that replace computed tensors.
_REPLACED_SUFFIX = "/given"
_FLOATS = {"tensor(float)", "tensor(float16)"}

Array = NDArray[Any]


@dataclass(frozen=True)
class InstrumentedGraph:
    """A graph divided into parts. It is never written back.

    Attributes:
        model: The graph, without its external weights.
        folder: Folder of the external weights.
        parts: Part → its nodes, in the order of the graph; the last part is `OUTPUT_PART`.
        boundaries: Part → name of the tensor that ends it.
    """

    model: onnx.ModelProto
    folder: Path
    parts: dict[str, list[onnx.NodeProto]]
    boundaries: dict[str, str]

    def session(
        self, outputs: Sequence[str], replaced: Mapping[str, Array] | None = None
    ) -> ort.InferenceSession:
        """Creates a session that returns inner tensors.

        Args:
            outputs: Names of the tensors to return; the session has no other outputs.
            replaced: Tensors that are fed instead of computed; only dtype and rank matter here.
        Raises:
            ModelError: onnxruntime cannot load the graph.
        """
        model = _with_replaced_tensors(self.model, outputs, replaced or {})
        # An optimizer would fuse nodes, and tensors between them would no longer exist.
        options = SessionOptions(graph_level="disabled").to_onnxruntime()
        # The graph is passed as bytes, so onnxruntime does not know its folder.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.folder)
        )
        try:
            return ort.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)
        # onnxruntime's exceptions have no common ancestor below Exception.
        except Exception as error:
            raise ModelError(
                f"onnxruntime cannot load the instrumented graph: {str(error).splitlines()[0]}"
            ) from error

    def run(
        self,
        outputs: Sequence[str],
        feeds: Mapping[str, Array],
        replaced: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Computes inner tensors, with other tensors replaced; see `session`."""
        # onnxruntime refuses an input that no node reads.
        consumed = {
            name: array for name, array in (replaced or {}).items() if self.has_consumer(name)
        }
        session = self.session(outputs, consumed)
        return run_session(session, {**feeds, **replaced_feeds(self, consumed)})

    def has_consumer(self, tensor: str) -> bool:
        """Whether some node reads this tensor."""
        return any(tensor in node.input for node in self.model.graph.node)

    def float_outputs(self, nodes: Sequence[onnx.NodeProto]) -> list[str]:
        """Names of the nodes' outputs that hold floats, by onnxruntime's type inference."""
        session = self.session([name for node in nodes for name in node.output if name])
        return [output.name for output in session.get_outputs() if output.type in _FLOATS]


def replaced_feeds(graph: InstrumentedGraph, replaced: Mapping[str, Array]) -> dict[str, Array]:
    """Feeds of a session whose nodes read `replaced` instead of computed tensors."""
    return {
        name + _REPLACED_SUFFIX: array
        for name, array in replaced.items()
        if graph.has_consumer(name)
    }


def run_session(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Computes all outputs of a session by name; feeds without an input are left out.

    Raises:
        ModelError: The session fails.
    """
    output_names = [output.name for output in session.get_outputs()]
    input_names = [node.name for node in session.get_inputs()]
    known_feeds = {name: feeds[name] for name in input_names if name in feeds}
    try:
        values = session.run(output_names, known_feeds)
    except Exception as error:  # onnxruntime's exceptions have no common ancestor below Exception
        raise ModelError(
            f"the instrumented graph does not run: {str(error).splitlines()[0]}"
        ) from error
    return dict(zip(output_names, values, strict=True))


def boundary_tensor(part: str) -> str:
    """Name of the tensor that ends a part, in every exported graph."""
    return f"hidden/{part}"


def instrument_graph(model_file: Path, boundaries: Sequence[str]) -> InstrumentedGraph:
    """Reads a graph and divides it into the parts that end at its boundaries.

    Args:
        model_file: An ONNX graph.
        boundaries: Names of the parts in order, as the probes have them.
    Raises:
        ModelError: The file cannot be read, or lacks the tensor of a boundary.
    """
    model = _read_model(model_file)
    tensors = {part: boundary_tensor(part) for part in boundaries}
    computed = {name for node in model.graph.node for name in node.output}
    lacking = [part for part, tensor in tensors.items() if tensor not in computed]
    if lacking:
        raise ModelError(
            f"{model_file} has no tensor '{tensors[lacking[0]]}': its layers cannot be separated "
            f"({len(lacking)} of {len(tensors)} are not there)",
            hint="export it again: an optimizer or another exporter does not keep the names",
        )
    return InstrumentedGraph(
        model=model,
        folder=model_file.resolve().parent,
        parts=_divide(model, tensors),
        boundaries=tensors,
    )


def _read_model(model_file: Path) -> onnx.ModelProto:
    try:
        return onnx.load(model_file, load_external_data=False)
    # protobuf's DecodeError and onnx's exceptions have no common ancestor below Exception.
    except Exception as error:
        raise ModelError(f"{model_file} is not a readable ONNX graph: {error}") from error


def _with_replaced_tensors(
    graph: onnx.ModelProto, outputs: Sequence[str], replaced: Mapping[str, Array]
) -> onnx.ModelProto:
    """Returns a copy with other outputs, whose nodes read new inputs instead of some tensors."""
    # A copy, because a session changes inputs and outputs; external weights are not copied.
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    # Consumers read a new input; the replaced tensor itself is still computed and can be read.
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in replaced:
                node.input[index] = name + _REPLACED_SUFFIX
    for name, array in replaced.items():
        model.graph.input.append(_input_of(name + _REPLACED_SUFFIX, array))
    # An output without a type: onnxruntime infers it.
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return model


def _input_of(name: str, array: Array) -> onnx.ValueInfoProto:
    """A graph input of an array's dtype and rank, of any shape."""
    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, element, [None] * array.ndim)


def _divide(model: onnx.ModelProto, boundaries: dict[str, str]) -> dict[str, list[onnx.NodeProto]]:
    """Assigns every node to the first part that needs it; nodes stay in the order of the graph."""
    producers = {}
    for index, node in enumerate(model.graph.node):
        for output in node.output:
            producers[output] = index
    # A part needs all ancestors of its end; those that an earlier part has are not its own.
    part_ends = {part: [tensor] for part, tensor in boundaries.items()}
    part_ends[OUTPUT_PART] = [output.name for output in model.graph.output]

    assigned: set[int] = set()
    parts: dict[str, list[onnx.NodeProto]] = {}
    for part, tensors in part_ends.items():
        indices = _ancestors(model, producers, tensors, stop=assigned)
        assigned |= indices
        parts[part] = [model.graph.node[index] for index in sorted(indices)]
    return parts


def _ancestors(
    model: onnx.ModelProto, producers: dict[str, int], tensors: Sequence[str], *, stop: set[int]
) -> set[int]:
    """Indices of the nodes that tensors depend on, up to the nodes in `stop`."""
    ancestors: set[int] = set()
    pending = [producers[name] for name in tensors if name in producers]
    while pending:
        index = pending.pop()
        if index in ancestors or index in stop:
            continue
        ancestors.add(index)
        inputs = model.graph.node[index].input
        pending += [producers[name] for name in inputs if name in producers]
    return ancestors

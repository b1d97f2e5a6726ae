"""An artefact's graph opened up: its parts, their inputs replaced by given ones, its inner tensors as outputs.

The parts of a BERT or DistilBERT encoder end in a LayerNorm: one after the embeddings, two in each layer, one in a
masked-LM head. They are found by operator, in the order of the graph, so no name of a tracer is needed.
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

NORMS = {"LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"}
GIVEN = "/given"
OUTPUT = "output"
_FLOATS = {"tensor(float)", "tensor(float16)"}

Array = NDArray[Any]


@dataclass(frozen=True)
class Opened:
    """A graph without its external weights, and where it lies. Never written back."""

    model: onnx.ModelProto
    folder: Path
    parts: dict[str, list[onnx.NodeProto]]
    boundaries: dict[str, str]

    def session(
        self, outputs: Sequence[str], given: Mapping[str, Array] | None = None
    ) -> ort.InferenceSession:
        """A session with these tensors as its only outputs, unoptimised, so that each of them exists.

        Args:
            outputs: Names of tensors.
            given: Tensors that are fed instead of computed, by name; whatever reads them reads what is fed.
        Raises:
            ModelError: onnxruntime cannot load the graph.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        replaced = given or {}
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name in replaced:
                    node.input[index] = name + GIVEN
        model.graph.input.extend(_input(name + GIVEN, array) for name, array in replaced.items())
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.folder)
        )
        options.log_severity_level = 3  # a boundary that nobody reads any more is no news
        try:
            return ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except (
            Exception
        ) as error:  # onnxruntime's exceptions have no common ancestor below Exception
            raise ModelError(
                f"onnxruntime cannot load the opened graph: {str(error).splitlines()[0]}"
            ) from error

    def answers(
        self,
        outputs: Sequence[str],
        feeds: Mapping[str, Array],
        given: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """The values of these tensors."""
        replaced = {name: array for name, array in (given or {}).items() if self.reads(name)}
        fed = {name + GIVEN: array for name, array in replaced.items()}
        return run_session(self.session(outputs, replaced), {**feeds, **fed})

    def reads(self, tensor: str) -> bool:
        """Whether some node takes this tensor."""
        return any(tensor in node.input for node in self.model.graph.node)

    def float_outputs(self, nodes: Sequence[onnx.NodeProto]) -> list[str]:
        """The outputs of nodes that hold floats, as onnxruntime infers their types."""
        session = self.session([name for node in nodes for name in node.output if name])
        return [each.name for each in session.get_outputs() if each.type in _FLOATS]


def run_session(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name; feeds that the session has no input for are left out.

    Raises:
        ModelError: It does not run.
    """
    names = [each.name for each in session.get_outputs()]
    wanted = [each.name for each in session.get_inputs()]
    try:
        values = session.run(names, {name: feeds[name] for name in wanted if name in feeds})
    except Exception as error:  # onnxruntime's exceptions have no common ancestor below Exception
        raise ModelError(f"the opened graph does not run: {str(error).splitlines()[0]}") from error
    return dict(zip(names, values, strict=True))


def open_graph(model_file: Path, boundaries: Sequence[str]) -> Opened:
    """The graph in a file, divided into the parts that end at its LayerNorms.

    Args:
        model_file: An ONNX graph.
        boundaries: The names of the parts, as the probes have them.
    Raises:
        ModelError: It cannot be read, or has another number of LayerNorms.
    """
    try:
        model = onnx.load(model_file, load_external_data=False)
    except (
        Exception
    ) as error:  # protobuf's DecodeError and onnx's own have no common ancestor below Exception
        raise ModelError(f"{model_file} is no ONNX graph that can be read: {error}") from error
    norms = [node for node in model.graph.node if node.op_type in NORMS]
    if len(norms) != len(boundaries):
        raise ModelError(
            f"{model_file} has {len(norms)} LayerNorms, its source {len(boundaries)}: its layers cannot be told apart",
            hint="explain the artefact before an optimiser changed its normalisation",
        )
    tensors = dict(zip(boundaries, (node.output[0] for node in norms), strict=True))
    return Opened(model, model_file.resolve().parent, _divide(model, tensors), tensors)


def _input(name: str, array: Array) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, element, [None] * array.ndim)


def _divide(model: onnx.ModelProto, boundaries: dict[str, str]) -> dict[str, list[onnx.NodeProto]]:
    """Every node to the part that needs it first, in the order of the graph."""
    makers = {
        output: index for index, node in enumerate(model.graph.node) for output in node.output
    }
    taken: set[int] = set()
    parts: dict[str, list[onnx.NodeProto]] = {}
    ends: list[tuple[str, list[str]]] = [(part, [tensor]) for part, tensor in boundaries.items()]
    for part, tensors in [*ends, (OUTPUT, [each.name for each in model.graph.output])]:
        new = _ancestors(model, makers, tensors, taken)
        taken |= new
        parts[part] = [model.graph.node[index] for index in sorted(new)]
    return parts


def _ancestors(
    model: onnx.ModelProto, makers: dict[str, int], tensors: Sequence[str], taken: set[int]
) -> set[int]:
    found: set[int] = set()
    waiting = [makers[name] for name in tensors if name in makers]
    while waiting:
        index = waiting.pop()
        if index not in found and index not in taken:
            found.add(index)
            waiting += [makers[name] for name in model.graph.node[index].input if name in makers]
    return found

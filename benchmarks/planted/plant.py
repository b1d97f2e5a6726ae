"""An exported graph that faults are planted in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedistil.parity.formula import METADATA_KEY, Call, Provenance, parse, source_names

Array = NDArray[Any]

# Functions of stored weights, and the axis of their outputs.
_OUTPUT_AXIS = {"int8_values": 1, "int4_values": 0, "half": 0, "source": 0}
_SCALES = {"int8_scale", "int4_scale"}
# Two 4-bit numbers around 8.
_INT4_ZEROS = 0x88


class Plant:
    """A graph in memory, with its weights by the source's names.

    Attributes:
        model: The graph with all weights.
        graph: `model.graph`.
    """

    def __init__(self, file: Path) -> None:
        self.model = onnx.load(file)
        self.graph = self.model.graph
        entries = {entry.key: entry.value for entry in self.model.metadata_props}
        self._formulas = Provenance.of_json(entries[METADATA_KEY]).initializers
        self._tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self._added = 0

    def save(self, file: Path) -> None:
        """Writes the graph as one file."""
        onnx.save(self.model, file)

    # --- weights ----------------------------------------------------------------------------------

    def weights(self, pattern: str) -> list[str]:
        """Names of stored weights (values, not scales) whose source matches, in layer order."""
        return [name for name, call in self._matches(pattern) if call.function in _OUTPUT_AXIS]

    def scales(self, pattern: str) -> list[str]:
        """Names of the scales of weights whose source matches."""
        return [name for name, call in self._matches(pattern) if call.function in _SCALES]

    def _matches(self, pattern: str) -> Iterator[tuple[str, Call]]:
        matches = []
        for name in self._tensors:
            call = parse(self._formulas[name])
            sources = source_names(call)
            if any(re.search(pattern, source) for source in sources):
                matches.append((min(sources), name, call))
        for _, name, call in sorted(matches, key=lambda item: item[0]):
            yield name, call

    def array(self, name: str) -> Array:
        """A copy of an initializer's values."""
        return np.array(numpy_helper.to_array(self._tensors[name]))

    def put(self, name: str, array: Array) -> None:
        """Replaces the values of an initializer."""
        self._tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def by_output(self, name: str) -> Array:
        """A copy of a stored weight with its outputs on the first axis."""
        return np.moveaxis(self.array(name), self._output_axis(name), 0)

    def put_by_output(self, name: str, array: Array) -> None:
        """Stores what `by_output` returned, after it was changed."""
        self.put(name, np.moveaxis(array, 0, self._output_axis(name)))

    def _output_axis(self, name: str) -> int:
        call = parse(self._formulas[name])
        # Embedding rows are quantized along their own axis.
        if call.function == "int8_values" and call.settings["axis"] == 1:
            return 0
        return _OUTPUT_AXIS[call.function]

    @staticmethod
    def negated(array: Array) -> Array:
        """The same weights with the other sign."""
        if array.dtype != np.uint8:
            return -array
        low, high = (16 - (array & 15)).clip(0, 15), (16 - (array >> 4)).clip(0, 15)
        return (low | high << 4).astype(np.uint8)

    @staticmethod
    def zeros_like(array: Array) -> Array:
        """Weights of zero in the same storage."""
        return np.full_like(array, _INT4_ZEROS if array.dtype == np.uint8 else 0)

    # --- nodes ------------------------------------------------------------------------------------

    def nodes(self, pattern: str, op_type: str = "") -> list[onnx.NodeProto]:
        """Nodes whose name matches, in the order of computation."""
        return [
            node
            for node in self.graph.node
            if re.search(pattern, node.name) and op_type in ("", node.op_type)
        ]

    def tensor(self, name: str) -> bool:
        """Whether a node computes a tensor."""
        return any(name in node.output for node in self.graph.node)

    def constant(self, array: Array) -> str:
        """Adds an initializer; returns its name."""
        self._added += 1
        name = f"planted/{self._added}"
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def rewrite(self, tensor: str, *steps: tuple[str, list[str], dict[str, Any]]) -> None:
        """Gives all readers of a tensor the result of new nodes.

        Args:
            tensor: A computed tensor.
            steps: Operator, inputs and attributes of each node; "x" is the tensor, "1", "2" …  the
                results of the steps.
        """
        index = next(i for i, node in enumerate(self.graph.node) if tensor in node.output)
        producer = self.graph.node[index]
        self._added += 1
        original = f"planted/original/{self._added}"
        outputs = list(producer.output)
        producer.output[outputs.index(tensor)] = original
        names = {"x": original}
        for number, (op_type, inputs, attributes) in enumerate(steps, 1):
            last = number == len(steps)
            name = tensor if last else f"planted/{self._added}/{number}"
            resolved = [names.get(item, item) for item in inputs]
            node = helper.make_node(
                op_type, resolved, [name], name=f"{tensor}/{number}", **attributes
            )
            self.graph.node.insert(index + number, node)
            names[str(number)] = name

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that computes a tensor."""
        return next((node for node in self.graph.node if tensor in node.output), None)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Nodes that read a tensor."""
        return [node for node in self.graph.node if tensor in node.input]


def set_attribute(node: onnx.NodeProto, name: str, value: float | int) -> None:
    """Sets an attribute of a node."""
    others = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])


def get_attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """A float attribute of a node."""
    for attribute in node.attribute:
        if attribute.name == name:
            return float(attribute.f)
    return default

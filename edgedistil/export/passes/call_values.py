"""Values of a call that all layers read: its shape, its mask, and constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from edgedistil.export.passes.edit import (
    CONTRIB,
    add_initializer,
    graph_input,
    insert,
    record_attribute,
)
from edgedistil.export.settings import ATTENTION_SCALE, MASKED_SCORE, MASKED_SCORE_VALUE
from edgedistil.parity.formula import setting

# Inserts a node and returns its output: operator, inputs, name, attributes.
Insert = Callable[..., ir.Value]

_CONTRIB_OPERATORS = {"FusedMatMul", "RotaryEmbedding"}


def domain_of(op_type: str) -> str:
    """Domain of an operator."""
    return CONTRIB if op_type in _CONTRIB_OPERATORS else ""


def inserter(before: ir.Node) -> Insert:
    """Returns a function that inserts nodes in front of another one."""

    def op(op_type: str, *inputs: ir.Value | None, name: str, **attributes: Any) -> ir.Value:
        domain = domain_of(op_type)
        return insert(before, op_type, inputs, name=name, domain=domain, attributes=attributes)[0]

    return op


def record_scale(scores: ir.Value) -> None:
    """Records that the factor of a product is the scale of the model's attention."""
    node = scores.producer()
    assert node is not None
    record_attribute(node, "alpha", setting(ATTENTION_SCALE))


class CallValues:
    """Values that depend on the shape and the mask of the input only, inserted once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._insert = inserter(next(iter(graph)))
        self._paddings: dict[int, ir.Value] = {}

    def op(self, op_type: str, *inputs: ir.Value | None, name: str, **attributes: Any) -> ir.Value:
        """Inserts a node in front of all layers; returns its output."""
        return self._insert(op_type, *inputs, name=name, **attributes)

    def vector(self, *values: int) -> ir.Value:
        """A constant vector of integers."""
        name = f"constant/int64/{len(values)}/{'_'.join(map(str, values))}"
        return add_initializer(self._graph, name, np.array(values, np.int64))

    def scalar(self, value: int) -> ir.Value:
        """A constant integer."""
        name = f"constant/int64/scalar/{value}"
        return add_initializer(self._graph, name, np.array(value, np.int64))

    def range(self, end_1: ir.Value, name: str) -> ir.Value:
        """0, 1, … up to a computed number."""
        end = self.op("Squeeze", end_1, name=f"{name}/end")
        return self.op("Range", self.scalar(0), end, self.scalar(1), name=name)

    def masked_score(self) -> ir.Value:
        """What is added to the score of padding, and of keys out of reach."""
        score = np.array(MASKED_SCORE_VALUE, np.float32)
        return add_initializer(self._graph, "constant/masked", score, setting(MASKED_SCORE))

    @cached_property
    def batch(self) -> ir.Value:
        """B, shape (1,)."""
        ids = graph_input(self._graph, "input_ids")
        return self.op("Shape", ids, name="batch", start=0, end=1)

    @cached_property
    def length(self) -> ir.Value:
        """L, shape (1,)."""
        ids = graph_input(self._graph, "input_ids")
        return self.op("Shape", ids, name="length", start=1, end=2)

    @cached_property
    def padding_bias(self) -> ir.Value:
        """0 at tokens, the score of padding elsewhere."""
        one = add_initializer(self._graph, "constant/one", np.array(1, np.float32))
        float32 = int(ir.DataType.FLOAT)
        mask = graph_input(self._graph, "attention_mask")
        is_token = self.op("Cast", mask, name="mask/kept", to=float32)
        is_padding = self.op("Sub", one, is_token, name="mask/left_out")
        return self.op("Mul", is_padding, self.masked_score(), name="mask/bias")

    def padding(self, rank: int) -> ir.Value:
        """Mask of attention to all tokens: (B, 1, …, L) of that rank."""
        if rank not in self._paddings:
            axes = self.vector(*range(1, rank - 1))
            name = f"mask/of_rank_{rank}"
            self._paddings[rank] = self.op("Unsqueeze", self.padding_bias, axes, name=name)
        return self._paddings[rank]

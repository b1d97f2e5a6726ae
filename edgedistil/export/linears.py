"""The products with a weight in a graph, as quantization sees them: x · W + b, and the table of words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.core.family import FAMILIES
from edgedistil.export.passes.edit import constant, only_user
from edgedistil.export.passes.embeddings import POSITIONS

WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Linear:
    """One product x · W + b.

    Attributes:
        name: The module's name in the source model, such as `transformer.layer.0.ffn.lin1`.
        rows_are_outputs: The weight is stored (N, K), as PyTorch stores it.
        last: The node whose output is the whole product, bias included.
    """

    name: str
    product: ir.Node
    last: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    rows_are_outputs: bool

    @property
    def tied(self) -> bool:
        return (self.weight.name or "").endswith(WORDS)

    def matrix(self) -> NDArray[np.float32]:
        """The weight as (K, N), a view."""
        array = constant(self.weight)
        assert array is not None
        return array.T if self.rows_are_outputs else array


def find_linears(model: ir.Model) -> list[Linear]:
    """All products with a constant weight, in the order of the computation."""
    found = []
    for node in model.graph:
        if node.op_type not in {"MatMul", "FusedMatMul", "Gemm"}:
            continue
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or not weight.is_initializer():
            continue
        if node.op_type == "Gemm":
            found.append(
                Linear(
                    module_name(node), node, node, x, weight, node.inputs[2], rows_are_outputs=True
                )
            )
            continue
        bias, last = _bias(node)
        found.append(
            Linear(module_name(node), node, last, x, weight, bias, node.op_type == "FusedMatMul")
        )
    return found


def module_name(node: ir.Node) -> str:
    """`/model/distilbert/transformer/layer.0/ffn/lin1/MatMul` → `transformer.layer.0.ffn.lin1`."""
    parts = (node.name or "").strip("/").split("/")[1:-1]
    prefixes = {family.module_prefix for family in FAMILIES.values()}
    if len(parts) > 1 and parts[0] in prefixes:
        parts = parts[1:]
    return ".".join(parts)


def find_words(model: ir.Model) -> ir.Node | None:
    """The gather from the table of words."""
    for node in model.graph:
        table = node.inputs[0] if node.inputs else None
        if node.op_type == "Gather" and table is not None and (table.name or "").endswith(WORDS):
            return node
    return None


def find_positions(model: ir.Model) -> ir.Node | None:
    """The slice of the table of positions."""
    for node in model.graph:
        table = node.inputs[0] if node.inputs else None
        if node.op_type == "Slice" and table is not None and (table.name or "").endswith(POSITIONS):
            return node
    return None


def part_of(name: str) -> str:
    """The part of the model that a weight or node belongs to: embeddings, attention, feed-forward, head, other."""
    if "embeddings." in name:
        return "embeddings"
    if "layer." in name:
        after = name.split("layer.", 1)[1]
        return "attention" if "attention" in after or "sa_layer_norm" in after else "feed-forward"
    heads = ("vocab_", "cls.", "classifier", "qa_outputs", "pooler", "predictions")
    return "head" if any(head in name for head in heads) else "other"


def _bias(product: ir.Node) -> tuple[ir.Value | None, ir.Node]:
    add = only_user(product.outputs[0])
    if add is None or add.op_type not in {"Add", "Sum"} or len(add.inputs) != 2:
        return None, product
    other = next(
        (value for value in add.inputs if value is not None and value is not product.outputs[0]),
        None,
    )
    if other is None or not other.is_initializer() or len(other.shape or ()) != 1:
        return None, product
    return other, add

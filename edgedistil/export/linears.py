"""The weights of a graph: linear layers, embedding lookups, and bytes by part of the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.core.family import FAMILIES
from edgedistil.export.passes.edit import (
    constant_array,
    formula_of,
    only_consumer,
    replace_value,
)
from edgedistil.export.passes.embeddings import POSITION_EMBEDDING, is_weight
from edgedistil.parity.formula import Formula, call

ModelPart = Literal["embeddings", "attention", "feed-forward", "head", "other"]

# Endings of the weights' names, of all supported families.
WORD_EMBEDDINGS = tuple(
    sorted({f"{family.names.word_embedding}.weight" for family in FAMILIES.values()})
)

# --- MatMuls with a weight -----------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """One linear layer: x · W + b.

    Attributes:
        name: The module's name in the source model, such as `transformer.layer.0.ffn.lin1`.
        matmul: The node that multiplies.
        last: The node whose output is the layer's output: the sum with the bias, if it has one.
        weight: The initializer of W.
        bias: The initializer of b; None without one.
        rows_are_outputs: Whether the weight is stored as (N, K), as PyTorch stores it.
        constant: Whether x follows from weights only, as DeBERTa's vectors of distances do: a
            session computes the layer once, when it starts.
    """

    name: str
    matmul: ir.Node
    last: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    rows_are_outputs: bool
    constant: bool

    @property
    def x(self) -> ir.Value:
        """The layer's input, also after the layer that computes it was replaced."""
        x = self.matmul.inputs[0]
        assert x is not None
        return x

    def replace_by(self, output: ir.Value) -> None:
        """Gives the readers of the layer's output another one."""
        replace_value(self.last.outputs[0], output)

    @property
    def tied(self) -> bool:
        """Whether the weight is the word-embedding matrix, as in a masked-LM head."""
        return (self.weight.name or "").endswith(WORD_EMBEDDINGS)

    def matrix(self) -> NDArray[np.float32]:
        """The weight as (K, N), a view."""
        array = constant_array(self.weight)
        assert array is not None
        return array.T if self.rows_are_outputs else array

    def formula(self) -> Formula | None:
        """Formula of the weight as (K, N), for the certificate; None if it is not known."""
        formula = formula_of(self.weight)
        return call("transpose", formula) if self.rows_are_outputs else formula


def find_linears(model: ir.Model) -> list[Linear]:
    """Returns all linear layers, in the order of computation."""
    linears = []
    # Values that depend on a call; the nodes are sorted.
    of_call = set(model.graph.inputs)
    for node in model.graph:
        if not of_call.isdisjoint(node.inputs):
            of_call.update(node.outputs)
        if node.op_type not in {"MatMul", "FusedMatMul", "Gemm"}:
            continue
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or not weight.is_initializer():
            continue  # a MatMul of two activations, as in attention
        linears.append(_linear(node, weight, constant=x not in of_call))
    return linears


def weights_of_several_products(model: ir.Model) -> frozenset[str]:
    """Returns the weights that several linear layers of a call share, as ALBERT's layers do."""
    counts = Counter(linear.weight.name for linear in find_linears(model) if not linear.constant)
    return frozenset(name for name, count in counts.items() if name and count > 1)


def _linear(node: ir.Node, weight: ir.Value, *, constant: bool) -> Linear:
    # Gemm has an input for the bias; the tracer writes its weight as (N, K) with transB.
    if node.op_type == "Gemm":
        bias, last = node.inputs[2], node
    else:
        bias, last = _find_bias(node)
    return Linear(
        name=module_name(node),
        matmul=node,
        last=last,
        weight=weight,
        bias=bias,
        rows_are_outputs=node.op_type in {"FusedMatMul", "Gemm"},
        constant=constant,
    )


def module_name(node: ir.Node) -> str:
    """Name of the module that a node was traced from, without the encoder's prefix.

    `/model/distilbert/transformer/layer.0/ffn/lin1/MatMul` → `transformer.layer.0.ffn.lin1`.
    """
    modules = (node.name or "").strip("/").split("/")[1:-1]
    prefixes = {family.module_prefix for family in FAMILIES.values()}
    if len(modules) > 1 and modules[0] in prefixes:
        modules = modules[1:]
    return ".".join(modules)


def _find_bias(matmul: ir.Node) -> tuple[ir.Value | None, ir.Node]:
    """The bias that is added to a MatMul, and the last node of the layer."""
    add = only_consumer(matmul.outputs[0])
    # A bias in front of a Gelu is added by `Sum` (`passes.keep_bias_sums`).
    if add is None or add.op_type not in {"Add", "Sum"} or len(add.inputs) != 2:
        return None, matmul
    terms = [term for term in add.inputs if term is not matmul.outputs[0]]
    bias = terms[0] if terms else None
    # The sum with an activation, or with a matrix, is not the layer's.
    if bias is None or not bias.is_initializer() or len(bias.shape or ()) != 1:
        return None, matmul
    return bias, add


# --- embedding lookups ---------------------------------------------------------------------------


def find_word_embedding(model: ir.Model) -> ir.Node | None:
    """The Gather from the word-embedding matrix."""
    return next(_lookups(model, ("Gather",), WORD_EMBEDDINGS), None)


def find_position_embedding(model: ir.Model) -> ir.Node | None:
    """The Slice of the position-embedding matrix, or the Gather of positions that are computed."""
    return next(_lookups(model, ("Slice", "Gather"), (POSITION_EMBEDDING,)), None)


def _lookups(
    model: ir.Model, op_types: tuple[str, ...], weights: tuple[str, ...]
) -> Iterator[ir.Node]:
    for node in model.graph:
        if node.op_type in op_types and node.inputs and is_weight(node.inputs[0], *weights):
            yield node


# --- bytes by part -------------------------------------------------------------------------------

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
# Smaller weights do not matter for the size of a file.
_LISTED_FROM_BYTES = 1024
_HEAD_MODULES = (
    "vocab_",
    "cls.",
    "classifier",
    "qa_outputs",
    "pooler",
    "predictions",
    "lm_head",
    "decoder.",
    "head.",
)
_ATTENTION_MODULES = ("attention", "attn", "sa_layer_norm", "input_layernorm")
# A layer's list ends in `layer` or `layers` in every supported family.
_IN_LAYER = re.compile(r"layers?\.\d+\.(.*)")


def part_of(name: str) -> ModelPart:
    """The part of the model that a weight or a node belongs to, by its name."""
    if "embeddings." in name or "embed_tokens." in name:
        return "embeddings"
    in_layer = _IN_LAYER.search(name)
    if in_layer is not None:
        within_layer = in_layer[1]
        # DistilBERT's LayerNorm behind attention is not inside its attention module.
        is_attention = any(module in within_layer for module in _ATTENTION_MODULES)
        return "attention" if is_attention else "feed-forward"
    if any(module in name for module in _HEAD_MODULES):
        return "head"
    return "other"


def bytes_by_part(model: ir.Model) -> dict[str, int]:
    """Bytes of the stored weights, with every part of the model as a key."""
    sizes: Counter[str] = Counter(dict.fromkeys(get_args(ModelPart), 0))
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            sizes[part_of(name)] += value.const_value.nbytes
    return dict(sizes)


def float_weights(model: ir.Model) -> list[str]:
    """Names of the float weights over 1 KiB, without the scales of quantized weights."""
    names = []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _FLOATS or ".scale" in name:
            continue
        if tensor.nbytes > _LISTED_FROM_BYTES:
            names.append(name)
    return sorted(names)

"""Weights of fewer bytes that are computed with in float32: float16, or 4 bits in blocks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.linears import Linear, find_word_embedding
from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.edit import (
    CONTRIB,
    add_initializer,
    constant_array,
    formula_of,
    insert,
    replace_value,
)
from edgedistil.export.quantize import (
    quantizable_linears,
    quantize_embeddings,
    store_constant_linears,
)
from edgedistil.export.quantize_invariant import quantize_rows
from edgedistil.parity.formula import call

# Inputs of an output that share a scale. Blocks of 256 are faster and less exact
# (docs/log.md#integer-kernels).
BLOCK = 32
# MatMulNBits: activations become int8 block by block, its fastest path where a CPU has it.
_ACCURACY_INT8 = 4
# Smaller weights stay in float32: their casts would be nodes for almost no bytes.
_HALVED_FROM_BYTES = 1024

# --- float16 -------------------------------------------------------------------------------------


def convert_to_float16(model: ir.Model) -> None:
    """Stores float32 weights over 1 KiB as float16 with a cast to float32, in place.

    A session on a CPU casts them once, when it starts, and computes in float32
    (docs/decisions.md#fp16-stores-halves-and-computes-in-float32). Rows of the word-embedding
    matrix are cast after the lookup.

    Raises:
        ModelError: A weight does not fit into float16.
    """
    graph = model.graph
    lookup = find_word_embedding(model)
    # A copy of the items: the loop adds initializers.
    for name, value in list(graph.initializers.items()):
        array = constant_array(value)
        if array is None or array.dtype != np.float32 or array.nbytes <= _HALVED_FROM_BYTES:
            continue
        # The angles of rotary positions: halves would turn far tokens by other angles.
        if all(use.node.op_type == "RotaryEmbedding" for use in value.uses()):
            continue
        _check_fits_float16(name, array)
        formula = call("half", formula_of(value))
        half = add_initializer(graph, f"{name}.half", array.astype(np.float16), formula)
        if lookup is not None and value is lookup.inputs[0]:
            _cast_after_lookup(lookup, half)
        _cast_before_readers(value, half, except_node=lookup, name=name)
    drop_unused(model)


def _check_fits_float16(name: str, array: NDArray[np.float32]) -> None:
    largest = np.abs(array).max()
    limit = np.finfo(np.float16).max
    if largest > limit:
        raise ModelError(
            f"weight {name} is as large as {largest:g}: float16 ends at {limit:g}",
            hint="export another precision, such as int8",
        )


def _cast_after_lookup(lookup: ir.Node, half: ir.Value) -> None:
    """Looks up float16 rows and casts those: casting the matrix would undo the saving."""
    (rows,) = insert(lookup, "Gather", [half, lookup.inputs[1]], name=f"{lookup.name}/half")
    (vectors,) = insert(lookup, "Cast", [rows], name=f"{lookup.name}/Cast", attributes={"to": 1})
    replace_value(lookup.outputs[0], vectors)


def _cast_before_readers(
    value: ir.Value, half: ir.Value, *, except_node: ir.Node | None, name: str
) -> None:
    """Gives the readers of a weight one cast, which a session folds into one float32 weight."""
    uses = [use for use in value.uses() if use.node is not except_node]
    if not uses:
        return
    # Layers that share a weight share its cast, too: each one more would be a copy in memory.
    (as_float,) = insert(uses[0].node, "Cast", [half], name=f"{name}/Cast", attributes={"to": 1})
    for use in uses:
        use.node.replace_input_with(use.idx, as_float)


# --- 4 bits --------------------------------------------------------------------------------------


def quantize_int4(model: ir.Model, plan: Int8Plan) -> list[str]:
    """Quantizes the weights of linear layers to 4 bits, in place; 32 inputs share a scale.

    Word and position embeddings, and with them a tied head, get 8 bits as in int8: 4 bits for what
    decides the token would cost more agreement than they save bytes.

    Args:
        model: The float32 graph.
        plan: Which linear layers are quantized, and how the 8-bit weights are.
    Returns:
        Names of the linear layers that were quantized to 4 bits.
    """
    linears = quantizable_linears(model, plan)
    # Under names of their own: another layer may have the same weight in 4 bits.
    store_constant_linears(model, plan, suffix=".int8")
    quantize_embeddings(model, plan)
    names = []
    for linear in linears:
        if linear.tied:
            quantize_rows(model, linear, plan)
        else:
            _quantize_in_blocks(model.graph, linear)
            names.append(linear.name)
    drop_unused(model)
    return names


def _quantize_in_blocks(graph: ir.Graph, linear: Linear) -> None:
    """Replaces a linear layer by a MatMulNBits and the sum with its bias."""
    matrix_KN = linear.matrix()
    K, N = matrix_KN.shape
    packed, scales = pack_int4(np.ascontiguousarray(matrix_KN.T))
    name = linear.weight.name
    rows = call("transpose", linear.formula())
    values_formula = call("int4_values", rows, block=BLOCK)
    weight = add_initializer(graph, f"{name}.int4", packed, values_formula)
    scale = add_initializer(graph, f"{name}.scale", scales, call("int4_scale", rows, block=BLOCK))
    node_name = linear.matmul.name or ""
    attributes = {"K": K, "N": N, "bits": 4, "block_size": BLOCK, "accuracy_level": _ACCURACY_INT8}
    (output,) = insert(
        linear.last,
        "MatMulNBits",
        [linear.x, weight, scale],
        name=node_name,
        domain=CONTRIB,
        attributes=attributes,
    )
    if linear.bias is not None:
        (output,) = insert(linear.last, "Add", [output, linear.bias], name=f"{node_name}/bias")
    linear.replace_by(output)


def pack_int4(matrix_NK: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantizes a matrix to 4 bits in blocks of 32, in the layout of MatMulNBits.

    Args:
        matrix_NK: Weights of N outputs, shape (N, K); K is padded with zeros to full blocks.
    Returns:
        Two 4-bit numbers around 8 in each byte, low half first, shape (N, blocks, 16); and the
        scales, shape (N · blocks).
    """
    N, K = matrix_NK.shape
    blocks = -(-K // BLOCK)
    padded = np.zeros((N, blocks * BLOCK), np.float32)
    padded[:, :K] = matrix_NK
    grouped = padded.reshape(N, blocks, BLOCK)

    # The scale is signed so that the largest value of a block becomes -8: all 16 numbers are used.
    largest_at = np.abs(grouped).argmax(axis=-1, keepdims=True)
    scale = np.take_along_axis(grouped, largest_at, axis=-1) / -8
    scale[scale == 0] = 1  # a block of zeros
    numbers = np.clip(np.rint(grouped / scale) + 8, 0, 15).astype(np.uint8)
    packed = numbers[..., ::2] | numbers[..., 1::2] << 4
    return packed, scale.reshape(-1).astype(np.float32)

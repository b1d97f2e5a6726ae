"""Weights in fewer bytes that are computed with in float32 (float16) or block by block (4 bits)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError
from edgedistil.export.linears import Linear, find_words
from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.edit import CONTRIB, add_initializer, insert, replace
from edgedistil.export.quantize import Int8Plan, quantize_alone, quantize_tables, wanted_linears

BLOCK = 32
_SMALL_BYTES = 1024
_ACCURACY_INT8 = (
    4  # MatMulNBits: activations become int8 block by block; the fastest path where it exists
)


def halve_weights(model: ir.Model) -> None:
    """float32 weights over 1 KiB become float16 and are cast where they are read, in place.

    A session on a CPU casts them once when it starts and computes in float32; rows of the table of words are cast as
    they are picked.

    Raises:
        ModelError: A weight does not fit into float16.
    """
    graph = model.graph
    words = find_words(model)
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes <= _SMALL_BYTES:
            continue
        array = np.asarray(tensor.numpy())
        if np.abs(array).max() > np.finfo(np.float16).max:
            raise ModelError(
                f"weight {name} is as large as {np.abs(array).max():g}: float16 ends at 65504"
            )
        half = add_initializer(graph, f"{name}.half", array.astype(np.float16))
        if words is not None and value is words.inputs[0]:
            (picked,) = insert(words, "Gather", [half, words.inputs[1]], name=f"{words.name}/half")
            (vectors,) = insert(
                words, "Cast", [picked], name=f"{words.name}/Cast", attributes={"to": 1}
            )
            replace(words.outputs[0], vectors)
        for use in [use for use in value.uses() if use.node is not words]:
            (back,) = insert(use.node, "Cast", [half], name=f"{name}/Cast", attributes={"to": 1})
            use.node.replace_input_with(use.idx, back)
    drop_unused(model)


def quantize_int4(model: ir.Model, plan: Int8Plan) -> list[str]:
    """Weights of the products become 4-bit numbers, in place: blocks of 32 inputs of an output share a scale.

    The tables of words and positions, and with the words a tied head, are quantized to 8 bits as in int8: 4 bits for
    what decides the word would cost more agreement than they save bytes.

    Returns:
        The names of the products that were quantized to 4 bits.
    """
    linears = wanted_linears(model, plan)
    quantize_tables(model, plan)
    done = []
    for linear in linears:
        if linear.tied:
            quantize_alone(model, linear, plan)
        else:
            _in_blocks(model, linear)
            done.append(linear.name)
    drop_unused(model)
    return done


def _in_blocks(model: ir.Model, linear: Linear) -> None:
    matrix_KN = linear.matrix()
    K, N = matrix_KN.shape
    packed, scales = packed_int4(np.ascontiguousarray(matrix_KN.T))
    name = f"{linear.name}.weight"
    (product,) = insert(
        linear.last,
        "MatMulNBits",
        [
            linear.x,
            add_initializer(model.graph, f"{name}.int4", packed),
            add_initializer(model.graph, f"{name}.scale", scales),
        ],
        name=linear.product.name or "",
        domain=CONTRIB,
        attributes={
            "K": K,
            "N": N,
            "bits": 4,
            "block_size": BLOCK,
            "accuracy_level": _ACCURACY_INT8,
        },
    )
    if linear.bias is not None:
        (product,) = insert(
            linear.last, "Add", [product, linear.bias], name=f"{linear.product.name}/bias"
        )
    replace(linear.last.outputs[0], product)


def packed_int4(matrix_NK: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Two 4-bit numbers a byte, low half first, (N, blocks, 16), around 8; and the scale of each block.

    The scale is signed so that the largest value of a block lands on -8: all sixteen numbers are used.
    """
    N, K = matrix_NK.shape
    blocks = -(-K // BLOCK)
    padded = np.zeros((N, blocks * BLOCK), np.float32)
    padded[:, :K] = matrix_NK
    grouped = padded.reshape(N, blocks, BLOCK)
    at = np.abs(grouped).argmax(axis=-1, keepdims=True)
    scale = np.take_along_axis(grouped, at, axis=-1) / -8
    scale[scale == 0] = 1
    numbers = np.clip(np.rint(grouped / scale) + 8, 0, 15).astype(np.uint8)
    return numbers[..., ::2] | numbers[..., 1::2] << 4, scale.reshape(-1).astype(np.float32)

"""Sums that onnxruntime must not fuse with the following node.

A session replaces `Add` and the node behind it by one operator that is slower than the two. `Sum`
computes the same and is not recognised.
"""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import (
    add_initializer,
    constant_array,
    formula_of,
    insert,
    only_consumer,
    produced_by,
    record_attribute,
    replace_value,
)
from edgedistil.export.passes.embeddings import POSITION_EMBEDDING, is_weight
from edgedistil.export.settings import epsilon_name
from edgedistil.parity.formula import parse, setting, source_names, traced

# Operator of a traced RMSNorm.
RMS_NORM = "RmsNorm"


def fuse_rms_norms(model: ir.Model) -> int:
    """Lowers each traced RMSNorm to onnxruntime's operator.

    Requires: the graph of `trace_model`.
    Ensures: one node, which onnxruntime has in ONNX's own domain though ONNX does not define it.
    """
    nodes = [node for node in model.graph if node.op_type == RMS_NORM]
    for node in nodes:
        attributes = {"axis": -1, "epsilon": node.attributes["epsilon"].as_float()}
        module = (node.name or "").rsplit("/", 1)[0]
        (output,) = insert(
            node,
            "SimplifiedLayerNormalization",
            list(node.inputs),
            name=f"{module}/SimplifiedLayerNormalization",
            attributes=attributes,
        )
        _record_epsilon(output, node.inputs[1])
        replace_value(node.outputs[0], output)
    return len(nodes)


def _record_epsilon(output: ir.Value, weight: ir.Value | None) -> None:
    """Records that a norm's epsilon is that of the module whose weight it has."""
    norm, formula = output.producer(), formula_of(weight) if weight is not None else None
    # A graph from a file has no formulas.
    if norm is None or formula is None:
        return
    (weight_name,) = source_names(parse(formula))
    record_attribute(norm, "epsilon", setting(epsilon_name(weight_name.removesuffix(".weight"))))


def share_zero_biases(model: ir.Model) -> int:
    """Makes all LayerNorms without a bias read the same zeros.

    Requires: the graph of `trace_model`, in which each of them has zeros of its own.
    Ensures: the same sums. The optional input stays: onnxruntime 1.17 crashes without it
        (docs/log.md#layernorm-without-a-bias).
    """
    changed = 0
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        bias = norm.inputs[2] if len(norm.inputs) > 2 else None
        zeros = constant_array(bias)
        # A bias that was learned is an initializer, even if it is zero.
        if bias is None or bias.is_initializer() or zeros is None or zeros.any():
            continue
        name = f"constant/zeros/{zeros.size}"
        norm.replace_input_with(2, add_initializer(model.graph, name, zeros, traced(zeros)))
        changed += 1
    return changed


def keep_residual_sums(model: ir.Model) -> int:
    """Turns the `Add` in front of a LayerNorm into a `Sum`.

    A session fuses Add and LayerNormalization into SkipLayerNormalization, which takes 126 and 465
    µs for 32 and 128 rows of 768, where LayerNormalization takes 16 and 50 (onnxruntime 1.32, one
    core, docs/log.md#skiplayernormalization-is-slow).

    Requires: the sum is read by the LayerNorm only, and both its terms are activations.
    Ensures: the same sums in the same order.
    """
    changed = 0
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        add = produced_by(norm.inputs[0], "Add")
        # Another reader needs the sum itself, and a session does not fuse it then.
        if add is None or only_consumer(add.outputs[0]) is not norm:
            continue
        # The sum of the embeddings is not a residual sum.
        if "embeddings" in (norm.name or ""):
            continue
        # Neither is that of a bias, in front of a head's norm where the activation is linear.
        if any(term is not None and term.is_initializer() for term in add.inputs):
            continue
        _replace_by_sum(add, default_name="residual")
        changed += 1
    return changed


def keep_embedding_sums(model: ir.Model) -> int:
    """Turns the `Add` of looked-up positions in front of the embeddings' LayerNorm into a `Sum`.

    A session makes SkipLayerNormalization of it as of a residual sum (`keep_residual_sums`): 496 µs
    for 128 rows of 768. Rows that are a slice of the matrix are broadcast, and stay as they are.

    Requires: position ids that are computed from the token ids, as in RoBERTa.
    Ensures: the same sums in the same order.
    """
    changed = 0
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        add = produced_by(norm.inputs[0], "Add")
        if add is None or only_consumer(add.outputs[0]) is not norm:
            continue
        lookups = [produced_by(term, "Gather") for term in add.inputs]
        if any(node and is_weight(node.inputs[0], POSITION_EMBEDDING) for node in lookups):
            _replace_by_sum(add, default_name="embeddings")
            changed += 1
    return changed


def keep_bias_sums(model: ir.Model) -> int:
    """Turns the `Add` of a bias in front of a Gelu into a `Sum`.

    A session fuses the two into BiasGelu, which takes 1033 µs for 256 rows of 3072, where Gelu
    takes 496 and the sum 170 (onnxruntime 1.32, one core, docs/log.md#bias-in-front-of-gelu). In 8
    bits the MatMul adds the bias, and there is nothing to fuse.

    Requires: the sum is read by the Gelu only.
    Ensures: the same sums in the same order.
    """
    changed = 0
    for gelu in [node for node in model.graph if node.op_type == "Gelu"]:
        add = produced_by(gelu.inputs[0], "Add")
        if add is None or only_consumer(add.outputs[0]) is not gelu:
            continue
        _replace_by_sum(add, default_name="bias")
        changed += 1
    return changed


def _replace_by_sum(add: ir.Node, *, default_name: str) -> None:
    """Replaces an `Add` by a `Sum` of the same name."""
    name = add.name or default_name
    # Names of nodes are unique, so the old node gives its name up before the new one takes it.
    add.name = f"{name}/replaced"
    (total,) = insert(add, "Sum", list(add.inputs), name=name)
    replace_value(add.outputs[0], total)

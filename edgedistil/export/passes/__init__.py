"""Graph passes. Each says what it requires, does and ensures, and how many places it changes in a model of that shape.

A pass is a function `Graph → count`. `run_passes` holds every one to its promise: the declared count, weights that
never take more bytes than before, and a graph that is still well formed. Equal outputs are the gate's business
(`edgedistil/parity`), on real text, and of `tests/export/test_passes.py`, pass by pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    TopologicalSortPass,
)

from edgedistil.core.errors import EdgeDistilError
from edgedistil.export.passes.activation import fuse_gelu
from edgedistil.export.passes.attention import fuse_attention
from edgedistil.export.passes.constants import name_constants, read_weights_as_stored
from edgedistil.export.passes.embeddings import fold_segment_a, slice_positions
from edgedistil.export.passes.layout import sequence_first
from edgedistil.export.passes.normalisation import keep_bias_sums, keep_residual_sums


@dataclass(frozen=True)
class Shape:
    """What of a model decides how many places a pass changes."""

    layers: int
    heads: int
    hidden: int
    gelus: int
    weights: int

    @classmethod
    def of(cls, model: ir.Model, config: Any) -> Shape:
        nodes = [node.op_type for node in model.graph]
        return cls(
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            hidden=config.hidden_size,
            gelus=nodes.count("Erf"),
            weights=sum(
                1
                for node in model.graph
                if node.op_type == "Transpose" and is_weight(node.inputs[0])
            ),
        )


@dataclass(frozen=True)
class Pass:
    """A step and the number of places that it must change."""

    name: str
    change: Callable[[ir.Model], int]
    expected: int


def is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def standard_passes(shape: Shape, *, token_types: bool, drop_token_types: bool) -> list[Pass]:
    """The passes of every artefact, in order."""
    passes = [
        Pass("sequence-first", sequence_first, 1),
        Pass("attention", lambda m: fuse_attention(m, heads=shape.heads), shape.layers),
        Pass("positions", slice_positions, 1),
        Pass("gelu", fuse_gelu, shape.gelus),
        Pass("weights-as-stored", read_weights_as_stored, shape.weights),
        Pass("residual-sums", keep_residual_sums, 2 * shape.layers),
        Pass("bias-sums", keep_bias_sums, shape.gelus),
        Pass("constants", name_constants, 0),
    ]
    if token_types and drop_token_types:
        passes.insert(0, Pass("segment-a", fold_segment_a, 1))
    return passes


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> dict[str, int]:
    """Changes the model in place; returns what was changed, counted.

    Raises:
        EdgeDistilError: A pass changed another number of places than it declared, or made the weights larger. The
            graph of a supported model always has the declared places, so this is a bug or an unknown version of
            transformers, never the user's fault.
    """
    counts = {}
    for each in passes:
        before = weight_bytes(model)
        counts[each.name] = each.change(model)
        drop_unused(model)
        if counts[each.name] != each.expected and each.name != "constants":
            raise EdgeDistilError(
                f"graph pass '{each.name}' changed {counts[each.name]} places, expected {each.expected}",
                hint="this version of transformers or torch traces the model differently; see constraints.txt",
            )
        if weight_bytes(model) > before:
            raise EdgeDistilError(
                f"graph pass '{each.name}' made the weights larger: {before} → {weight_bytes(model)} bytes"
            )
    return {name: count for name, count in counts.items() if count}


def weight_bytes(model: ir.Model) -> int:
    """Bytes of everything constant in a graph, wherever it stands."""
    stored = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    inline = sum(
        node.attributes["value"].as_tensor().nbytes
        for node in model.graph
        if node.op_type == "Constant"
    )
    return stored + inline


def drop_unused(model: ir.Model) -> None:
    """Removes nodes and weights that nobody reads any more."""
    _tidy(model)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]


def _tidy(model: ir.Model) -> None:
    """Removes what nobody reads any more: nodes, initializers, stale shapes."""
    for step in (IdentityEliminationPass(), RemoveUnusedNodesPass(), TopologicalSortPass()):
        step(model)

"""Graph passes: rewrites of the traced graph, each with a contract.

A pass is a function from a graph to the number of places it changed. Its docstring says what it
requires of the graph and what it ensures. `run_passes` checks every pass: it must change the
declared number of places and must not make the weights larger. tests/export/passes/ tests each pass
on a small graph, and the parity check compares the outputs of every artefact (edgedistil/parity/).
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
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.export.passes.activation import fuse_gelu, fuse_silu
from edgedistil.export.passes.attention import fuse_attention
from edgedistil.export.passes.boundaries import name_boundaries
from edgedistil.export.passes.choices import choice_inputs, merge_choices, split_choices
from edgedistil.export.passes.constants import (
    name_constants,
    read_weights_as_stored,
    transposes_a_weight,
)
from edgedistil.export.passes.disentangled import fuse_disentangled_attention
from edgedistil.export.passes.embeddings import slice_positions, turn_positions
from edgedistil.export.passes.layout import sequence_first
from edgedistil.export.passes.normalisation import (
    fuse_rms_norms,
    keep_bias_sums,
    keep_embedding_sums,
    keep_residual_sums,
    share_zero_biases,
)
from edgedistil.export.passes.rotary import fuse_rotary_attention

# Key of `ir.Model.meta`: calls of each kind of module during the trace.
MODULE_CALLS = "edgedistil.module_calls"
# Shapes and indices that a pass may add; the smallest weight that it could store twice is larger.
_ADDED_CONSTANT_BYTES = 1024


@dataclass(frozen=True)
class Pass:
    """A rewrite of the graph.

    Attributes:
        name: Name in records and messages.
        rewrite: Changes a graph in place; returns the number of places that it changed.
        expected: Number of places that it must change; None if any number is right.
    """

    name: str
    rewrite: Callable[[ir.Model], int]
    expected: int | None


@dataclass(frozen=True)
class PassCounts:
    """Counts of a model and its traced graph that say how many places each pass must change.

    Attributes:
        boundaries: Outputs that divide the encoder into parts.
        layers: Attentions.
        heads: Heads of an attention.
        gelus: Exact GELUs that ran.
        biased_gelus: Those of them behind a linear layer of every token with a bias, which is added
            in a node of its own; one of a sequence's vector adds it in the MatMul.
        silus: SiLUs that ran.
        unbiased_norms: LayerNorms without a bias that ran.
        rms_norms: RMSNorms that ran.
        positions: Lookups of positions in a matrix.
        family: Family of the model.
        transposed_weights: Weights that the tracer transposes.
        choices: Inputs and outputs with an axis of choices.
    """

    boundaries: int
    layers: int
    heads: int
    gelus: int
    biased_gelus: int
    silus: int
    unbiased_norms: int
    rms_norms: int
    positions: int
    family: FamilyInfo
    transposed_weights: int
    choices: int = 0

    @property
    def residual_norms(self) -> int:
        """LayerNorms of a residual sum."""
        # Before the norm of a block the sum is read by the next sum too, but for the last one.
        if self.family.norm_place == "pre":
            return 1 if self.family.norm_kind == "layer" else 0
        return self.layers * self.family.residual_norms

    @classmethod
    def of(cls, model: ir.Model, config: Any) -> PassCounts:
        """Counts a graph of `trace_model`, which no pass has changed yet.

        Args:
            model: The graph.
            config: transformers' config of the source model.
        """
        family = FAMILIES[config.model_type]
        # Counted where the modules ran, not in the graph in which the passes look for them.
        calls = model.meta[MODULE_CALLS]
        with_choices = len(choice_inputs(model))
        return cls(
            boundaries=calls["boundary"],
            layers=family.layers(config.to_dict()),
            heads=family.heads(config.to_dict()),
            gelus=calls["gelu"],
            biased_gelus=calls["gelu of tokens"] - calls["gelu without bias"],
            silus=calls["silu"],
            unbiased_norms=calls["layer-norm without bias"],
            rms_norms=calls["rms-norm"],
            positions=int(family.has_position_matrix(config.to_dict())),
            family=family,
            transposed_weights=sum(transposes_a_weight(node) for node in model.graph),
            choices=with_choices + len(model.graph.outputs) if with_choices else 0,
        )


def standard_passes(counts: PassCounts) -> list[Pass]:
    """Returns the passes of every artefact, in order."""
    return [
        # Everything in between sees sequences.
        Pass("choices-merged", merge_choices, counts.choices),
        Pass("boundaries", name_boundaries, counts.boundaries),
        # The lowered attention reads (L, B, D), so the layout has to change first.
        Pass("sequence-first", sequence_first, 1),
        Pass("attention", lambda m: _fuse_attention(m, counts), counts.layers),
        Pass("positions", lambda m: _turn_or_slice_positions(m, counts.family), counts.positions),
        Pass("norm-biases", share_zero_biases, counts.unbiased_norms),
        Pass("rms-norm", fuse_rms_norms, counts.rms_norms),
        Pass("gelu", fuse_gelu, counts.gelus),
        Pass("silu", fuse_silu, counts.silus),
        Pass("weights-as-stored", read_weights_as_stored, counts.transposed_weights),
        Pass("residual-sums", keep_residual_sums, counts.residual_norms),
        Pass("embedding-sums", keep_embedding_sums, int(counts.family.pad_counts_positions)),
        # Looks for the Gelu nodes that "gelu" creates.
        Pass("bias-sums", keep_bias_sums, counts.biased_gelus),
        # The number of constants depends on the version of torch.
        Pass("constants", name_constants, None),
        Pass("choices-split", split_choices, counts.choices),
    ]


def _fuse_attention(model: ir.Model, counts: PassCounts) -> int:
    """Runs the pass for the way in which a family's attention knows places."""
    if counts.family.positions == "rotary":
        return fuse_rotary_attention(model)
    if counts.family.positions == "disentangled":
        return fuse_disentangled_attention(model)
    return fuse_attention(model, heads=counts.heads)


def _turn_or_slice_positions(model: ir.Model, family: FamilyInfo) -> int:
    """Runs the pass for the way in which a family numbers its tokens."""
    if family.pad_counts_positions:
        return turn_positions(model)
    return slice_positions(model, batch_axis=0 if family.mixes_neighbours else 1)


def run_standard_passes(model: ir.Model, config: Any) -> dict[str, int]:
    """Runs the passes of every artefact on a traced graph, in place.

    Args:
        model: The graph of `trace_model`.
        config: transformers' config of the source model.
    Returns:
        Name of the pass → number of changed places.
    Raises:
        EdgeDistilError: As `run_passes`.
    """
    return run_passes(model, standard_passes(PassCounts.of(model, config)))


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> dict[str, int]:
    """Runs passes on a graph, in place.

    Returns:
        Name of the pass → number of changed places, without the passes that changed nothing.
    Raises:
        EdgeDistilError: A pass changed another number of places than declared, or made the weights
            larger. A supported model always has the declared places, so this is a bug or an unknown
            version of transformers, never the user's input.
    """
    counts = {}
    drop_unused(model)
    size = weight_bytes(model)
    for step in passes:
        before, count = size, step.rewrite(model)
        # Most passes change nothing in most families.
        if count:
            drop_unused(model)
            size = weight_bytes(model)
            counts[step.name] = count
        _check(step, count, before=before, after=size)
    return counts


def _check(step: Pass, count: int, *, before: int, after: int) -> None:
    """Raises EdgeDistilError unless a pass changed what it declared, and no weight grew."""
    # A silently unfused attention is the most frequent complaint about other exporters
    # (docs/decisions.md#passes-declare-their-count).
    if step.expected is not None and count != step.expected:
        raise EdgeDistilError(
            f"graph pass '{step.name}' changed {count} places, expected {step.expected}",
            hint="this version of transformers or torch traces the model differently; "
            "install the versions of constraints.txt",
        )
    # A weight that is stored twice would make every artefact larger, unnoticed.
    if after > before + _ADDED_CONSTANT_BYTES:
        raise EdgeDistilError(
            f"graph pass '{step.name}' made the weights larger: {before} → {after} bytes"
        )


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all constants in a graph: initializers and `Constant` nodes."""
    size = 0
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            size += value.const_value.nbytes
    for node in model.graph:
        if node.op_type == "Constant":
            size += node.attributes["value"].as_tensor().nbytes
    return size


def drop_unused(model: ir.Model) -> None:
    """Removes nodes and weights that no node reads, and sorts the nodes."""
    for step in (IdentityEliminationPass(), RemoveUnusedNodesPass(), TopologicalSortPass()):
        step(model)
    # A weight without a reader would still be written to the file.
    initializers = model.graph.initializers
    for name in [name for name, value in initializers.items() if not value.uses()]:
        del initializers[name]

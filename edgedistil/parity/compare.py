"""Distances between an artefact's outputs and PyTorch's on the same probes.

Pure functions over arrays. The largest difference alone is misleading: one wrong value in a row of
30,522 can be harmless, and a small one can change the prediction. So the figures are: largest and
mean absolute difference, smallest and mean cosine of an output row, mean KL divergence, the share
of decisions (tokens, labels, spans) that agree, and the concordance of a regression's values.

The head of a sequence is read as its problem type says: a choice among its classes, a yes or no for
each label (logit above or below 0), or a value for each output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError, ParityError, ShapeError
from edgedistil.core.export_records import ParityFigures, RankFigures, ReferencePart
from edgedistil.core.precision import Precision
from edgedistil.core.records import NotMeasured
from edgedistil.core.task import TASKS
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.parity.reference_error import squared_errors
from edgedistil.parity.tally import Tally, parity_figures

Array = NDArray[Any]
Outputs = Mapping[str, Array]
# A prediction that leads by less than this in PyTorch's float32 is a tie and not counted: an
# artefact within the fp32 tolerance (1e-4 on each logit) may already reverse it
# (docs/decisions.md#a-near-tie-is-not-a-decision).
TIE_MARGIN = 2e-4
# The direction of a row of a few logits means little: with one label the cosine is always 1 or -1.
COSINE_MIN_WIDTH = 8
_SPAN_OUTPUTS = ("start_logits", "end_logits")


@dataclass(frozen=True)
class Comparison:
    """Figures of one artefact.

    Attributes:
        overall: Over all probes.
        by_length: By padded length.
        largest_output: Largest absolute value among PyTorch's outputs.
        parts: Each part against PyTorch with the same roundings, if it was compared.
        ranking: Sentence vectors and their rankings, if they were compared.
        bounds: Key of the tolerances, where the arithmetic is not that of the precision.
    """

    overall: ParityFigures
    by_length: list[ParityFigures]
    largest_output: float = 0.0
    parts: list[ReferencePart] = field(default_factory=list)
    ranking: RankFigures | None = None
    bounds: str | None = None


def compare(
    probes: Probes, outputs: Iterable[Outputs], *, precision: Precision | None = None
) -> Comparison:
    """Compares outputs from any source (a session, a board, an emulator) with PyTorch's.

    Args:
        probes: The inputs that were sent, with PyTorch's outputs.
        outputs: One mapping per batch, in order: the artefact's raw outputs, or `reduce_outputs`
            of them.
        precision: Precision of the artefact, whose reference is compared too; None for none.
    Returns:
        The figures over all probes, and one row for each padded length.
    Raises:
        ShapeError: Another number of mappings than batches, or shapes that do not fit the probes.
        ModelError: An output is missing.
        ParityError: An output holds NaN or an infinity.
    """
    by_length: dict[int, Tally] = {}
    references = probes.references.get(precision, ()) if precision else ()
    compared = 0
    for batch, batch_outputs in zip(probes.batches, outputs, strict=False):
        reference = references[compared] if references else {}
        compared += 1
        tally = compare_batch(batch, batch_outputs, probes, reference)
        by_length[batch.length] = by_length.get(batch.length, Tally()) + tally
    if compared != len(probes.batches):
        raise ShapeError(f"got the outputs of {compared} batches, expected {len(probes.batches)}")

    # Sums, not means of means: lengths have different numbers of sequences.
    overall = sum(by_length.values(), Tally())
    lengths = sorted(by_length)
    all_lengths = NotMeasured(not_measured=f"all of {', '.join(map(str, lengths))}")
    return Comparison(
        overall=parity_figures(overall, length=all_lengths, task=probes.task),
        by_length=[
            parity_figures(by_length[length], length=length, task=probes.task) for length in lengths
        ],
        largest_output=overall.expected_max,
    )


def reduce_outputs(batch: ProbeBatch, outputs: Outputs) -> dict[str, Array]:
    """Selects what is compared: a few rows of the raw outputs instead of every position.

    Outputs that are already reduced pass through unchanged, so a board can send reduced ones.

    Args:
        batch: The probes that the outputs belong to.
        outputs: By output name: raw, shape (B, L, ...) or (B, ...), or reduced.
    Returns:
        By output name: shape (N, ...) at the batch's rows, or (B, ...) per sequence. For fill-mask
        also "choices", shape (M,): the most likely token at each mask.
    Raises:
        ModelError: An output is missing.
        ShapeError: An output has a shape that does not fit the probes.
    """
    reduced = {name: _select_rows(batch, name, outputs) for name in batch.outputs}
    # Masked positions outnumber the compared rows, but of each only the most likely token matters.
    if len(batch.masked_M2):
        if "choices" in outputs:
            reduced["choices"] = outputs["choices"]
        else:
            reduced["choices"] = _choices(batch, outputs["logits"])
    return reduced


def compare_batch(batch: ProbeBatch, outputs: Outputs, probes: Probes, reference: Outputs) -> Tally:
    """Compares the outputs of one batch of `probes`; raises like `compare`."""
    actual = reduce_outputs(batch, outputs)
    tally = Tally(sequences=batch.sequences)
    for name, expected in batch.outputs.items():
        # A maximum or a mean over NaN would hide how many values are affected.
        not_finite = np.count_nonzero(~np.isfinite(actual[name]))
        if not_finite:
            raise ParityError(
                f"output '{name}' holds {not_finite} values that are NaN or infinite"
                f" (batch of {batch.sequences} × {batch.length} tokens); PyTorch's are all finite",
                hint="half precision overflows above 65504: see where with export --explain",
            )
        tally += _compare_values(expected, actual[name])
        tally += _compare_cosines(expected, actual[name])
        if name in reference:
            errors = squared_errors(expected, reference[name], actual[name])
            tally += Tally(reference=errors)
    tally += _compare_distributions(batch, actual, probes)
    tally += _compare_decisions(batch, actual, probes)
    tally += _collect_regression_values(batch, actual, probes)
    return tally


# --- selection of rows ---------------------------------------------------------------------------


def _select_rows(batch: ProbeBatch, name: str, outputs: Outputs) -> Array:
    """Returns the compared rows of one output as float32, from a raw or a reduced output."""
    expected = batch.outputs[name]
    if name not in outputs:
        raise ModelError(
            f"the artefact has no output '{name}'; it has: {', '.join(outputs) or 'none'}"
        )
    output = np.asarray(outputs[name])
    # Already reduced, or an output per sequence, which has no positions to select.
    if output.shape == expected.shape:
        return output.astype(np.float32, copy=False)

    raw_shape = expected.shape
    if len(batch.rows_N2):
        raw_shape = (batch.sequences, batch.length, *expected.shape[1:])
    if output.shape != raw_shape:
        raise ShapeError(
            f"output '{name}' has the shape {output.shape},"
            f" expected {raw_shape} (or, reduced, {expected.shape})"
        )
    return output[batch.rows_N2[:, 0], batch.rows_N2[:, 1]].astype(np.float32, copy=False)


def _choices(batch: ProbeBatch, logits_BLV: Array) -> Array:
    """Most likely token at each masked position, from raw logits."""
    if logits_BLV.ndim != 3:
        raise ShapeError(
            f"reduced logits of shape {logits_BLV.shape} come without 'choices'",
            hint="use reduce_outputs",
        )
    masked_MV = logits_BLV[batch.masked_M2[:, 0], batch.masked_M2[:, 1]]
    choices_M: Array = np.argmax(masked_MV, axis=-1)
    return choices_M


# --- differences and cosines ---------------------------------------------------------------------


def _compare_values(expected: Array, actual: Array) -> Tally:
    # In float64: a float32 difference of float32 values would round away the small errors.
    difference = np.abs(expected.astype(np.float64) - actual)
    return Tally(
        values=difference.size,
        abs_sum=float(difference.sum()),
        abs_max=float(difference.max(initial=0.0)),
        expected_max=float(np.abs(expected).max(initial=0.0)),
    )


def _compare_cosines(expected: Array, actual: Array) -> Tally:
    if expected.ndim != 2 or expected.shape[1] < COSINE_MIN_WIDTH or not len(expected):
        return Tally()
    cosines_N = cosines(expected, actual)
    return Tally(
        cosine_min=float(cosines_N.min()),
        cosine_sum=float(cosines_N.sum()),
        rows=len(cosines_N),
    )


def cosines(expected_ND: Array, actual_ND: Array) -> NDArray[np.float64]:
    """Cosine of each pair of rows, shape (N,); 1 for two zero rows, 0 if only one of them is zero.

    Args:
        expected_ND: Shape (N, D), any float dtype; reduced in float64.
        actual_ND: Shape (N, D).
    """
    # In float64: in float32, 1 - cosine of equal rows is already 1e-7.
    a_ND = expected_ND.astype(np.float64)
    b_ND = actual_ND.astype(np.float64)
    norms_N = np.linalg.norm(a_ND, axis=-1) * np.linalg.norm(b_ND, axis=-1)
    # A zero row has no direction: equal zero rows count as the same, a single one as orthogonal.
    both_zero_N = ~(a_ND.any(axis=-1) | b_ND.any(axis=-1))
    dots_N = np.einsum("nd,nd->n", a_ND, b_ND)
    # np.where computes both branches, so the divisor must not be zero in either.
    safe_norms_N = np.where(norms_N > 0, norms_N, 1.0)
    cosines_N: NDArray[np.float64] = np.where(norms_N > 0, dots_N / safe_norms_N, both_zero_N)
    return np.clip(cosines_N, -1.0, 1.0)


# --- distributions -------------------------------------------------------------------------------


def _compare_distributions(batch: ProbeBatch, actual: Outputs, probes: Probes) -> Tally:
    pairs: list[tuple[Array, Array]] = []
    if TASKS[probes.task].level == "span":
        # A span's distribution is over the attended positions of one sequence.
        for name in _SPAN_OUTPUTS:
            for _, expected_L, actual_L in _span_rows(batch, actual, name):
                pairs.append((expected_L[None], actual_L[None]))
    elif _has_classes(batch, probes):
        pairs.append((_class_logits(batch.outputs, probes), _class_logits(actual, probes)))
    divergences = [kl_nats(expected_NV, actual_NV) for expected_NV, actual_NV in pairs]
    return Tally(
        distributions=sum(len(divergence_N) for divergence_N in divergences),
        kl_sum=float(sum(divergence_N.sum() for divergence_N in divergences)),
    )


def _has_classes(batch: ProbeBatch, probes: Probes) -> bool:
    """Whether the output is a choice among classes or tokens, or a yes or no for each label."""
    if "logits" not in batch.outputs or probes.problem_type == "regression":
        return False
    # One logit decides only where it is a yes or no.
    is_multi_label = probes.problem_type == "multi_label_classification"
    return is_multi_label or batch.outputs["logits"].shape[1] > 1


def _class_logits(outputs: Outputs, probes: Probes) -> Array:
    """Logits of each decision, shape (decisions, classes); of a label, those of no and yes."""
    logits_NC = outputs["logits"]
    if probes.problem_type != "multi_label_classification":
        return logits_NC
    # softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)).
    yes_M = logits_NC.reshape(-1)
    return np.stack([np.zeros_like(yes_M), yes_M], axis=-1)


def kl_nats(expected_NV: Array, actual_NV: Array) -> NDArray[np.float64]:
    """KL(softmax(expected) ‖ softmax(actual)) of each row, in nats, >= 0.

    Args:
        expected_NV: Logits, shape (N, V), any float dtype; reduced in float64.
        actual_NV: Logits, shape (N, V).
    """
    log_p_NV = _log_softmax(expected_NV)
    log_q_NV = _log_softmax(actual_NV)
    divergence_N = (np.exp(log_p_NV) * (log_p_NV - log_q_NV)).sum(axis=-1)
    # Rounding can leave a small negative sum for equal distributions.
    clipped_N: NDArray[np.float64] = np.maximum(divergence_N, 0.0)
    return clipped_N


def _log_softmax(logits_NV: Array) -> NDArray[np.float64]:
    # Shifted by the maximum, so that exp cannot overflow.
    shifted_NV = logits_NV.astype(np.float64) - logits_NV.max(axis=-1, keepdims=True)
    normalizer_N1 = np.log(np.exp(shifted_NV).sum(axis=-1, keepdims=True))
    log_softmax_NV: NDArray[np.float64] = shifted_NV - normalizer_N1
    return log_softmax_NV


# --- regression ----------------------------------------------------------------------------------


def _collect_regression_values(batch: ProbeBatch, actual: Outputs, probes: Probes) -> Tally:
    is_sequence = TASKS[probes.task].level == "sequence" and "logits" in batch.outputs
    if not is_sequence or _has_classes(batch, probes):
        return Tally()
    pairs_N2K = np.stack([batch.outputs["logits"], actual["logits"]], axis=1).astype(np.float64)
    pairs = [(tuple(expected), tuple(got)) for expected, got in pairs_N2K.tolist()]
    return Tally(value_pairs=tuple(pairs))


# --- decisions -----------------------------------------------------------------------------------


def _compare_decisions(batch: ProbeBatch, actual: Outputs, probes: Probes) -> Tally:
    # `counts`: decisions that are not a tie in PyTorch; `agrees`: those that are the same.
    level = TASKS[probes.task].level
    if level == "vocabulary":
        counts = batch.margins_M >= TIE_MARGIN
        agrees = batch.choices_M == actual["choices"]
    elif level == "span":
        counts, agrees = _compare_spans(batch, actual)
    elif _has_classes(batch, probes):
        expected_NC, actual_NC = _class_logits(batch.outputs, probes), _class_logits(actual, probes)
        counts = margins(expected_NC) >= TIE_MARGIN
        agrees = expected_NC.argmax(axis=-1) == actual_NC.argmax(axis=-1)
    else:
        return Tally()
    return Tally(decisions=int(counts.sum()), agreed=int((counts & agrees).sum()))


def margins(logits_NV: Array) -> Array:
    """Difference between the largest and the second largest value of each row, shape (N,)."""
    # partition, not sort: a row has tens of thousands of values.
    top_N2 = np.partition(logits_NV, -2, axis=-1)[:, -2:]
    margins_N: Array = top_N2[:, 1] - top_N2[:, 0]
    return margins_N


def _compare_spans(batch: ProbeBatch, actual: Outputs) -> tuple[Array, Array]:
    """Which spans count, and which agree; both ends must, shapes (B,)."""
    counts_B = np.ones(batch.sequences, dtype=bool)
    agrees_B = np.ones(batch.sequences, dtype=bool)
    for name in _SPAN_OUTPUTS:
        for sequence, expected_L, actual_L in _span_rows(batch, actual, name):
            counts_B[sequence] &= margins(expected_L[None])[0] >= TIE_MARGIN
            agrees_B[sequence] &= expected_L.argmax() == actual_L.argmax()
    return counts_B, agrees_B


def _span_rows(batch: ProbeBatch, actual: Outputs, name: str) -> Iterator[tuple[int, Array, Array]]:
    """(sequence, PyTorch's, the artefact's) logits over the sequence's attended positions."""
    for sequence in range(batch.sequences):
        of_sequence_N = batch.rows_N2[:, 0] == sequence
        yield sequence, batch.outputs[name][of_sequence_N], actual[name][of_sequence_N]

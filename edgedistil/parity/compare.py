"""How far an artefact's answers are from PyTorch's on the same probes. Pure functions over arrays.

The largest difference alone misleads: one far-off value in a row of 30,522 can be harmless, and a small one can turn
the answer. So six figures are taken: largest and mean absolute difference, smallest and mean cosine of an output row,
mean KL divergence, and the share of decisions (words, labels, spans) that stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError, ParityError, ShapeError
from edgedistil.core.records import Count, Figure, NotMeasured, ParityFigures
from edgedistil.core.task import TASKS, Task
from edgedistil.parity.probes import ProbeBatch, Probes

Array = NDArray[Any]
Outputs = Mapping[str, Array]

# A word that leads by less than this in PyTorch's float32 is no decision that an artefact has to keep: an artefact
# within the fp32 tolerance (1e-4 on each logit) may already turn it.
TIE_MARGIN = 2e-4
# A cosine needs a direction: rows of a few logits have none worth the name (one label: always 1 or -1).
COSINE_MIN_WIDTH = 8
MIN_VALUES = 8
_NO_DIRECTION = "rows of few values have no direction"


@dataclass(frozen=True)
class Comparison:
    """`overall` and by padded length."""

    overall: ParityFigures
    by_length: list[ParityFigures]


@dataclass(frozen=True)
class Tally:
    """Sums that add up over batches; `figures` turns them into a row."""

    sequences: int = 0
    values: int = 0
    abs_sum: float = 0.0
    abs_max: float = 0.0
    cosine_min: float = np.inf
    cosine_sum: float = 0.0
    rows: int = 0
    distributions: int = 0
    kl_sum: float = 0.0
    decisions: int = 0
    agreed: int = 0
    pairs: tuple[
        tuple[float, float], ...
    ] = ()  # PyTorch's and the artefact's value, where the answer is one value

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            sequences=self.sequences + other.sequences,
            values=self.values + other.values,
            abs_sum=self.abs_sum + other.abs_sum,
            abs_max=max(self.abs_max, other.abs_max),
            cosine_min=min(self.cosine_min, other.cosine_min),
            cosine_sum=self.cosine_sum + other.cosine_sum,
            rows=self.rows + other.rows,
            distributions=self.distributions + other.distributions,
            kl_sum=self.kl_sum + other.kl_sum,
            decisions=self.decisions + other.decisions,
            agreed=self.agreed + other.agreed,
            pairs=self.pairs + other.pairs,
        )


def compare_outputs(probes: Probes, outputs: Iterable[Outputs]) -> ParityFigures:
    """The figures over all probes of outputs that come from anywhere: a session here, a board, an emulator.

    Args:
        probes: What was sent.
        outputs: One mapping a batch, in order: the artefact's outputs as they are, or what `reduce_outputs` keeps.
    Raises:
        ShapeError: Not one mapping a batch, or shapes that do not fit the probes.
        ModelError: An output is missing.
        ParityError: An output holds NaN or an infinity.
    """
    return compare(probes, outputs).overall


def compare(probes: Probes, outputs: Iterable[Outputs]) -> Comparison:
    """As `compare_outputs`, with a row for every padded length beside the overall one."""
    by_length: dict[int, Tally] = {}
    given = 0
    for batch, answer in zip(probes.batches, outputs, strict=False):
        given += 1
        tally = compare_batch(batch, answer, task=probes.task)
        by_length[batch.length] = by_length.get(batch.length, Tally()) + tally
    if given != len(probes.batches):
        raise ShapeError(f"got the outputs of {given} batches, expected {len(probes.batches)}")
    overall = sum(by_length.values(), Tally())
    everything = NotMeasured(
        not_measured=f"all of {', '.join(str(length) for length in sorted(by_length))}"
    )
    return Comparison(
        overall=figures(overall, length=everything, task=probes.task),
        by_length=[
            figures(by_length[length], length=length, task=probes.task)
            for length in sorted(by_length)
        ],
    )


def reduce_outputs(batch: ProbeBatch, outputs: Outputs) -> dict[str, Array]:
    """What is compared of an artefact's raw outputs: a few rows instead of every position, so that it travels well.

    Reduced outputs pass through unchanged.

    Raises:
        ModelError: An output is missing.
        ShapeError: An output has another shape than the probes ask for.
    """
    reduced = {name: _compared_rows(batch, name, outputs) for name in batch.outputs}
    if len(batch.masked_M2):
        reduced["choices"] = (
            outputs["choices"] if "choices" in outputs else _choices(batch, outputs["logits"])
        )
    return reduced


def compare_batch(batch: ProbeBatch, outputs: Outputs, *, task: Task) -> Tally:
    """The tally of one batch."""
    got = reduce_outputs(batch, outputs)
    tally = Tally(sequences=batch.sequences)
    for name, expected in batch.outputs.items():
        if not np.isfinite(got[name]).all():
            raise ParityError(
                f"output '{name}' holds {np.count_nonzero(~np.isfinite(got[name]))} values that are NaN or infinite"
                f" (batch of {batch.sequences} × {batch.length} tokens); PyTorch's are all finite",
                hint="half precision overflows above 65504: see where with export --explain",
            )
        tally += _values(expected, got[name])
    return (
        tally
        + _distributions(batch, got, task)
        + _decisions(batch, got, task)
        + _one_value(batch, got, task)
    )


def figures(tally: Tally, *, length: Count, task: Task) -> ParityFigures:
    """A tally as a record; what the task has no notion of is absent with its reason."""
    return ParityFigures(
        sequences=tally.sequences,
        length=length,
        max_abs=tally.abs_max,
        mean_abs=tally.abs_sum / tally.values,
        cosine_min=_or_absent(tally.cosine_min, tally.rows > 0, _NO_DIRECTION),
        cosine_mean=_or_absent(
            tally.cosine_sum / max(tally.rows, 1), tally.rows > 0, _NO_DIRECTION
        ),
        kl_nats=_or_absent(
            tally.kl_sum / max(tally.distributions, 1),
            tally.distributions > 0,
            f"{task}: no distribution",
        ),
        agreement=_or_absent(
            tally.agreed / max(tally.decisions, 1),
            tally.decisions > 0,
            f"{task}: nothing is decided",
        ),
        decisions=tally.decisions,
        concordance=_concordance(tally.pairs),
    )


def _concordance(pairs: Sequence[tuple[float, float]]) -> Figure:
    """Lin 1989: 2 cov / (var + var + (difference of means)²). Pearson's would forgive values that are all doubled."""
    if len(pairs) < MIN_VALUES:
        return NotMeasured(
            not_measured=f"{len(pairs)} single values; their concordance needs {MIN_VALUES}"
        )
    ours_N, theirs_N = np.array(pairs).T
    apart = ours_N.var() + theirs_N.var() + (ours_N.mean() - theirs_N.mean()) ** 2
    together = 2 * np.mean((ours_N - ours_N.mean()) * (theirs_N - theirs_N.mean()))
    return (
        float(together / apart) if apart > 0 else 1.0
    )  # 0: both say one value throughout, and the same


def _or_absent(value: float, is_there: bool | np.bool_, reason: str) -> Figure:
    return float(value) if is_there else NotMeasured(not_measured=reason)


# --- picking -------------------------------------------------------------------------------------


def _compared_rows(batch: ProbeBatch, name: str, outputs: Outputs) -> Array:
    expected = batch.outputs[name]
    if name not in outputs:
        raise ModelError(
            f"the artefact has no output '{name}'; it has: {', '.join(outputs) or 'none'}"
        )
    got = np.asarray(outputs[name])
    if got.shape == expected.shape:
        return got.astype(np.float32, copy=False)
    whole = (
        (batch.sequences, batch.length, *expected.shape[1:])
        if len(batch.rows_N2)
        else expected.shape
    )
    if got.shape != whole:
        raise ShapeError(
            f"output '{name}' has the shape {got.shape}, expected {whole} (or, reduced, {expected.shape})"
        )
    return got[batch.rows_N2[:, 0], batch.rows_N2[:, 1]].astype(np.float32, copy=False)


def _choices(batch: ProbeBatch, logits_BLV: Array) -> Array:
    if logits_BLV.ndim != 3:
        raise ShapeError(
            f"reduced logits of shape {logits_BLV.shape} come without 'choices'",
            hint="use reduce_outputs",
        )
    picked_MV = logits_BLV[batch.masked_M2[:, 0], batch.masked_M2[:, 1]]
    choices: Array = np.argmax(picked_MV, axis=-1)
    return choices


# --- figures -------------------------------------------------------------------------------------


def _values(expected: Array, got: Array) -> Tally:
    difference = np.abs(expected.astype(np.float64) - got)
    tally = Tally(
        values=difference.size,
        abs_sum=float(difference.sum()),
        abs_max=float(difference.max(initial=0.0)),
    )
    if expected.ndim == 2 and expected.shape[1] >= COSINE_MIN_WIDTH and len(expected):
        found_N = cosines(expected, got)
        tally = replace(
            tally,
            cosine_min=float(found_N.min()),
            cosine_sum=float(found_N.sum()),
            rows=len(found_N),
        )
    return tally


def cosines(expected_ND: Array, got_ND: Array) -> NDArray[np.float64]:
    """Cosine of each pair of rows; 1 for two zero rows, 0 when only one of them is zero."""
    a_ND, b_ND = expected_ND.astype(np.float64), got_ND.astype(np.float64)
    norms_N = np.linalg.norm(a_ND, axis=-1) * np.linalg.norm(b_ND, axis=-1)
    both_zero_N = ~(a_ND.any(axis=-1) | b_ND.any(axis=-1))
    dots_N = np.einsum("nd,nd->n", a_ND, b_ND)
    result: NDArray[np.float64] = np.where(
        norms_N > 0, dots_N / np.where(norms_N > 0, norms_N, 1.0), both_zero_N
    )
    return np.clip(result, -1.0, 1.0)


def kl_nats(expected_NV: Array, got_NV: Array) -> NDArray[np.float64]:
    """KL(softmax(expected) ‖ softmax(got)) of each row, in nats, >= 0."""
    log_p_NV, log_q_NV = _log_softmax(expected_NV), _log_softmax(got_NV)
    result: NDArray[np.float64] = np.maximum(
        (np.exp(log_p_NV) * (log_p_NV - log_q_NV)).sum(axis=-1), 0.0
    )
    return result


def _log_softmax(logits_NV: Array) -> NDArray[np.float64]:
    shifted_NV = logits_NV.astype(np.float64) - logits_NV.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted_NV - np.log(
        np.exp(shifted_NV).sum(axis=-1, keepdims=True)
    )
    return result


def _distributions(batch: ProbeBatch, got: Outputs, task: Task) -> Tally:
    if TASKS[task].level == "span":
        pairs = [
            (expected[None], answered[None])
            for name in ("start_logits", "end_logits")
            for expected, answered in zip(
                _by_sequence(batch, batch.outputs[name]),
                _by_sequence(batch, got[name]),
                strict=True,
            )
        ]
    elif "logits" in batch.outputs and batch.outputs["logits"].shape[1] > 1:
        pairs = [(batch.outputs["logits"], got["logits"])]
    else:
        return Tally()
    divergences = [kl_nats(expected, answered) for expected, answered in pairs]
    return Tally(
        distributions=sum(len(d) for d in divergences),
        kl_sum=float(sum(d.sum() for d in divergences)),
    )


def _one_value(batch: ProbeBatch, got: Outputs, task: Task) -> Tally:
    if not answers_one_value(batch, task):
        return Tally()
    expected_N, got_N = (each["logits"][:, 0].astype(np.float64) for each in (batch.outputs, got))
    return Tally(pairs=tuple(zip(expected_N.tolist(), got_N.tolist(), strict=True)))


def answers_one_value(batch: ProbeBatch, task: Task) -> bool:
    """Whether the answer is a value, as a regression's is: nothing is chosen, and nothing is distributed."""
    return (
        TASKS[task].level == "sequence"
        and "logits" in batch.outputs
        and batch.outputs["logits"].shape[1] == 1
    )


def _decisions(batch: ProbeBatch, got: Outputs, task: Task) -> Tally:
    if TASKS[task].level == "vocabulary":
        counts = batch.margins_M >= TIE_MARGIN
        agrees = batch.choices_M == got["choices"]
    elif TASKS[task].level == "span":
        counts, agrees = _spans(batch, got)
    elif "logits" in batch.outputs and batch.outputs["logits"].shape[1] > 1:
        expected = batch.outputs["logits"]
        counts = margins(expected) >= TIE_MARGIN
        agrees = expected.argmax(axis=-1) == got["logits"].argmax(axis=-1)
    else:
        return Tally()
    return Tally(decisions=int(counts.sum()), agreed=int((counts & agrees).sum()))


def margins(logits_NV: Array) -> Array:
    """By how much the largest value of each row leads the second largest."""
    top_N2 = np.partition(logits_NV, -2, axis=-1)[:, -2:]
    result: Array = top_N2[:, 1] - top_N2[:, 0]
    return result


def _spans(batch: ProbeBatch, got: Outputs) -> tuple[Array, Array]:
    counts = np.ones(batch.sequences, dtype=bool)
    agrees = np.ones(batch.sequences, dtype=bool)
    for name in ("start_logits", "end_logits"):
        rows = zip(
            _by_sequence(batch, batch.outputs[name]), _by_sequence(batch, got[name]), strict=True
        )
        for sequence, (expected, answered) in enumerate(rows):
            counts[sequence] &= margins(expected[None])[0] >= TIE_MARGIN
            agrees[sequence] &= expected.argmax() == answered.argmax()
    return counts, agrees


def _by_sequence(batch: ProbeBatch, rows_N: Array) -> Sequence[Array]:
    """The compared rows of each sequence; for spans these are its attended positions."""
    return [rows_N[batch.rows_N2[:, 0] == sequence] for sequence in range(batch.sequences)]

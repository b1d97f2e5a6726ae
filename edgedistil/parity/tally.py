"""Sums over the compared outputs, and the figures that they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.export_records import ParityFigures
from edgedistil.core.records import Count, Figure, NotMeasured
from edgedistil.core.task import Task
from edgedistil.parity.reference_error import SquaredErrors

Array = NDArray[Any]
# PyTorch's and the artefact's values of one sequence, one for each output.
ValuePair = tuple[tuple[float, ...], tuple[float, ...]]

# A correlation of fewer values says nothing.
CONCORDANCE_MIN_VALUES = 8
# A share of fewer output values is decided by one of them: 1.9 was measured over three values of
# a correct artefact (docs/log.md#parts-against-the-same-roundings).
REFERENCE_MIN_VALUES = 32
_NO_DIRECTION = "rows of few values have no direction"


@dataclass(frozen=True)
class Tally:
    """Sums over batches, which `parity_figures` turns into figures.

    Attributes:
        sequences: Sequences compared.
        values: Output values compared.
        abs_sum: Sum of the absolute differences.
        abs_max: Largest absolute difference.
        expected_max: Largest absolute value that was expected.
        cosine_min: Smallest cosine of a row.
        cosine_sum: Sum of the cosines of `rows` rows.
        rows: Rows that have a cosine.
        distributions: Distributions compared.
        kl_sum: Sum of their KL divergences, in nats.
        decisions: Decisions that count.
        agreed: Decisions that are the same.
        value_pairs: (PyTorch's, the artefact's) values of each sequence of a regression.
        reference: Error against PyTorch with the same roundings.
    """

    sequences: int = 0
    values: int = 0
    abs_sum: float = 0.0
    abs_max: float = 0.0
    expected_max: float = 0.0
    cosine_min: float = np.inf
    cosine_sum: float = 0.0
    rows: int = 0
    distributions: int = 0
    kl_sum: float = 0.0
    decisions: int = 0
    agreed: int = 0
    value_pairs: tuple[ValuePair, ...] = ()
    reference: SquaredErrors | None = None

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            sequences=self.sequences + other.sequences,
            values=self.values + other.values,
            abs_sum=self.abs_sum + other.abs_sum,
            abs_max=max(self.abs_max, other.abs_max),
            expected_max=max(self.expected_max, other.expected_max),
            cosine_min=min(self.cosine_min, other.cosine_min),
            cosine_sum=self.cosine_sum + other.cosine_sum,
            rows=self.rows + other.rows,
            distributions=self.distributions + other.distributions,
            kl_sum=self.kl_sum + other.kl_sum,
            decisions=self.decisions + other.decisions,
            agreed=self.agreed + other.agreed,
            value_pairs=self.value_pairs + other.value_pairs,
            reference=_sum_of(self.reference, other.reference),
        )


def _sum_of(a: SquaredErrors | None, b: SquaredErrors | None) -> SquaredErrors | None:
    if a is None or b is None:
        return a or b
    return a + b


def parity_figures(tally: Tally, *, length: Count, task: Task) -> ParityFigures:
    """Turns sums into figures; those that a task does not have are absent, with the reason.

    Args:
        tally: Sums over at least one batch.
        length: Padded length of the batches, or why there are several.
        task: Task of the probes; named in the reasons.
    """
    # max(…, 1) only guards the division: a figure over nothing is replaced by its reason below.
    cosine_mean = tally.cosine_sum / max(tally.rows, 1)
    mean_kl = tally.kl_sum / max(tally.distributions, 1)
    agreement = tally.agreed / max(tally.decisions, 1)
    return ParityFigures(
        sequences=tally.sequences,
        length=length,
        max_abs=tally.abs_max,
        mean_abs=tally.abs_sum / tally.values,
        cosine_min=_figure_if(tally.rows > 0, tally.cosine_min, _NO_DIRECTION),
        cosine_mean=_figure_if(tally.rows > 0, cosine_mean, _NO_DIRECTION),
        kl_nats=_figure_if(tally.distributions > 0, mean_kl, f"{task}: no distribution"),
        agreement=_figure_if(tally.decisions > 0, agreement, f"{task}: nothing is decided"),
        decisions=tally.decisions,
        concordance=_concordance(tally.value_pairs),
        reference_share=_reference_share(tally),
    )


def _reference_share(tally: Tally) -> Figure:
    if tally.reference is None:
        return NotMeasured(not_measured="no reference with the same roundings")
    if tally.values < REFERENCE_MIN_VALUES:
        return NotMeasured(
            not_measured=f"{tally.values} values; a share of their errors needs"
            f" {REFERENCE_MIN_VALUES}"
        )
    return tally.reference.share


def _figure_if(is_measured: bool, value: float, reason: str) -> Figure:
    if is_measured:
        return float(value)
    return NotMeasured(not_measured=reason)


def _concordance(pairs: Sequence[ValuePair]) -> Figure:
    """Smallest concordance of an output: 2 cov / (var + var + (difference of means)²).

    Pearson's correlation would accept values that are all doubled
    (docs/log.md#scoring-a-regressions-artefact). Source: Lin 1989, Biometrics 45.
    """
    if len(pairs) < CONCORDANCE_MIN_VALUES:
        return NotMeasured(
            not_measured=f"{len(pairs)} single values;"
            f" their concordance needs {CONCORDANCE_MIN_VALUES}"
        )
    # Each output by itself: over all of them, differences between the outputs would hide errors.
    expected_KN, actual_KN = np.array(pairs).transpose(1, 2, 0)
    return min(_output_concordance(*output) for output in zip(expected_KN, actual_KN, strict=True))


def _output_concordance(expected_N: Array, actual_N: Array) -> float:
    # Population variances (ddof 0), as in the paper.
    mean_difference = expected_N.mean() - actual_N.mean()
    scale = expected_N.var() + actual_N.var() + mean_difference**2
    if not scale > 0:  # both are the same constant
        return 1.0
    covariance = np.mean((expected_N - expected_N.mean()) * (actual_N - actual_N.mean()))
    return float(2 * covariance / scale)

"""Predicted times of candidates, scaled by those of candidates that were measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edgedistil.core.precision import Precision
from edgedistil.core.records import Band
from edgedistil.core.search_records import Budget, Candidate
from edgedistil.costmodel.calibration import MIN_SPREAD
from edgedistil.search.candidates import with_latency

# Fewest measured candidates of a precision that show how much its predictions are off.
FEWEST_MEASURED = 3
# Share of candidates whose time is inside its scaled band.
LEVEL = 0.9


@dataclass(frozen=True)
class Scale:
    """How measured times of a precision compare with the predicted ones.

    Attributes:
        precision: The precision.
        factor: Measured time over the middle of the predicted band, geometric mean.
        log_step: Half the width of the scaled bands, as a logarithm.
        count: Candidates that were measured.
    """

    precision: Precision
    factor: float
    log_step: float
    count: int

    def describe(self) -> str:
        """States the scale for the terminal and the record."""
        return (
            f"{self.precision}: predicted times scaled by {self.factor:.2f} (to a factor of "
            f"{math.exp(self.log_step):.2f}), from {self.count} measured candidates"
        )


def find_scales(pairs: Sequence[tuple[Candidate, Candidate]]) -> list[Scale]:
    """Returns the scale of each precision with enough measured candidates.

    Args:
        pairs: Candidates as predicted and as measured.
    """
    logs: dict[Precision, list[float]] = {}
    for predicted, measured in pairs:
        ratio = measured.latency_ms.low / _middle(predicted.latency_ms)
        logs.setdefault(predicted.precision, []).append(math.log(ratio))
    scales = []
    for precision, of_precision in logs.items():
        if len(of_precision) >= FEWEST_MEASURED:
            center = math.exp(statistics.mean(of_precision))
            scales.append(Scale(precision, center, _log_step(of_precision), len(of_precision)))
    return scales


def _log_step(logs: Sequence[float]) -> float:
    """Half the width of an interval for one more candidate, as a logarithm: Student's t."""
    # Half a second, which a search without measurements does not need.
    from scipy import stats

    count = len(logs)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    return quantile * statistics.stdev(logs) * math.sqrt(1 + 1 / count)


def scale_times(
    candidates: Sequence[Candidate], scales: Sequence[Scale], budget: Budget
) -> list[Candidate]:
    """Returns the candidates, those that were not measured with scaled bands and new verdicts."""
    by_precision = {scale.precision: scale for scale in scales}
    scaled = []
    for candidate in candidates:
        scale = by_precision.get(candidate.precision)
        if candidate.is_measured or scale is None:
            scaled.append(candidate)
        else:
            scaled.append(with_latency(candidate, _scaled(candidate.latency_ms, scale), budget))
    return scaled


def _scaled(band: Band, scale: Scale) -> Band:
    middle = _middle(band) * scale.factor
    # Never wider than the prediction, whose error has the same causes and more.
    widest = math.sqrt(band.high / band.low)
    step = min(widest, max(math.sqrt(MIN_SPREAD), math.exp(scale.log_step)))
    return Band(low=middle / step, high=middle * step)


def _middle(band: Band) -> float:
    return math.sqrt(band.low * band.high)

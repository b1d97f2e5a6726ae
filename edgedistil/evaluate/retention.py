"""Medians over seeds, what a student keeps of its teacher's score, and how sure that is.

The interval is a paired bootstrap: each resample draws dev examples, the same for both models, and seeds, and takes the
median over the drawn seeds. With one seed it holds the dev set's noise alone, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.records import Figure, NotMeasured
from edgedistil.evaluate.metrics import Floats, resampled_scores

Ints = NDArray[np.int64]

RESAMPLES = 1000
LEVEL = 0.95
_SEED = 20191002  # of the bootstrap itself: the same interval each time


@dataclass(frozen=True)
class Predictions:
    """What one model said about the dev set, by seed. A span task has per-question scores as `predictions`."""

    metric: str
    labels: Floats
    by_seed: Mapping[int, Floats]
    is_span: bool = False

    def resampled(self, seed: int, draws_RN: Ints) -> Floats:
        if self.is_span:
            return np.asarray(self.by_seed[seed][draws_RN].mean(axis=1))
        return resampled_scores(self.metric, self.labels, self.by_seed[seed], draws_RN)


@dataclass(frozen=True)
class Interval:
    low: Figure
    high: Figure


@dataclass(frozen=True)
class Kept:
    """A student against its teacher on one task."""

    retention: Figure
    retention_interval: Interval
    above_floor: Figure
    above_floor_interval: Interval
    interval: str


def what_is_kept(
    teacher: Predictions,
    student: Predictions,
    *,
    teacher_median: float,
    student_median: float,
    floor: float,
    constant: float,
) -> Kept:
    """Retention, plain and above the floor, with intervals.

        retention = student / teacher,   above floor = (student - floor) / (teacher - floor)

    Args:
        floor: Score of the constant prediction on the dev set.
        constant: The constant prediction itself; its score is taken anew on every resample. Spans have none.
    """
    resamples = _Resamples(len(teacher.labels), teacher, student)
    student_R, teacher_R = resamples.medians(student), resamples.medians(teacher)
    floor_R = resamples.floors(teacher, constant)
    return Kept(
        retention=_ratio(student_median, teacher_median),
        retention_interval=_interval(student_R, teacher_R),
        above_floor=_ratio(student_median - floor, teacher_median - floor),
        above_floor_interval=_interval(student_R - floor_R, teacher_R - floor_R),
        interval=resamples.described,
    )


def change(full: Sequence[Predictions], varied: Sequence[Predictions]) -> tuple[Floats, str]:
    """Resampled changes of the mean over tasks: varied - full, both by the same examples and seeds; shape (R,)."""
    total = np.zeros(RESAMPLES)
    described = ""
    for before, after in zip(full, varied, strict=True):
        resamples = _Resamples(len(before.labels), before, after)
        total += resamples.medians(after) - resamples.medians(before)
        described = resamples.described
    return total / len(full), described


def bounds(values_R: Floats) -> tuple[float, float]:
    """The interval of LEVEL: observed values, not interpolated ones."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


class _Resamples:
    def __init__(self, examples: int, first: Predictions, second: Predictions) -> None:
        generator = np.random.default_rng(_SEED)
        self._draws_RN = generator.integers(
            0, examples, size=(RESAMPLES, examples), dtype=np.int32
        ).astype(np.int64)
        self._seeds = sorted(set(first.by_seed) & set(second.by_seed))
        self._pairs_seeds = len(self._seeds) > 0
        count = len(self._seeds) or min(len(first.by_seed), len(second.by_seed))
        self._chosen_RS = generator.integers(0, count, size=(RESAMPLES, count))
        what = (
            f"dev examples and {count} seeds"
            if count > 1
            else "dev examples (one seed: its noise is not in it)"
        )
        self.described = f"{LEVEL:.0%}, {RESAMPLES} paired resamples of {what}"

    def medians(self, model: Predictions) -> Floats:
        """Median over the drawn seeds of the metric on the drawn examples, for each resample."""
        seeds = (
            self._seeds if self._pairs_seeds else sorted(model.by_seed)[: self._chosen_RS.shape[1]]
        )
        scores_SR = np.stack([model.resampled(seed, self._draws_RN) for seed in seeds])
        return np.asarray(
            np.median(np.take_along_axis(scores_SR.T, self._chosen_RS, axis=1), axis=1)
        )

    def floors(self, model: Predictions, constant: float) -> Floats:
        if model.is_span:
            return np.zeros(RESAMPLES)
        return resampled_scores(
            model.metric, model.labels, np.full(len(model.labels), constant), self._draws_RN
        )


def _ratio(over: float, under: float) -> Figure:
    if under <= 0:
        return NotMeasured(not_measured="the teacher does not score above the constant prediction")
    return over / under


def _interval(over_R: Floats, under_R: Floats) -> Interval:
    if float(np.mean(under_R <= 0)) > (1 - LEVEL) / 2:
        why = NotMeasured(
            not_measured="the teacher is not above the constant prediction by more than the noise"
        )
        return Interval(why, why)
    usable = under_R > 0
    return Interval(*bounds(over_R[usable] / under_R[usable]))

"""Figures, differences and rule of benchmarks/table4/README.md, from the records of table4.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from value_data import Ints
from value_scores import (
    DRAWN_TASKS,
    Record,
    TextScores,
    few_label_scores,
    mean_of,
    of_seeds_alone,
    paired,
    paired_noise,
)

from edgedistil.ablate import PAPER_CHANGES
from edgedistil.evaluate.retention import LEVEL, Interval, t_interval

SEEDS = range(56, 61)
FULL, UNDISTILLED = "full", "undistilled"
# Variation → changed keys. Those of the paper change one.
VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    FULL: {},
    "no-soft-target": {"loss.soft_target": 0.0},
    "no-cosine": {"loss.cosine": 0.0},
    "no-mlm": {"loss.mlm": 0.0},
    "random-init": {"student.init": "random"},
    "words-only": {"loss.soft_target": 0.0, "loss.cosine": 0.0},
}


# Task → group of each judged text.
Groups = Mapping[str, Ints]


@dataclass(frozen=True)
class Figure:
    """A figure of a student.

    Attributes:
        name: Name on the page.
        scores: Returns the scores of a variation's records, in their order, from these and the
            groups of judged texts by task.
        sign: 1 where more is better, −1 where less is.
        key: Name among the held-out figures; None for few-label accuracy.
    """

    name: str
    scores: Callable[[Sequence[Record], Groups], TextScores]
    sign: int = 1
    key: str | None = None


def _few_labels(records: Sequence[Record], groups: Groups) -> TextScores:
    return mean_of([few_label_scores(records, task, groups.get(task)) for task in DRAWN_TASKS])


def _heldout(key: str, name: str, *, sign: int = 1) -> Figure:
    """A held-out figure: a mean over masked tokens that all students of a seed share."""

    def scores(records: Sequence[Record], _: Groups) -> TextScores:
        return of_seeds_alone(np.array([record[key] for record in records]))

    return Figure(name, scores, sign, key)


FEW_LABEL_ACCURACY = Figure("few labels, accuracy", _few_labels)
HELDOUT = (
    _heldout("agreement", "agreement"),
    _heldout("kl_nats", "KL, nats", sign=-1),
    _heldout("top1_hidden", "top-1 at [MASK]"),
)
FIGURES = (FEW_LABEL_ACCURACY, *HELDOUT)

# Variation → seed → record.
Records = Mapping[str, Mapping[int, Record]]


# --- comparison ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One variation minus another in one figure.

    Attributes:
        value: The difference.
        interval: Its interval, which one seed does not give.
        seeds: Number of seeds that both variations have.
    """

    value: float
    interval: Interval
    seeds: int

    @property
    def raw(self) -> dict[str, Any]:
        """Seeds, value and bounds before any rounding."""
        bounds = {"low": self.interval.low, "high": self.interval.high}
        return {"seeds": self.seeds, "is": self.value, **bounds}

    def outcome(self, sign: float) -> str:
        """Returns on which side of 0 the interval is, relative to the paper's sign."""
        if self.seeds < len(SEEDS):
            return "no verdict"
        bounds = (self.interval.low, self.interval.high)
        low, high = sorted(sign * bound for bound in bounds if isinstance(bound, float))
        if low > 0:
            return "reproduced"
        return "contradicted" if high < 0 else "inconclusive"


@dataclass
class Comparison:
    """Variations by their records.

    Attributes:
        records: The records.
        groups: Groups of the judged texts; where one is missing, each text is alone.
    """

    records: Records
    groups: Groups = field(default_factory=dict)
    _scores: dict[tuple[str, str], TextScores] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Variations that have records, in the order of the page."""
        return [name for name in (*VARIATIONS, UNDISTILLED) if name in self.records]

    def seeds(self, name: str) -> list[int]:
        """Seeds of a variation, in the order of its scores."""
        return sorted(self.records[name])

    def scores(self, name: str, figure: Figure) -> TextScores:
        """Scores of a variation, one for each seed."""
        key = (name, figure.name)
        # Resampling takes seconds, and a variation is in several differences.
        if key not in self._scores:
            by_seed = self.records[name]
            records = [by_seed[seed] for seed in self.seeds(name)]
            self._scores[key] = figure.scores(records, self.groups)
        return self._scores[key]

    def difference(self, name: str, other: str, figure: Figure) -> Difference:
        """Compares two variations by a figure, paired over the seeds that both have."""
        shared = sorted(set(self.seeds(name)) & set(self.seeds(other)))
        if not shared:
            raise SystemExit(f"{name} and {other} have no seed in common")
        of_name, of_other = (
            _of_seeds(self.scores(one, figure), [self.seeds(one).index(seed) for seed in shared])
            for one in (name, other)
        )
        differences = paired(of_name, of_other)
        interval = t_interval(differences.mean, paired_noise(differences), level=LEVEL)
        return Difference(differences.mean, interval, len(shared))


def _of_seeds(scores: TextScores, places: Sequence[int]) -> TextScores:
    return TextScores(
        scores.complete_S[places],
        scores.resampled_SR[places],
        of_draws=tuple(of_draws_SD[places] for of_draws_SD in scores.of_draws),
    )


def paper_change(name: str) -> float | None:
    """The paper's change of GLUE's score; None if it has no such row."""
    changes = VARIATIONS.get(name, {})
    return PAPER_CHANGES.get(next(iter(changes))) if len(changes) == 1 else None

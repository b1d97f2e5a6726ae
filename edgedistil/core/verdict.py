"""How a verdict follows from a figure's interval and from the number of seeds behind it."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["holds", "does not hold", "inconclusive"]

# With two, one difference has to show the noise of training: where seeds differ by 1.5 points, the
# intervals of one and two seeds contained the truth in 50% and 76% of simulated worlds.
MIN_SEEDS = 3


def decide(low: float, high: float, threshold: float) -> Verdict:
    """Returns whether a figure in [low, high] is at least `threshold`."""
    if low >= threshold:
        return "holds"
    return "does not hold" if high < threshold else "inconclusive"


def in_sentence(verdict: Verdict) -> str:
    """Returns a verdict as the verb of a sentence."""
    return "is inconclusive" if verdict == "inconclusive" else verdict


def missing_seeds(seeds: int) -> str:
    """Returns why so few seeds decide nothing; empty if there are enough."""
    if seeds >= MIN_SEEDS:
        return ""
    return f"a verdict needs at least {MIN_SEEDS} seeds, got {seeds}: seeds differ as models do"

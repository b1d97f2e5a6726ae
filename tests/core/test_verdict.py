"""Verdicts from intervals and from numbers of seeds, and the bounds of the paper's claims."""

from __future__ import annotations

import pytest

from edgedistil.core import paper
from edgedistil.core.verdict import decide, in_sentence, missing_seeds


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.6, 1.7, "holds"),
        (1.5, 1.59, "does not hold"),
        (1.59, 1.61, "inconclusive"),
        (1.5, 1.6, "inconclusive"),
    ],
)
def test_the_verdict_of_an_interval(low: float, high: float, verdict: str) -> None:
    assert decide(low, high, 1.6) == verdict


def test_an_inconclusive_verdict_needs_a_verb() -> None:
    assert f"The claim {in_sentence('inconclusive')}" == "The claim is inconclusive"
    assert in_sentence("does not hold") == "does not hold"


def test_three_seeds_are_enough() -> None:
    assert missing_seeds(3) == ""
    assert missing_seeds(2).startswith("a verdict needs at least 3 seeds, got 2")


def test_the_papers_own_pair_reaches_every_bound() -> None:
    assert 668 / 410 >= paper.SPEED_RATIO == 1.6
    saved = paper.parameters_saved(
        paper.BERT_ENCODER_PARAMETERS, paper.DISTILBERT_ENCODER_PARAMETERS
    )
    assert saved >= paper.PARAMETERS_SAVED == 0.39
    assert 77.0 / 79.5 >= paper.RETENTION == 0.968
    # By no more than a tenth of a percent.
    assert 77.0 / 79.5 - paper.RETENTION < 0.001 and saved - paper.PARAMETERS_SAVED < 0.001

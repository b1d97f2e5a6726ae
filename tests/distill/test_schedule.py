"""Length of a run and its learning rate."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from edgedistil.core.recipe import Train
from edgedistil.distill.schedule import (
    RunLength,
    evaluation_interval,
    learning_rate_factor,
    total_steps,
)


def train_section(**changes: Any) -> Train:
    return Train(global_batch=7, micro_batch=7, **changes)


@pytest.mark.parametrize(
    ("measure", "steps"),
    [({"tokens": 1000}, 15), ({"epochs": 2}, 15), ({"steps": 7}, 7), ({"tokens": 1}, 1)],
)
def test_tokens_and_epochs_are_rounded_up_to_steps(measure: dict[str, int], steps: int) -> None:
    """500 tokens in 50 rows, 7 rows a step: 70 tokens a step; 1000 tokens are 14.3 steps."""
    settings = train_section(**measure)
    length = RunLength.of(settings, corpus_tokens=500, corpus_rows=50)
    assert (length.steps, length.tokens_per_step, length.tokens) == (steps, 70, steps * 70)
    assert total_steps(settings, corpus_tokens=500, tokens_per_step=70) == steps


@pytest.mark.parametrize(
    ("evaluate_every", "steps", "interval"),
    [(None, 57, 6), (None, 60, 6), (None, 19, 2), (None, 29, 3), (None, 3, 1), (13, 57, 13)],
)
def test_at_most_ten_evaluations_unless_the_recipe_says_otherwise(
    evaluate_every: int | None, steps: int, interval: int
) -> None:
    settings = train_section(steps=steps, evaluate_every=evaluate_every)
    assert evaluation_interval(settings, steps=steps) == interval


def test_the_rate_rises_then_falls() -> None:
    rates = [learning_rate_factor(step, steps=20, warmup=0.25) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert rates[19] == pytest.approx(1 / 15)
    assert all(before > after for before, after in pairwise(rates[5:]))


def test_without_a_warmup_the_rate_falls_from_the_first_step() -> None:
    assert [learning_rate_factor(step, steps=2, warmup=0.0) for step in range(2)] == [1.0, 0.5]


def test_a_part_of_a_warmup_step_counts_as_one() -> None:
    assert learning_rate_factor(0, steps=14, warmup=0.1) == 0.5
    assert learning_rate_factor(1, steps=14, warmup=0.1) == 1.0

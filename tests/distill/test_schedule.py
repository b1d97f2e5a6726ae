from __future__ import annotations

import pytest

from edgedistil.distill.schedule import run_length


@pytest.mark.parametrize(
    ("given", "steps"),
    [({"tokens": 1000}, 15), ({"epochs": 2}, 15), ({"steps": 7}, 7), ({"tokens": 1}, 1)],
)
def test_whole_steps(given: dict[str, int], steps: int) -> None:
    """500 tokens in 50 rows, 7 rows a step: 70 tokens a step; 1000 tokens are 14.3 steps."""
    chosen = {"tokens": None, "epochs": None, "steps": None, **given}
    length = run_length(500, 50, **chosen, global_batch=7)
    assert (length.steps, length.tokens_per_step, length.tokens) == (steps, 70, steps * 70)

"""Timed steps: extrapolation to a micro-batch, and the peak of training and evaluation."""

from __future__ import annotations

import pytest
import torch

from edgedistil.core.records import Count, NotMeasured
from edgedistil.distill.plan.timing import RandomBatches, _extrapolate, _Measured, _peak

FEW = _Measured(rows=4, passes_s=1.0, update_s=0.1, peak_bytes=100)
MANY = _Measured(rows=16, passes_s=3.0, update_s=0.1, peak_bytes=220)
UNKNOWN = NotMeasured(not_measured="no figure")


def test_a_micro_batch_is_on_the_line_through_two_measurements() -> None:
    assert _extrapolate(1.0, 3.0, FEW, MANY, rows=28) == pytest.approx(5.0)
    assert _extrapolate(1.0, 3.0, FEW, MANY, rows=16) == 3.0


def test_more_rows_never_take_less() -> None:
    assert _extrapolate(3.0, 1.0, FEW, MANY, rows=28) == 1.0


@pytest.mark.parametrize(
    ("many", "evaluation", "expected"), [(220, 50, 340), (220, 999, 999), (220, UNKNOWN, 340)]
)
def test_the_peak_is_of_training_or_evaluation(many: int, evaluation: Count, expected: int) -> None:
    measured = _Measured(rows=16, passes_s=3.0, update_s=0.1, peak_bytes=many)
    assert _peak(FEW, measured, 28, evaluation=evaluation) == expected


def test_a_peak_that_is_not_measured_stays_so() -> None:
    measured = _Measured(rows=16, passes_s=3.0, update_s=0.1, peak_bytes=UNKNOWN)
    assert _peak(FEW, measured, 28, evaluation=50) is UNKNOWN


def test_random_rows_have_a_masked_token_each() -> None:
    batch = RandomBatches(23, 82, 0.0, torch.device("cpu")).draw(5)
    assert batch.counts.masked == 5
    assert batch.counts.attended == 5 * 23

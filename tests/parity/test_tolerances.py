"""Tolerances: bounds for every precision and task, each with a reason."""

from __future__ import annotations

import pytest

from edgedistil.core.precision import PRECISIONS, Precision
from edgedistil.core.task import TASKS, Task
from edgedistil.parity.tolerances import rank_tolerances, scaled, tolerances_for


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_has_bounds_with_reasons_for_every_task(
    precision: Precision, task: Task
) -> None:
    bounds = tolerances_for(precision, task)
    assert bounds
    assert all(len(bound.reason) > 20 and "provisional" not in bound.reason for bound in bounds)


def test_float32_must_match_to_a_ten_thousandth_and_in_every_decision() -> None:
    bounds = {bound.figure: bound for bound in tolerances_for("fp32", "fill-mask")}
    assert (bounds["max_abs"].bound, bounds["max_abs"].value) == ("at most", 1e-4)
    assert (bounds["agreement"].bound, bounds["agreement"].value) == ("at least", 1.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_figures_that_a_task_has_are_bounded(precision: Precision) -> None:
    encoder = {bound.figure for bound in tolerances_for(precision, "feature-extraction")}
    assert not encoder & {"agreement", "kl_nats", "concordance"}
    masked_lm = {bound.figure for bound in tolerances_for(precision, "fill-mask")}
    assert "agreement" in masked_lm
    assert not masked_lm & {"cosine_min", "cosine_mean", "concordance"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_regression_is_bounded_by_its_concordance(precision: Precision) -> None:
    bounds = tolerances_for(precision, "text-classification", regression=True)
    figures = {bound.figure for bound in bounds}
    assert "concordance" in figures
    assert not figures & {"agreement", "kl_nats", "cosine_min", "cosine_mean"}


def test_a_bound_on_differences_grows_with_outputs_beyond_twenty() -> None:
    bounds = {bound.figure: bound for bound in tolerances_for("fp32", "feature-extraction")}
    assert scaled(bounds["max_abs"], 20.0) == bounds["max_abs"]
    larger = scaled(bounds["max_abs"], 60.0)
    assert larger.value == pytest.approx(3e-4)
    assert larger.reason.endswith("scaled: the outputs reach 60")
    assert scaled(bounds["cosine_min"], 60.0) == bounds["cosine_min"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_has_bounds_on_rankings_with_what_was_measured(
    precision: Precision,
) -> None:
    bounds = {bound.figure: bound for bound in rank_tolerances(precision)}
    assert set(bounds) == {"top10_overlap", "rank_correlation", "vector_cosine_mean"}
    assert all(bound.bound == "at least" for bound in bounds.values())
    assert all("measured: " in bound.reason for bound in bounds.values())
    # Coarser numbers may change more.
    exact = {bound.figure: bound for bound in rank_tolerances("fp32")}
    assert all(bound.value <= exact[name].value for name, bound in bounds.items())

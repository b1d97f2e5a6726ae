"""Plots of a distillation: the curves they show, and None where there is nothing to draw."""

from __future__ import annotations

import pytest

from edgedistil.core.rundir import RunDir
from edgedistil.report import training_plots
from edgedistil.report.load import RunResults, load_results


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


def test_every_loss_of_the_trace_has_a_curve(results: RunResults) -> None:
    drawn = training_plots.loss_curves(results.trace)
    assert drawn is not None
    for label in training_plots.LOSSES.values():
        assert f">{label}</text>" in drawn


def test_a_loss_that_was_not_trained_has_no_curve(results: RunResults) -> None:
    trace = [{**entry, "cosine": None} for entry in results.trace]
    drawn = training_plots.loss_curves(trace)
    assert drawn is not None
    assert ">cosine</text>" not in drawn


def test_one_entry_is_no_curve(results: RunResults) -> None:
    assert training_plots.loss_curves(results.trace[:1]) is None
    assert training_plots.heldout_curves(results.heldout_trace[:1], results.distill) is None


def test_the_moving_average_of_a_constant_is_the_constant() -> None:
    assert training_plots.moving_average([7.0] * 500) == [7.0] * 500
    assert training_plots.moving_average([1.0, 2.0, 6.0]) == [1.5, 3.0, 4.0]


def test_the_teacher_is_a_line_where_it_was_evaluated(results: RunResults) -> None:
    with_teacher = training_plots.heldout_curves(results.heldout_trace, results.distill)
    without = training_plots.heldout_curves(results.heldout_trace, None)
    assert with_teacher is not None and "teacher's top-1 accuracy" in with_teacher
    assert without is not None and "teacher's" not in without


def test_a_run_of_sentence_vectors_has_its_own_curves(results: RunResults) -> None:
    steps = [
        {"tokens": 1000 * n, "step": n, "vector": 1 / n, "states": 0.5 / n} for n in range(1, 9)
    ]
    drawn = training_plots.loss_curves(steps)
    assert drawn is not None and ">sentence vectors</text>" in drawn
    assert "squared distance" in drawn and ">masked LM</text>" not in drawn
    figures = [
        {"tokens": 1000 * n, "rank_correlation": n / 9, "top10_overlap": n / 10}
        for n in range(1, 9)
    ]
    curves = training_plots.heldout_curves(figures, results.distill)
    assert curves is not None and ">top-10 overlap</text>" in curves
    assert "selected tokens" not in curves


def test_axes_of_short_and_long_runs_have_plain_numbers() -> None:
    short = [{"tokens": 1200.0 * n, "vector": 0.7 / n} for n in range(1, 9)]
    long = [{"tokens": 1e6 * n, "vector": 0.7 / n} for n in range(1, 9)]
    for trace, unit in ((short, "thousand"), (long, "million")):
        drawn = training_plots.loss_curves(trace)
        assert drawn is not None and f">{unit} tokens seen</text>" in drawn
        # Labels such as 2×10⁻¹ are wider than their distance in a small plot.
        assert ">0.2</text>" in drawn and ">0.5</text>" in drawn and "10^" not in drawn
    # Losses that hardly change have numbers, too.
    losses = [{**entry, "vector": 0.31 + entry["tokens"] / 4e8} for entry in long]
    level = training_plots.loss_curves(losses)
    assert level is not None and level.count(">0.3") >= 2

"""Plots: the data they show, and None where there is nothing to draw."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.report import plots
from edgedistil.report.language_models import LanguageModel
from edgedistil.report.load import RunResults, load_results


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


@pytest.fixture
def evaluation(full_run: RunDir) -> EvaluationRecord:
    return read_record(full_run.evaluation, EvaluationRecord)


# --- size ----------------------------------------------------------------------------------------


def test_no_two_names_of_a_year_overlap() -> None:
    crowd = [LanguageModel(f"model {i}", 2019, 110 + i / 7, "x") for i in range(7)]
    # Makes the axis as long as that of the packaged list.
    giant = LanguageModel("giant", 2020, 175_000, "x")
    picture = plots.parameter_counts([*crowd, giant], teacher=110_000_000, student=66_000_000)
    heights = [_height_of(picture, model.name) for model in crowd]
    assert all(lower - upper >= 9.5 for lower, upper in pairwise(heights)), heights


def _height_of(picture: str, name: str) -> float:
    """Distance from the top, in points: a line of these names is 9.5 high."""
    text = re.search(rf'<text [^>]*?(?:translate\([\d.]+ |y=")([\d.]+)[^>]*>{name}</text>', picture)
    assert text, name
    return float(text.group(1))


# --- profile -------------------------------------------------------------------------------------


def host_profile(results: RunResults) -> ProfileRecord:
    return next(profile for profile in results.profiles if profile.method == "measured")


def test_rows_under_one_condition_are_compared(results: RunResults) -> None:
    host = host_profile(results)
    shorter = [row.model_copy(update={"length": 32}) for row in host.rows]
    threaded = [row.model_copy(update={"threads": 4}) for row in host.rows]
    pairs = [row.model_copy(update={"length": "sentence-pairs"}) for row in host.rows]
    invalid = [row.model_copy(update={"valid": False}) for row in host.rows]
    mixed = host.model_copy(update={"rows": [*shorter, *threaded, *pairs, *invalid, *host.rows]})
    assert plots.measured_rows([mixed]) == host.rows


def test_rows_of_another_runtime_are_not_drawn(results: RunResults) -> None:
    host = host_profile(results)
    rows = [row.model_copy(update={"form": "OpenVINO", "device": "first"}) for row in host.rows]
    other = host.model_copy(update={"rows": rows})
    assert plots.measured_rows([other, host]) == plots.measured_rows([host])
    assert plots.measured_rows([other]) == []


def test_predictions_are_not_drawn(results: RunResults) -> None:
    predicted = [profile for profile in results.profiles if profile.method == "predicted"]
    assert plots.measured_rows(predicted) == []
    assert plots.latency_distributions(predicted) is None
    assert plots.size_against_latency(predicted) is None


def test_every_artefact_is_named(results: RunResults) -> None:
    distributions = plots.latency_distributions(results.profiles)
    sizes = plots.size_against_latency(results.profiles)
    assert distributions is not None and sizes is not None
    for name in ("teacher encoder fp32", "student encoder int8", "student fill-mask fp32"):
        assert f">{name}</text>" in distributions
        assert f">{name}: " in sizes


def test_one_artefact_has_nothing_to_compare_with(results: RunResults) -> None:
    host = host_profile(results)
    single = host.model_copy(update={"rows": host.rows[:1]})
    assert plots.size_against_latency([single]) is None
    assert plots.latency_distributions([single]) is not None


# --- quality -------------------------------------------------------------------------------------


def test_one_model_has_nothing_to_compare_with(evaluation: EvaluationRecord) -> None:
    assert plots.scores(evaluation) is not None
    alone = [s for s in evaluation.summaries if s.model == "teacher"]
    assert plots.scores(evaluation.model_copy(update={"summaries": alone})) is None


def test_scores_become_retention_above_baseline(evaluation: EvaluationRecord) -> None:
    by_size = {point.form: point for point in plots.cost_points(evaluation, "size")}
    teacher = by_size["teacher pytorch"]
    assert (teacher.cost, teacher.retention) == (87, pytest.approx(100))
    baseline = evaluation.tasks[0].baseline
    student = by_size["student int8"]
    expected = 100 * (0.8087 - baseline) / (0.83 - baseline)
    assert (student.cost, student.retention) == (17, pytest.approx(expected))
    by_latency = {point.form: point.cost for point in plots.cost_points(evaluation, "latency")}
    assert by_latency == {"teacher pytorch": 9.7, "student pytorch": 4.7, "student int8": 1.9}


@pytest.mark.parametrize("cost", ["latency", "size"])
def test_the_plot_names_every_artefact_and_task(
    evaluation: EvaluationRecord, cost: plots.Cost
) -> None:
    drawn = plots.score_against_cost(evaluation, cost)
    assert drawn is not None
    assert f'aria-label="Score against {cost}"' in drawn
    for name in ("teacher pytorch", "student pytorch", "student int8", "sentiment"):
        assert name in drawn


def test_no_plot_without_a_teacher_or_without_a_figure(evaluation: EvaluationRecord) -> None:
    alone = [s for s in evaluation.summaries if s.model != "teacher"]
    without_teacher = evaluation.model_copy(update={"summaries": alone})
    assert plots.score_against_cost(without_teacher, "size") is None
    untimed = [
        score.model_copy(update={"latency_ms": NotMeasured(not_measured="no time")})
        for score in evaluation.artefacts
    ]
    without_time = evaluation.model_copy(update={"artefacts": untimed})
    assert plots.score_against_cost(without_time, "latency") is None
    assert plots.score_against_cost(without_time, "size") is not None

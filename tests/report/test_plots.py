"""What the pictures are drawn from, and when there is none."""

from __future__ import annotations

import pytest

from edgedistil.core.records import EvaluationRecord, NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.report import plots


@pytest.fixture
def evaluation(full_run: RunDir) -> EvaluationRecord:
    return read_record(full_run.evaluation, EvaluationRecord)


def test_a_score_is_told_as_a_share_of_the_teachers_lead(evaluation: EvaluationRecord) -> None:
    by_size = {
        (model, form): (cost, share)
        for _, model, form, cost, share in plots._priced(evaluation, "size")
    }
    assert by_size["teacher", "pytorch"] == (87, pytest.approx(100))
    floor = evaluation.tasks[0].baseline
    assert by_size["student", "int8"] == (
        17,
        pytest.approx(100 * (0.8087 - floor) / (0.83 - floor)),
    )
    by_latency = {
        (model, form): cost for _, model, form, cost, _ in plots._priced(evaluation, "latency")
    }
    assert by_latency == {
        ("teacher", "pytorch"): 9.7,
        ("student", "pytorch"): 4.7,
        ("student", "int8"): 1.9,
    }


def test_the_picture_names_every_artefact_and_task(evaluation: EvaluationRecord) -> None:
    for cost in ("latency", "size"):
        drawn = plots.score_against(evaluation, cost)
        assert drawn is not None and f'aria-label="Score against {cost}"' in drawn
        for name in ("teacher pytorch", "student pytorch", "student int8", "sentiment"):
            assert name in drawn


def test_no_picture_without_a_teacher_or_without_a_figure(evaluation: EvaluationRecord) -> None:
    alone = [s for s in evaluation.summaries if s.model != "teacher"]
    assert plots.score_against(evaluation.model_copy(update={"summaries": alone}), "size") is None
    untimed = [
        a.model_copy(update={"latency_ms": NotMeasured(not_measured="no time")})
        for a in evaluation.artefacts
    ]
    without = evaluation.model_copy(update={"artefacts": untimed})
    assert plots.score_against(without, "latency") is None
    assert plots.score_against(without, "size") is not None

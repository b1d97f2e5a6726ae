"""What is said of "97% as good": by the macro-score where there is one, else by the worst task, called what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgedistil.core.records import EvaluationRecord, MacroScore, NotMeasured, Retention
from edgedistil.core.rundir import RunDir
from edgedistil.report.load import gather
from edgedistil.report.verdicts import Verdict, quality_verdict

Judge = Callable[..., Verdict]


@pytest.fixture
def evaluation(full_run: RunDir) -> EvaluationRecord:
    found = gather(full_run).evaluation
    assert found is not None
    return found


@pytest.fixture
def judge(full_run: RunDir, evaluation: EvaluationRecord) -> Judge:
    def judge(**changed: Any) -> Verdict:
        return quality_verdict(
            replace(gather(full_run), evaluation=evaluation.model_copy(update=changed))
        )

    return judge


def kept(evaluation: EvaluationRecord, **changed: Any) -> Retention:
    return evaluation.retentions[0].model_copy(update=changed)


def test_one_task_is_named_and_not_called_glue(judge: Judge) -> None:
    verdict = judge()
    assert (verdict.word, verdict.figure) == ("holds", "98.8% of the teacher's accuracy")
    assert verdict.how.startswith("task sentiment, fine-tuned with the same budget, 1 seed;")
    assert verdict.how.endswith("this is not GLUE")
    assert verdict.caveat == "above a constant prediction (57.0%) it keeps 96.2%"


def test_a_task_of_glue_is_called_one(judge: Judge, evaluation: EvaluationRecord) -> None:
    assert judge(tasks=[evaluation.tasks[0].model_copy(update={"suite": "GLUE"})]).how.endswith(
        "one task of GLUE"
    )


def test_the_worst_task_decides(judge: Judge, evaluation: EvaluationRecord) -> None:
    worse = kept(evaluation, task="topics", retention=0.93, retention_low=0.91, retention_high=0.95)
    verdict = judge(retentions=[*evaluation.retentions, worse])
    assert (verdict.word, verdict.figure) == ("does not hold", "93.0% of the teacher's accuracy")
    assert verdict.how.startswith("task topics, the worst of 2,")


def test_an_interval_around_the_bound_tells_nothing(
    judge: Judge, evaluation: EvaluationRecord
) -> None:
    assert judge(retentions=[kept(evaluation, retention_low=0.96)]).word == "inconclusive"


def test_soft_targets_stand_beside(judge: Judge, evaluation: EvaluationRecord) -> None:
    soft = kept(evaluation, model="student-d", retention=0.995, retention_above_baseline=0.98)
    verdict = judge(retentions=[*evaluation.retentions, soft])
    assert verdict.figure.startswith("98.8%"), "the student's own figure is judged"
    assert verdict.caveat.endswith(
        "the fine-tuned teacher's soft targets: 99.5%, 98.0% above the constant"
    )


@pytest.mark.parametrize(("student", "word"), [(0.772, "holds"), (0.770, "does not hold")])
def test_all_of_glue_is_judged_by_the_macro_score(judge: Judge, student: float, word: str) -> None:
    def macro(model: str, score: float | NotMeasured) -> MacroScore:
        return MacroScore(suite="GLUE", model=model, score=score, tasks=[], how="mean", paper=0.77)

    verdict = judge(macros=[macro("teacher", 0.795), macro("student", student)])
    assert verdict.word == word
    assert verdict.figure == f"{100 * student / 0.795:.1f}% of the teacher's GLUE macro-score"
    absent = NotMeasured(not_measured="not scored yet: cola")
    assert "accuracy" in judge(macros=[macro("teacher", absent), macro("student", student)]).figure

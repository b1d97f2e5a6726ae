"""Verdicts on the paper's claims: size, speed, and quality by macro-score or by the lowest task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgedistil.core.records import (
    Claim,
    DistillRecord,
    EvaluationRecord,
    MacroScore,
    NotMeasured,
    ProfileRecord,
    Retention,
)
from edgedistil.core.rundir import RunDir
from edgedistil.report.load import RunResults, load_results
from edgedistil.report.verdicts import (
    Verdict,
    judge_claims,
    quality_verdict,
    size_verdict,
    speed_verdict,
)

Judge = Callable[..., Verdict]


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


@pytest.fixture
def evaluation(results: RunResults) -> EvaluationRecord:
    assert results.evaluation is not None
    return results.evaluation


@pytest.fixture
def judge(evaluation: EvaluationRecord) -> Judge:
    """Judges the quality of an evaluation with changed fields."""

    def judge(**changed: Any) -> Verdict:
        return quality_verdict(evaluation.model_copy(update=changed))

    return judge


def retention_with(evaluation: EvaluationRecord, **changed: Any) -> Retention:
    return evaluation.retentions[0].model_copy(update=changed)


def test_three_claims_are_judged(results: RunResults) -> None:
    names = [verdict.name for verdict in judge_claims(results)]
    assert names == ["size", "speed", "quality"]


def test_a_stage_that_has_not_run_is_not_measured(results: RunResults) -> None:
    empty = replace(results, distill=None, evaluation=None, profiles=[])
    for verdict in judge_claims(empty):
        assert (verdict.word, verdict.figure) == ("not measured", "–")
        assert verdict.how.startswith("edgedistil ")


# --- size ----------------------------------------------------------------------------------------


def with_student(record: DistillRecord, parameters: int) -> DistillRecord:
    student = record.student.model_copy(update={"parameters": parameters})
    return record.model_copy(update={"student": student})


def test_a_narrow_student_does_not_save_enough(results: RunResults) -> None:
    verdict = size_verdict(results)
    assert (verdict.word, verdict.figure) == ("does not hold", "24% fewer parameters")
    assert "22.9M → 17.3M; encoders alone: 22.6M → 17.1M (24% fewer)" in verdict.how
    # 30,522 tokens × 384 of 17.29M parameters.
    assert "the word-embedding matrix" in verdict.caveat
    assert "68% of the student" in verdict.caveat


def test_a_student_that_saves_enough_has_no_caveat(results: RunResults) -> None:
    assert results.distill is not None
    verdict = size_verdict(replace(results, distill=with_student(results.distill, 12_000_000)))
    assert (verdict.word, verdict.caveat) == ("holds", "")


# --- speed ---------------------------------------------------------------------------------------


def with_claims(results: RunResults, **changed: Any) -> RunResults:
    """Changes the speed claim of every profile."""
    profiles: list[ProfileRecord] = []
    for profile in results.profiles:
        claims = [claim.model_copy(update=changed) for claim in profile.claims]
        profiles.append(profile.model_copy(update={"claims": claims}))
    return replace(results, profiles=profiles)


def test_the_measured_claim_is_repeated(results: RunResults) -> None:
    verdict = speed_verdict(results)
    assert (verdict.word, verdict.figure) == ("holds", "1.96x (1.91–2.02)")
    assert verdict.how.endswith("on host")


def test_a_prediction_is_mentioned_and_decides_nothing(results: RunResults) -> None:
    verdict = speed_verdict(with_claims(results, method="predicted"))
    assert (verdict.word, verdict.figure) == ("not measured", "–")
    assert ". the student's encoder is 1.96 times" in verdict.how


def test_the_claim_on_the_encoders_comes_first(results: RunResults) -> None:
    host = next(profile for profile in results.profiles if profile.method == "measured")
    (encoders,) = host.claims
    other: Claim = encoders.model_copy(update={"conditions": "fill-mask, fp32", "value": 1.7})
    both = host.model_copy(update={"claims": [other, encoders]})
    assert speed_verdict(replace(results, profiles=[both])).figure.startswith("1.96x")
    alone = host.model_copy(update={"claims": [other]})
    assert speed_verdict(replace(results, profiles=[alone])).figure.startswith("1.70x")


# --- quality -------------------------------------------------------------------------------------


def test_one_task_is_named_and_not_called_glue(judge: Judge) -> None:
    verdict = judge()
    assert (verdict.word, verdict.figure) == ("holds", "98.8% of the teacher's accuracy")
    assert verdict.how.startswith("task sentiment, fine-tuned with the same budget, 1 seed;")
    assert verdict.how.endswith("this is not GLUE")
    assert verdict.caveat == "retention above the baseline of 57.0%: 96.2%"


def test_a_task_of_glue_is_called_one(judge: Judge, evaluation: EvaluationRecord) -> None:
    assert judge(tasks=[evaluation.tasks[0].model_copy(update={"suite": "GLUE"})]).how.endswith(
        "one task of GLUE"
    )


def test_the_worst_task_decides(judge: Judge, evaluation: EvaluationRecord) -> None:
    worse = retention_with(
        evaluation, task="topics", retention=0.93, retention_low=0.91, retention_high=0.95
    )
    verdict = judge(retentions=[*evaluation.retentions, worse])
    assert (verdict.word, verdict.figure) == ("does not hold", "93.0% of the teacher's accuracy")
    assert verdict.how.startswith("task topics, the lowest of 2,")


def test_an_interval_around_the_bound_is_inconclusive(
    judge: Judge, evaluation: EvaluationRecord
) -> None:
    assert judge(retentions=[retention_with(evaluation, retention_low=0.96)]).word == "inconclusive"


def test_soft_targets_are_a_caveat(judge: Judge, evaluation: EvaluationRecord) -> None:
    soft = retention_with(
        evaluation, model="student-d", retention=0.995, retention_above_baseline=0.98
    )
    verdict = judge(retentions=[*evaluation.retentions, soft])
    assert verdict.figure.startswith("98.8%"), "the student's own figure is judged"
    assert verdict.caveat.endswith(
        "the fine-tuned teacher's soft targets: 99.5%, above baseline 98.0%"
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

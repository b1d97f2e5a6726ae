"""Verdicts on the paper's claims: size, speed, and quality by macro-score or by the lowest task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgedistil.core.distill_records import DistillRecord
from edgedistil.core.evaluation_records import (
    EvaluationRecord,
    MacroScore,
    Retention,
    RetrievalScore,
)
from edgedistil.core.paper import BERT_ENCODER_PARAMETERS, DISTILBERT_ENCODER_PARAMETERS
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured
from edgedistil.core.rundir import RunDir
from edgedistil.profiling.claims import size_claims
from edgedistil.report.load import RunResults, load_results
from edgedistil.report.verdicts import (
    Verdict,
    judge_claims,
    quality_verdict,
    size_verdict,
    speed_verdicts,
)
from tests.profiling.conftest import make_artefact

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
    assert names == ["size", "speed", "speed", "quality"]


def test_a_stage_that_has_not_run_is_not_measured(results: RunResults) -> None:
    empty = replace(results, distill=None, evaluation=None, profiles=[])
    for verdict in judge_claims(empty):
        assert (verdict.word, verdict.figure) == ("not measured", "–")
        assert verdict.how.startswith("edgedistil ")


# --- size ----------------------------------------------------------------------------------------


def with_encoders(record: DistillRecord, teacher: int, student: int) -> DistillRecord:
    """The same record with other encoders; all parameters grow by the same heads."""
    models = {"teacher": teacher, "student": student}
    return record.model_copy(
        update={
            role: getattr(record, role).model_copy(
                update={"encoder_parameters": count, "parameters": count + 600_000}
            )
            for role, count in models.items()
        }
    )


def test_a_narrow_student_does_not_save_enough(results: RunResults) -> None:
    verdict = size_verdict(results)
    assert (verdict.word, verdict.figure) == ("does not hold", "24.2% fewer encoder parameters")
    assert "22.6M → 17.1M; it holds from 39.0% on" in verdict.how
    assert verdict.how.endswith("with all heads 22.9M → 17.3M (24.4% fewer)")
    # 30,522 tokens × 384 of 17.11M parameters.
    assert "the word-embedding matrix" in verdict.caveat
    assert "69% of the student's encoder" in verdict.caveat


def test_the_papers_own_pair_holds_although_its_masked_lms_differ_less(results: RunResults) -> None:
    assert results.distill is not None
    record = with_encoders(results.distill, BERT_ENCODER_PARAMETERS, DISTILBERT_ENCODER_PARAMETERS)
    verdict = size_verdict(replace(results, distill=record))
    assert (verdict.word, verdict.caveat) == ("holds", "")
    assert verdict.figure == "39.1% fewer encoder parameters"
    # With 1M parameters less saved, the pair fails: the bound is not far below it.
    record = with_encoders(
        results.distill, BERT_ENCODER_PARAMETERS, DISTILBERT_ENCODER_PARAMETERS + 1_000_000
    )
    assert size_verdict(replace(results, distill=record)).word == "does not hold"


def test_report_and_profile_judge_size_by_one_quantity(results: RunResults) -> None:
    assert results.distill is not None
    teacher, student = BERT_ENCODER_PARAMETERS, DISTILBERT_ENCODER_PARAMETERS
    for student_parameters in (student, student + 1_000_000):
        record = with_encoders(results.distill, teacher, student_parameters)
        artefacts = [
            make_artefact("teacher", parameters=teacher),
            make_artefact("student", parameters=student_parameters),
        ]
        (claim,) = size_claims(artefacts, device="host", method="measured")
        assert claim.verdict == size_verdict(replace(results, distill=record)).word


# --- speed ---------------------------------------------------------------------------------------


def with_claims(results: RunResults, **changed: Any) -> RunResults:
    """Changes the speed claim of every profile."""
    profiles: list[ProfileRecord] = []
    for profile in results.profiles:
        claims = [claim.model_copy(update=changed) for claim in profile.claims]
        profiles.append(profile.model_copy(update={"claims": claims}))
    return replace(results, profiles=profiles)


def on_two_devices(results: RunResults, word: str, recipe: str = "") -> RunResults:
    """A host where the claim holds, and a measured board with another verdict."""
    host = next(profile for profile in results.profiles if profile.method == "measured")
    (claim,) = host.claims
    board_claim = claim.model_copy(update={"device": "rpi4", "verdict": word, "value": 1.4})
    board = host.model_copy(update={"device": "rpi4", "claims": [board_claim]})
    return replace(results, profiles=[host, board], recipe=recipe)


def test_the_measured_claim_is_repeated(results: RunResults) -> None:
    host, board = speed_verdicts(results)
    assert (host.device, host.word, host.figure) == ("host", "holds", "1.96x (1.91–2.02)")
    assert host.how.endswith("on host")
    assert (board.device, board.word, board.figure) == ("rpi4", "not measured", "–")
    assert ". the student's encoder is 1.96 times" in board.how


def test_another_runtime_has_no_verdict_about_the_paper(results: RunResults) -> None:
    host = results.profiles[0]
    rows = [row.model_copy(update={"form": "OpenVINO"}) for row in host.rows]
    other = host.model_copy(update={"device": "openvino", "rows": rows, "claims": []})
    verdicts = speed_verdicts(replace(results, profiles=[host, other]))
    assert [verdict.device for verdict in verdicts] == ["host"]


def test_a_prediction_is_mentioned_and_decides_nothing(results: RunResults) -> None:
    words = {verdict.word for verdict in speed_verdicts(with_claims(results, method="predicted"))}
    assert words == {"not measured"}


def test_a_board_that_disagrees_is_named(results: RunResults) -> None:
    first, second = speed_verdicts(on_two_devices(results, "does not hold"))
    assert (first.device, second.device) == ("host", "rpi4")
    assert first.caveat.startswith("on rpi4 it is otherwise: does not hold (1.40x (1.91–2.02))")
    agreeing, _ = speed_verdicts(on_two_devices(results, "holds"))
    assert "rpi4" not in agreeing.caveat


@pytest.mark.parametrize(
    "recipe",
    ['[export]\ntarget = "rpi4"', '[profile]\ndevices = ["rpi4", "host"]'],
)
def test_the_target_device_of_the_recipe_comes_first(results: RunResults, recipe: str) -> None:
    first, second = speed_verdicts(on_two_devices(results, "does not hold", recipe))
    assert (first.device, first.word) == ("rpi4", "does not hold")
    assert second.device == "host"
    assert first.caveat.startswith("on host it is otherwise: holds")


def test_a_disturbed_machine_decides_nothing(results: RunResults) -> None:
    disturbed = with_claims(results, disturbed="N threads are slower than one")
    verdict = speed_verdicts(disturbed)[0]
    assert (verdict.device, verdict.word) == ("host", "inconclusive")
    assert "the machine was disturbed: N threads are slower than one" in verdict.caveat


def test_another_thread_count_that_disagrees_is_a_caveat(results: RunResults) -> None:
    host = next(profile for profile in results.profiles if profile.method == "measured")
    (one,) = host.claims
    two = one.model_copy(update={"verdict": "inconclusive", "sentence": "with 2 threads it varies"})
    both = host.model_copy(update={"claims": [one, two]})
    verdict = speed_verdicts(replace(results, profiles=[both]))[0]
    assert verdict.word == "holds"
    assert "inconclusive in another setting: with 2 threads it varies" in verdict.caveat


def test_only_encoders_carry_the_papers_claim(results: RunResults) -> None:
    figure = "speed ratio, fill-mask models, 1 thread"
    verdict = speed_verdicts(with_claims(results, figure=figure))[0]
    assert (verdict.word, verdict.figure) == ("not measured", "–")
    assert verdict.how.startswith("the encoders were not timed on host. the student's")


# --- quality -------------------------------------------------------------------------------------


def test_one_task_is_named_and_not_called_glue(judge: Judge) -> None:
    verdict = judge()
    assert (verdict.word, verdict.figure) == (
        "holds",
        "98.8% (97.5%–100.2%) of the accuracy of teacher",
    )
    assert verdict.how.startswith("task sentiment, fine-tuned with the same budget, 3 seeds;")
    assert verdict.how.endswith("this is not GLUE")
    assert verdict.caveat == "retention above the baseline of 57.0% (constant): 96.2%"


def test_a_task_of_glue_is_called_one(judge: Judge, evaluation: EvaluationRecord) -> None:
    assert judge(tasks=[evaluation.tasks[0].model_copy(update={"suite": "GLUE"})]).how.endswith(
        "one task of GLUE"
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_decide_nothing(
    judge: Judge, evaluation: EvaluationRecord, seeds: int
) -> None:
    verdict = judge(retentions=[retention_with(evaluation, seeds=seeds)])
    assert verdict.word == "inconclusive"
    assert verdict.caveat.startswith(f"a verdict needs at least 3 seeds, got {seeds}")
    # A figure far below the bound is not refuted by so few seeds either.
    low = retention_with(
        evaluation, seeds=seeds, retention=0.5, retention_low=0.4, retention_high=0.6
    )
    assert judge(retentions=[low]).word == "inconclusive"


def test_without_an_interval_nothing_is_decided(judge: Judge, evaluation: EvaluationRecord) -> None:
    absent = NotMeasured(not_measured="too few seeds")
    without = retention_with(evaluation, retention_low=absent, retention_high=absent)
    assert judge(retentions=[without]).word == "inconclusive"


def test_the_worst_task_decides(judge: Judge, evaluation: EvaluationRecord) -> None:
    worse = retention_with(
        evaluation, task="topics", retention=0.93, retention_low=0.91, retention_high=0.95
    )
    topics = evaluation.tasks[0].model_copy(update={"name": "topics"})
    changed = {
        "retentions": [*evaluation.retentions, worse],
        "tasks": [*evaluation.tasks, topics],
    }
    verdict = judge(**changed)
    assert verdict.word == "does not hold"
    assert verdict.figure == "93.0% (91.0%–95.0%) of the accuracy of teacher"
    assert verdict.how.startswith("task topics, the lowest of 2,")
    # Two tasks on the same sentences are one.
    same = topics.model_copy(update={"same_texts_as": "sentiment"})
    assert "the lowest of" not in judge(**{**changed, "tasks": [*evaluation.tasks, same]}).how


def test_one_task_without_seeds_keeps_the_claim_from_holding(
    judge: Judge, evaluation: EvaluationRecord
) -> None:
    better = retention_with(
        evaluation, task="topics", retention=0.999, retention_low=0.99, retention_high=1.0, seeds=1
    )
    verdict = judge(retentions=[*evaluation.retentions, better])
    assert verdict.word == "inconclusive"
    assert verdict.how.startswith("task topics")


def test_an_interval_around_the_bound_is_inconclusive(
    judge: Judge, evaluation: EvaluationRecord
) -> None:
    assert judge(retentions=[retention_with(evaluation, retention_low=0.96)]).word == "inconclusive"


def test_the_fitted_copy_and_soft_targets_are_caveats(
    judge: Judge, evaluation: EvaluationRecord
) -> None:
    others = {"teacher": 0.968, "student-d": 0.995, "student-step0-d": 0.991, "teacher-d": 1.004}
    retentions = [retention_with(evaluation, reference="teacher-as-given")]
    for model, share in others.items():
        retentions.append(retention_with(evaluation, model=model, retention=share))
    verdict = judge(retentions=retentions)
    assert verdict.figure.startswith("98.8%"), "the student's own figure is judged"
    assert verdict.figure.endswith("of the accuracy of teacher-as-given")
    assert "the copy of the teacher whose head was fitted retains 96.8%" in verdict.caveat
    assert verdict.caveat.endswith(
        "the student with the fine-tuned teacher's soft targets retains 99.5%; "
        "the undistilled student with them retains 99.1%; the teacher with its own retains 100.4%"
    )


def macro_of(model: str, score: float | NotMeasured, **changed: Any) -> MacroScore:
    return MacroScore(
        suite="GLUE", model=model, score=score, tasks=[], how="mean", paper=0.77, **changed
    )


def test_the_papers_own_macro_scores_pass_the_bound(judge: Judge) -> None:
    own = 77.0 / 79.5
    interval = {"retention": own, "retention_low": own, "retention_high": own, "seeds": 5}
    verdict = judge(macros=[macro_of("teacher", 0.795), macro_of("student", 0.77, **interval)])
    assert verdict.word == "holds"
    assert verdict.figure == "96.9% (96.9%–96.9%) of the GLUE macro-score of teacher"


@pytest.mark.parametrize(
    ("low", "high", "seeds", "word"),
    [
        (0.969, 0.99, 3, "holds"),
        (0.96, 0.98, 3, "inconclusive"),
        (0.94, 0.96, 3, "does not hold"),
        (0.969, 0.99, 2, "inconclusive"),
    ],
)
def test_all_of_glue_is_judged_by_the_interval_of_the_macro_score(
    judge: Judge, low: float, high: float, seeds: int, word: str
) -> None:
    interval = {"retention_low": low, "retention_high": high, "seeds": seeds}
    middle = (low + high) / 2
    student = macro_of("student", 0.77, retention=middle, **interval)
    verdict = judge(macros=[macro_of("teacher", 0.795), student])
    assert verdict.word == word
    assert verdict.how.startswith(f"77.0, nine tasks fine-tuned with the same budget, {seeds} seed")


def test_an_incomplete_macro_score_decides_nothing(judge: Judge) -> None:
    absent = NotMeasured(not_measured="not scored yet: cola")
    student = macro_of("student", 0.77, retention=absent)
    assert "accuracy" in judge(macros=[macro_of("teacher", absent), student]).figure


def test_retrieval_alone_shows_its_figure_and_decides_nothing(judge: Judge) -> None:
    """Its interval is over queries: one distillation does not show how much others differ."""
    verses = RetrievalScore(
        collection="verses",
        origin="package",
        queries=1990,
        documents=7957,
        model="student",
        metrics={"ndcg@10": 0.7},
        low=0.69,
        high=0.71,
        reference="teacher-as-given",
        retention=0.99,
        retention_low=0.98,
        retention_high=1.0,
        interval="95%, resampled queries",
    )
    lowest = {"collection": "code", "retention": 0.975, "retention_low": 0.97}
    others = [
        verses.model_copy(update=lowest),
        verses.model_copy(update={"model": "static", "retention": 0.3}),
    ]
    verdict = judge(retentions=[], retrieval=[verses, *others])
    assert verdict.word == "inconclusive"
    assert verdict.figure == "97.5% (97.0%–100.0%) of the ndcg@10 of teacher-as-given"
    assert verdict.how.startswith("collection code, the lowest of 2, 1,990 queries, nothing fine-")
    assert verdict.caveat.startswith("1 distillation: a verdict needs at least 3 seeds, got 1")
    three = [score.model_copy(update={"seeds": 3}) for score in (verses, others[0])]
    assert judge(retentions=[], retrieval=three).word == "holds"
    # On each collection, not on their mean.
    below = three[1].model_copy(update={"retention_low": 0.9, "retention_high": 0.95})
    verdict = judge(retentions=[], retrieval=[three[0], below])
    assert (verdict.word, verdict.how[:15]) == ("does not hold", "collection code")
    assert judge(retentions=[], retrieval=others[1:]).word == "not measured"


def test_an_embedding_run_is_judged_by_the_same_code(
    results: RunResults, evaluation: EvaluationRecord
) -> None:
    """No MLM head, so no held-out figures; nDCG on retrieval tasks; encoders only."""
    assert results.distill is not None
    retrieval = evaluation.tasks[0].model_copy(
        update={"name": "verses", "metric": "ndcg@10", "procedure": "scored without training"}
    )
    ndcg = retention_with(evaluation, task="verses", metric="ndcg@10", reference="teacher")
    embedding = replace(
        results,
        distill=results.distill.model_copy(update={"heldout": []}),
        evaluation=evaluation.model_copy(update={"tasks": [retrieval], "retentions": [ndcg]}),
    )
    size, host, _, quality = judge_claims(embedding)
    assert (size.word, host.word, quality.word) == ("does not hold", "holds", "holds")
    assert quality.figure == "98.8% (97.5%–100.2%) of the ndcg@10 of teacher"
    assert quality.how.startswith("task verses, scored without training, 3 seeds;")

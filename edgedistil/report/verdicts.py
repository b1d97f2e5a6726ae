"""The paper's three claims, judged from records: 40% smaller, 60% faster, 97% as good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgedistil.core import paper
from edgedistil.core.format import ABSENT, hundredths, millions, percent, plural, with_interval
from edgedistil.core.records import Claim, EvaluationRecord, ModelFacts, NotMeasured, Retention
from edgedistil.core.task import ENCODER_TASK
from edgedistil.report.load import RunResults

Word = Literal["holds", "does not hold", "inconclusive", "not measured"]

SIZE_CLAIM = "40% smaller"
SPEED_CLAIM = "60% faster"
QUALITY_CLAIM = "97% as good"


@dataclass(frozen=True)
class Verdict:
    """Verdict on one claim of the paper. The fields are keys of the JSON report.

    Attributes:
        name: size, speed or quality.
        claim: The paper's claim.
        word: The verdict.
        figure: This run's figure, or a dash.
        how: How the figure was obtained, or the command that measures it.
        caveat: What a reader should know before quoting the figure; may be empty.
    """

    name: str
    claim: str
    word: Word
    figure: str
    how: str
    caveat: str = ""


def judge_claims(results: RunResults) -> list[Verdict]:
    """Judges size, speed and quality, in this order."""
    return [
        size_verdict(results),
        speed_verdict(results),
        quality_verdict(results.evaluation),
    ]


# --- size ----------------------------------------------------------------------------------------


def size_verdict(results: RunResults) -> Verdict:
    """Judges the share of parameters that the student saves."""
    if results.distill is None:
        how = "edgedistil distill counts the parameters of both models"
        return Verdict("size", SIZE_CLAIM, "not measured", ABSENT, how)
    teacher, student = results.distill.teacher, results.distill.student
    # The claim is about all parameters; the encoders alone are shown because narrow models have
    # most parameters in the embeddings.
    saved = 1 - student.parameters / teacher.parameters
    encoder_saved = 1 - student.encoder_parameters / teacher.encoder_parameters
    word: Word = "holds"
    caveat = ""
    if saved < paper.PARAMETERS_SAVED:
        word = "does not hold"
        caveat = _embedding_caveat(student)
    how = (
        "counted from the weights, tied weights once:"
        f" {millions(teacher.parameters)} → {millions(student.parameters)}; encoders alone:"
        f" {millions(teacher.encoder_parameters)} → {millions(student.encoder_parameters)}"
        f" ({percent(encoder_saved, 0)} fewer)"
    )
    figure = f"{percent(saved, 0)} fewer parameters"
    return Verdict("size", SIZE_CLAIM, word, figure, how, caveat)


def _embedding_caveat(student: ModelFacts) -> str:
    """Share of the parameters that halving the layers cannot reduce."""
    share = student.vocabulary * student.hidden / student.parameters
    return (
        "the word-embedding matrix, which has the same size in both models, is"
        f" {percent(share, 0)} of the student: halving the layers of a narrow model saves less than"
        " halving those of BERT-base"
    )


# --- speed ---------------------------------------------------------------------------------------


def speed_verdict(results: RunResults) -> Verdict:
    """Repeats the measured speed claim; predictions are mentioned and never decide."""
    claims: list[Claim] = []
    for profile in results.profiles:
        claims += [claim for claim in profile.claims if claim.claim == "speed"]
    # A predicted band may hold, but the paper's claim is about a measured time.
    measured = [claim for claim in claims if claim.method == "measured"]
    if not measured:
        how = "edgedistil profile measures this host"
        if claims:
            how += f". {claims[0].sentence}"
        return Verdict("speed", SPEED_CLAIM, "not measured", ABSENT, how)
    claim = _encoder_claim(measured)
    figure = with_interval(
        claim.value, claim.low, claim.high, lambda ratio: f"{ratio:.2f}", unit="x"
    )
    return Verdict("speed", SPEED_CLAIM, claim.verdict, figure, claim.sentence, claim.conditions)


def _encoder_claim(claims: Sequence[Claim]) -> Claim:
    """The claim on the encoders, which the paper timed, if there is one; otherwise the first."""
    for claim in claims:
        if ENCODER_TASK in claim.conditions or "encoder" in claim.conditions:
            return claim
    return claims[0]


# --- quality -------------------------------------------------------------------------------------


def quality_verdict(evaluation: EvaluationRecord | None) -> Verdict:
    """Judges GLUE's macro-score, as the paper does, or else the task with the lowest retention."""
    how = "edgedistil evaluate fine-tunes teacher and student"
    not_measured = Verdict("quality", QUALITY_CLAIM, "not measured", ABSENT, how)
    if evaluation is None:
        return not_measured
    retentions = _student_retentions(evaluation)
    if not retentions:
        return not_measured
    # The paper's 97% is a ratio of macro-scores, so it decides where it exists.
    macro_scores = _macro_scores(evaluation)
    if macro_scores is not None:
        return _macro_verdict(*macro_scores)
    return _worst_task_verdict(evaluation, retentions)


def _student_retentions(evaluation: EvaluationRecord) -> list[Retention]:
    """Retentions of the distilled student in PyTorch; artefacts have a table of their own."""
    return [
        retention
        for retention in evaluation.retentions
        if (retention.model, retention.artefact) == ("student", "pytorch")
    ]


def _macro_scores(evaluation: EvaluationRecord) -> tuple[float, float] | None:
    """Macro-scores of teacher and student; None unless both were scored on every task."""
    scores = {
        macro.model: macro.score for macro in evaluation.macros if macro.artefact == "pytorch"
    }
    teacher, student = scores.get("teacher"), scores.get("student")
    if isinstance(teacher, float) and isinstance(student, float):
        return teacher, student
    return None


def _macro_verdict(teacher: float, student: float) -> Verdict:
    retention = student / teacher
    word: Word = "holds" if retention >= paper.RETENTION else "does not hold"
    return Verdict(
        "quality",
        QUALITY_CLAIM,
        word,
        f"{percent(retention)} of the teacher's GLUE macro-score",
        f"{hundredths(student, 1)} of {hundredths(teacher, 1)}, nine tasks fine-tuned with the same"
        " budget",
        "the macro-score has no confidence interval; those of the tasks are in the table",
    )


def _worst_task_verdict(evaluation: EvaluationRecord, retentions: Sequence[Retention]) -> Verdict:
    # No mean over tasks: a good one must not hide a bad one.
    worst = min(retentions, key=_sort_key)
    if isinstance(worst.retention, NotMeasured):
        how = worst.retention.not_measured
        return Verdict("quality", QUALITY_CLAIM, "inconclusive", ABSENT, how)
    return Verdict(
        "quality",
        QUALITY_CLAIM,
        _word_for(worst.retention, worst),
        f"{percent(worst.retention)} of the teacher's {worst.metric}",
        _describe_task(evaluation, worst.task, tasks=len(retentions)),
        _quality_caveat(evaluation, worst),
    )


def _sort_key(retention: Retention) -> float:
    # A task without a retention decides nothing unless no task has one.
    if isinstance(retention.retention, NotMeasured):
        return 1.0
    return retention.retention


def _word_for(value: float, retention: Retention) -> Word:
    low, high = retention.retention_low, retention.retention_high
    # The interval contains the bound, so the seeds do not decide.
    if isinstance(low, float) and isinstance(high, float) and low < paper.RETENTION <= high:
        return "inconclusive"
    return "holds" if value >= paper.RETENTION else "does not hold"


def _describe_task(evaluation: EvaluationRecord, task: str, *, tasks: int) -> str:
    """Describes the task that decides, and how it differs from the paper's figure."""
    # Teacher and student may have different numbers of seeds.
    seeds = max((len(s.seeds) for s in evaluation.summaries if s.task == task), default=0)
    suites = {facts.name: facts.suite for facts in evaluation.tasks}
    rank = f", the lowest of {tasks}" if tasks > 1 else ""
    suite = "one task of GLUE" if suites.get(task) == "GLUE" else "not GLUE"
    return (
        f"task {task}{rank}, fine-tuned with the same budget, {plural(seeds, 'seed')}; the paper's"
        f" figure is GLUE's macro-score, this is {suite}"
    )


def _quality_caveat(evaluation: EvaluationRecord, worst: Retention) -> str:
    """Retention above baseline, and retention of the student trained with soft targets."""
    # A constant prediction already scores high on some tasks, so plain retention flatters.
    caveats = []
    above_baseline = worst.retention_above_baseline
    if not isinstance(above_baseline, NotMeasured):
        caveats.append(
            f"retention above the baseline of {percent(worst.baseline)}: {percent(above_baseline)}"
        )
    for retention in evaluation.retentions:
        key = (retention.task, retention.model, retention.artefact)
        # student-d is the student fine-tuned with the teacher's soft targets, the paper's (D) row.
        if key != (worst.task, "student-d", "pytorch"):
            continue
        if isinstance(retention.retention, NotMeasured):
            continue
        caveat = f"with the fine-tuned teacher's soft targets: {percent(retention.retention)}"
        if not isinstance(retention.retention_above_baseline, NotMeasured):
            caveat += f", above baseline {percent(retention.retention_above_baseline)}"
        caveats.append(caveat)
    return "; ".join(caveats)

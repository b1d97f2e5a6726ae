"""The three claims of the paper, judged from records: 40% smaller, 60% faster, 97% as good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgedistil.core import paper
from edgedistil.core.format import millions, percent
from edgedistil.core.records import Claim, EvaluationRecord, NotMeasured, Retention
from edgedistil.core.task import ENCODER_TASK
from edgedistil.report.load import RunFacts

Word = Literal["holds", "does not hold", "inconclusive", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """One claim: the paper's, what this run has, and how that was found."""

    name: str
    claim: str
    word: Word
    figure: str
    how: str
    caveat: str = ""


def verdicts(facts: RunFacts) -> list[Verdict]:
    """Size, speed and quality, in this order; a claim nobody measured says what would measure it."""
    return [size_verdict(facts), speed_verdict(facts), quality_verdict(facts)]


def size_verdict(facts: RunFacts) -> Verdict:
    claim = "40% smaller"
    if facts.distill is None:
        return Verdict(
            "size",
            claim,
            "not measured",
            "–",
            "edgedistil distill counts the parameters of both models",
        )
    teacher, student = facts.distill.teacher, facts.distill.student
    saved = 1 - student.parameters / teacher.parameters
    encoder = 1 - student.encoder_parameters / teacher.encoder_parameters
    return Verdict(
        "size",
        claim,
        "holds" if saved >= paper.PARAMETERS_SAVED else "does not hold",
        f"{percent(saved, 0)} fewer parameters",
        f"counted on the models, tied weights once: {millions(teacher.parameters)} → {millions(student.parameters)};"
        f" the encoders alone: {millions(teacher.encoder_parameters)} → {millions(student.encoder_parameters)}"
        f" ({percent(encoder, 0)} fewer)",
        _embedding_caveat(facts) if saved < paper.PARAMETERS_SAVED else "",
    )


def _embedding_caveat(facts: RunFacts) -> str:
    assert facts.distill is not None
    student = facts.distill.student
    embeddings = student.vocabulary * student.hidden
    share = embeddings / student.parameters
    return (
        f"the vocabulary table, which both models need whole, is {percent(share, 0)} of the student:"
        " halving the layers of a narrow model saves less than halving those of BERT-base"
    )


def speed_verdict(facts: RunFacts) -> Verdict:
    claim = "60% faster"
    speeds = [c for profile in facts.profiles for c in profile.claims if c.claim == "speed"]
    measured = [c for c in speeds if c.method == "measured"]
    if not measured:
        advice = "edgedistil profile measures this host"
        if speeds:
            advice += f"; predicted only: {speeds[0].sentence}"
        return Verdict("speed", claim, "not measured", "–", advice)
    chosen = _paper_like(measured)
    return Verdict(
        "speed", claim, chosen.verdict, _ratio(chosen), chosen.sentence, chosen.conditions
    )


def _paper_like(claims: list[Claim]) -> Claim:
    """The claim on the encoders, as the paper timed them; the fill-mask pair is a row of its own."""
    encoders = [c for c in claims if ENCODER_TASK in c.conditions or "encoder" in c.conditions]
    return (encoders or claims)[0]


def _ratio(claim: Claim) -> str:
    if isinstance(claim.value, NotMeasured):
        return "–"
    if isinstance(claim.low, NotMeasured) or isinstance(claim.high, NotMeasured):
        return f"{claim.value:.2f}x"
    return f"{claim.value:.2f}x ({claim.low:.2f}–{claim.high:.2f})"


def quality_verdict(facts: RunFacts) -> Verdict:
    """GLUE's macro-score where teacher and student have one, as the paper claims; else the worst of the tasks."""
    claim = "97% as good"
    chosen = _student_retentions(facts.evaluation)
    if not chosen:
        return Verdict(
            "quality",
            claim,
            "not measured",
            "–",
            "edgedistil evaluate fine-tunes teacher and student",
        )
    assert facts.evaluation is not None
    scores = _macro_scores(facts.evaluation)
    if scores is not None:
        teacher, student = scores
        word: Word = "holds" if student / teacher >= paper.RETENTION else "does not hold"
        how = f"{100 * student:.1f} of {100 * teacher:.1f}, nine tasks fine-tuned with the same budget"
        return Verdict(
            "quality", claim, word, f"{percent(student / teacher)} of the teacher's GLUE macro-score", how,
            "the macro-score has no interval; the tasks' own are in the table",
        )  # fmt: skip
    worst = min(chosen, key=lambda r: r.retention if isinstance(r.retention, float) else 1.0)
    if isinstance(worst.retention, NotMeasured):
        return Verdict("quality", claim, "inconclusive", "–", worst.retention.not_measured)
    seeds = max(
        (len(s.seeds) for s in facts.evaluation.summaries if s.task == worst.task), default=0
    )
    suite = next((task.suite for task in facts.evaluation.tasks if task.name == worst.task), None)
    return Verdict(
        "quality",
        claim,
        _quality_word(worst),
        f"{percent(worst.retention)} of the teacher's {worst.metric}",
        f"task {worst.task}{', the worst of ' + str(len(chosen)) if len(chosen) > 1 else ''}, fine-tuned with the same"
        f" budget, {seeds} seed{'s' if seeds != 1 else ''}; the paper's figure is GLUE's macro-score, this is"
        f" {'one task of GLUE' if suite == 'GLUE' else 'not GLUE'}",
        _also_kept(facts.evaluation, worst),
    )


def _also_kept(evaluation: EvaluationRecord, worst: Retention) -> str:
    """What a plain share hides, and what the same student keeps with the fine-tuned teacher's soft targets."""
    told = []
    if not isinstance(worst.retention_above_baseline, NotMeasured):
        told.append(
            f"above a constant prediction ({percent(worst.baseline)}) it keeps {percent(worst.retention_above_baseline)}"
        )
    for r in evaluation.retentions:
        if (r.task, r.model, r.artefact) == (worst.task, "student-d", "pytorch") and isinstance(
            r.retention, float
        ):
            above = (
                ""
                if isinstance(r.retention_above_baseline, NotMeasured)
                else f", {percent(r.retention_above_baseline)} above the constant"
            )
            told.append(
                f"with the fine-tuned teacher's soft targets: {percent(r.retention)}{above}"
            )
    return "; ".join(told)


def _macro_scores(evaluation: EvaluationRecord) -> tuple[float, float] | None:
    found = {m.model: m.score for m in evaluation.macros if m.artefact == "pytorch"}
    teacher, student = found.get("teacher"), found.get("student")
    return (teacher, student) if isinstance(teacher, float) and isinstance(student, float) else None


def _student_retentions(evaluation: EvaluationRecord | None) -> list[Retention]:
    if evaluation is None:
        return []
    return [r for r in evaluation.retentions if r.model == "student" and r.artefact == "pytorch"]


def _quality_word(retention: Retention) -> Word:
    low, high = retention.retention_low, retention.retention_high
    assert isinstance(retention.retention, float)
    if isinstance(low, float) and isinstance(high, float) and low < paper.RETENTION <= high:
        return "inconclusive"
    return "holds" if retention.retention >= paper.RETENTION else "does not hold"

"""The three claims of the paper, judged from records: 40% smaller, 60% faster, 97% as good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgedistil import paper
from edgedistil.records import Claim, EvaluationRecord, NotMeasured, Retention
from edgedistil.report.gather import RunFacts
from edgedistil.report.wording import millions, percent

Word = Literal["holds", "does not hold", "cannot be told", "not measured"]


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
        return Verdict("size", claim, "not measured", "–", "edgedistil distill counts the parameters of both models")
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
    return Verdict("speed", claim, chosen.verdict, _ratio(chosen), chosen.sentence, chosen.conditions)


def _paper_like(claims: list[Claim]) -> Claim:
    """The claim on the encoders, as the paper timed them; the fill-mask pair is a row of its own."""
    encoders = [c for c in claims if "feature-extraction" in c.conditions or "encoder" in c.conditions]
    return (encoders or claims)[0]


def _ratio(claim: Claim) -> str:
    if isinstance(claim.value, NotMeasured):
        return "–"
    if isinstance(claim.low, NotMeasured) or isinstance(claim.high, NotMeasured):
        return f"{claim.value:.2f}x"
    return f"{claim.value:.2f}x ({claim.low:.2f}–{claim.high:.2f})"


def quality_verdict(facts: RunFacts) -> Verdict:
    claim = "97% as good"
    chosen = _student_retentions(facts.evaluation)
    if not chosen:
        return Verdict("quality", claim, "not measured", "–", "edgedistil evaluate fine-tunes teacher and student")
    worst = min(chosen, key=lambda r: r.retention if isinstance(r.retention, float) else 1.0)
    if isinstance(worst.retention, NotMeasured):
        return Verdict("quality", claim, "cannot be told", "–", worst.retention.not_measured)
    assert facts.evaluation is not None
    seeds = max((len(s.seeds) for s in facts.evaluation.summaries if s.task == worst.task), default=0)
    return Verdict(
        "quality",
        claim,
        _quality_word(worst),
        f"{percent(worst.retention)} of the teacher's {worst.metric}",
        f"task {worst.task}, fine-tuned with the same budget, {seeds} seed{'s' if seeds != 1 else ''};"
        " the paper's figure is GLUE's macro-score, this is not GLUE",
        f"above a constant prediction ({percent(worst.floor)}) it keeps {percent(worst.above_floor)}"
        if not isinstance(worst.above_floor, NotMeasured)
        else "",
    )


def _student_retentions(evaluation: EvaluationRecord | None) -> list[Retention]:
    if evaluation is None:
        return []
    return [r for r in evaluation.retentions if r.model == "student" and r.artefact == "pytorch"]


def _quality_word(retention: Retention) -> Word:
    low, high = retention.retention_low, retention.retention_high
    assert isinstance(retention.retention, float)
    if isinstance(low, float) and isinstance(high, float) and low < paper.RETENTION <= high:
        return "cannot be told"
    return "holds" if retention.retention >= paper.RETENTION else "does not hold"

"""The paper's three claims, judged from records: 40% smaller, 60% faster, 97% as good.

Size and speed are about encoders, without heads: so a run has the same verdicts whatever it is
trained for. Quality is a retention on any task and metric, for example nDCG of an embedding model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgedistil.core import paper
from edgedistil.core.distill_records import ModelFacts
from edgedistil.core.evaluation_records import (
    EvaluationRecord,
    MacroScore,
    Retention,
    RetrievalScore,
)
from edgedistil.core.format import ABSENT, hundredths, millions, percent, plural, with_interval
from edgedistil.core.profile_records import Claim
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.core.verdict import decide, missing_seeds
from edgedistil.report.load import RunResults, target_device

Word = Literal["holds", "does not hold", "inconclusive", "not measured"]

SIZE_CLAIM = "40% smaller"
SPEED_CLAIM = "60% faster"
QUALITY_CLAIM = "97% as good"

# Words of claims about the encoders (`Claim.figure`), which the paper timed.
_ENCODERS = "speed ratio, encoders"
# The copy of the teacher that the student was distilled from, where its head was fitted.
_FITTED_TEACHER = "teacher"


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
        device: Device that a speed verdict is about; empty for the others.
    """

    name: str
    claim: str
    word: Word
    figure: str
    how: str
    caveat: str = ""
    device: str = ""

    @property
    def title(self) -> str:
        """The claim, with the device where there is one."""
        return f"{self.claim} on {self.device}" if self.device else self.claim


def judge_claims(results: RunResults) -> list[Verdict]:
    """Judges size, speed on each device, and quality, in this order."""
    return [
        size_verdict(results),
        *speed_verdicts(results),
        quality_verdict(results.evaluation),
    ]


# --- size ----------------------------------------------------------------------------------------


def size_verdict(results: RunResults) -> Verdict:
    """Judges the share of the encoder's parameters that the student saves."""
    if results.distill is None:
        how = "edgedistil distill counts the parameters of both models"
        return Verdict("size", SIZE_CLAIM, "not measured", ABSENT, how)
    teacher, student = results.distill.teacher, results.distill.student
    saved = paper.parameters_saved(teacher.encoder_parameters, student.encoder_parameters)
    # A count has no noise: both ends of its interval are the same.
    word: Word = decide(saved, saved, paper.PARAMETERS_SAVED)
    with_heads = paper.parameters_saved(teacher.parameters, student.parameters)
    how = (
        "encoders without heads, counted from the weights:"
        f" {millions(teacher.encoder_parameters)} → {millions(student.encoder_parameters)}; it"
        f" holds from {percent(paper.PARAMETERS_SAVED)} on, which the paper's own pair reaches;"
        f" with all heads {millions(teacher.parameters)} → {millions(student.parameters)}"
        f" ({percent(with_heads)} fewer)"
    )
    caveat = _embedding_caveat(student) if word == "does not hold" else ""
    figure = f"{percent(saved)} fewer encoder parameters"
    return Verdict("size", SIZE_CLAIM, word, figure, how, caveat)


def _embedding_caveat(student: ModelFacts) -> str:
    """Share of the parameters that halving the layers cannot reduce."""
    share = student.vocabulary * student.hidden / student.encoder_parameters
    return (
        "the word-embedding matrix, which has the same size in both models, is"
        f" {percent(share, 0)} of the student's encoder: the narrower a model, the less halving its"
        " layers saves"
    )


# --- speed ---------------------------------------------------------------------------------------


def speed_verdicts(results: RunResults) -> list[Verdict]:
    """Judges the speed of the encoders on each device; the recipe's target device comes first.

    Predictions are mentioned and never decide.
    """
    by_device: dict[str, list[Claim]] = {}
    for profile in results.profiles:
        # The paper's claim is about the exported models, not about what another runtime has.
        if any(row.form is not None for row in profile.rows):
            continue
        claims = [claim for claim in profile.claims if claim.claim == "speed"]
        by_device.setdefault(profile.device, []).extend(claims)
    if not by_device:
        how = "edgedistil profile measures this host"
        return [Verdict("speed", SPEED_CLAIM, "not measured", ABSENT, how)]
    target = target_device(results)
    # Sorting is stable: the other devices stay in the order of their files.
    devices = sorted(by_device, key=lambda device: device != target)
    verdicts = [_device_verdict(device, by_device[device]) for device in devices]
    first, *others = verdicts
    return [_naming_disagreement(first, others), *others]


def _device_verdict(device: str, claims: Sequence[Claim]) -> Verdict:
    encoders = [claim for claim in claims if claim.figure.startswith(_ENCODERS)]
    measured = [claim for claim in encoders if claim.method == "measured"]
    if not measured:
        how = f"the encoders were not timed on {device}"
        # A predicted band may hold, but the paper's claim is about a measured time.
        for claim in [*encoders, *claims][:1]:
            how += f". {claim.sentence}"
        return Verdict("speed", SPEED_CLAIM, "not measured", ABSENT, how, device=device)
    # The first thread count decides, as in the paper; the others are caveats where they differ.
    claim, *others = measured
    ratio = with_interval(
        claim.value, claim.low, claim.high, lambda value: f"{value:.2f}", unit="x"
    )
    word = _claim_word(claim)
    caveats = [claim.conditions]
    if claim.disturbed is not None:
        caveats.append(f"the machine was disturbed: {claim.disturbed}")
    caveats += [
        f"{_claim_word(other)} in another setting: {other.sentence}"
        for other in others
        if _claim_word(other) != word
    ]
    return Verdict(
        "speed", SPEED_CLAIM, word, ratio, claim.sentence, "; ".join(caveats), device=device
    )


def _claim_word(claim: Claim) -> Word:
    return claim.verdict if claim.disturbed is None else "inconclusive"


def _naming_disagreement(first: Verdict, others: Sequence[Verdict]) -> Verdict:
    """Adds the devices with another measured verdict to the caveat of the first device."""
    disagreeing = [
        f"on {other.device} it is otherwise: {other.word} ({other.figure})"
        for other in others
        if "not measured" not in (first.word, other.word) and other.word != first.word
    ]
    caveat = "; ".join([*disagreeing, first.caveat] if first.caveat else disagreeing)
    return Verdict(
        first.name, first.claim, first.word, first.figure, first.how, caveat, first.device
    )


# --- quality -------------------------------------------------------------------------------------


def quality_verdict(evaluation: EvaluationRecord | None) -> Verdict:
    """Judges GLUE's macro-score, as the paper does, or else all tasks, or else retrieval."""
    how = "edgedistil evaluate scores teacher and student on labelled tasks or in searches"
    not_measured = Verdict("quality", QUALITY_CLAIM, "not measured", ABSENT, how)
    if evaluation is None:
        return not_measured
    retentions = _student_retentions(evaluation)
    if not retentions:
        searches = [score for score in evaluation.retrieval if score.model == "student"]
        return _retrieval_verdict(searches) if searches else not_measured
    # The paper's 97% is a ratio of macro-scores, so it decides where it exists.
    for macro in evaluation.macros:
        is_student = (macro.model, macro.artefact) == ("student", "pytorch")
        if is_student and isinstance(macro.retention, float):
            return _macro_verdict(macro, macro.retention)
    return _tasks_verdict(evaluation, retentions)


def _student_retentions(evaluation: EvaluationRecord) -> list[Retention]:
    """Retentions of the distilled student in PyTorch; artefacts have a table of their own."""
    return [
        retention
        for retention in evaluation.retentions
        if (retention.model, retention.artefact) == ("student", "pytorch")
    ]


def retention_word(low: Figure, high: Figure, seeds: int) -> Word:
    """Returns the verdict on a retention; too few seeds or no interval decide nothing."""
    if missing_seeds(seeds) or isinstance(low, NotMeasured) or isinstance(high, NotMeasured):
        return "inconclusive"
    return decide(low, high, paper.RETENTION)


def _macro_verdict(macro: MacroScore, retention: float) -> Verdict:
    figure = with_interval(retention, macro.retention_low, macro.retention_high, percent)
    caveats = [missing_seeds(macro.seeds), macro.interval]
    return Verdict(
        "quality",
        QUALITY_CLAIM,
        retention_word(macro.retention_low, macro.retention_high, macro.seeds),
        f"{figure} of the GLUE macro-score of {macro.reference}",
        f"{hundredths(macro.score, 1)}, nine tasks fine-tuned with the same budget,"
        f" {plural(macro.seeds, 'seed')}; {_bound_text()}",
        "; ".join(filter(None, caveats)),
    )


def _bound_text() -> str:
    return f"it holds from {percent(paper.RETENTION)} on, which the paper's own pair reaches"


def _tasks_verdict(evaluation: EvaluationRecord, retentions: Sequence[Retention]) -> Verdict:
    """Judges all tasks: the claim holds only if it holds on each of them."""
    # No mean over tasks: a good one must not hide a bad one.
    words = {
        retention.task: retention_word(
            retention.retention_low, retention.retention_high, retention.seeds
        )
        for retention in retentions
    }
    word = _worst_word(words.values())
    worst = min((r for r in retentions if words[r.task] == word), key=_sort_key)
    figure = with_interval(worst.retention, worst.retention_low, worst.retention_high, percent)
    if isinstance(worst.retention, float):
        figure += f" of the {worst.metric} of {worst.reference}"
    return Verdict(
        "quality",
        QUALITY_CLAIM,
        word,
        figure,
        _describe_task(evaluation, worst),
        "; ".join(_quality_caveats(evaluation, worst)),
    )


def _worst_word(words: Iterable[Word]) -> Word:
    """Returns the word that decides: no mean, so that a good task cannot hide a bad one."""
    present = set(words)
    order: list[Word] = ["does not hold", "inconclusive", "holds"]
    return next(candidate for candidate in order if candidate in present)


def _retrieval_verdict(searches: Sequence[RetrievalScore]) -> Verdict:
    """Judges the retention of nDCG on all collections: it holds only if it holds on each."""
    words = {
        score.collection: retention_word(score.retention_low, score.retention_high, score.seeds)
        for score in searches
    }
    word = _worst_word(words.values())
    worst = min(
        (score for score in searches if words[score.collection] == word),
        key=lambda score: score.retention,
    )
    interval = with_interval(worst.retention, worst.retention_low, worst.retention_high, percent)
    rank = f", the lowest of {len(searches)}" if len(searches) > 1 else ""
    return Verdict(
        "quality",
        QUALITY_CLAIM,
        word,
        f"{interval} of the ndcg@10 of {worst.reference}",
        f"collection {worst.collection}{rank}, {worst.queries:,} queries, nothing fine-tuned;"
        f" {_bound_text()}; the paper's figure is GLUE's macro-score, this is not GLUE",
        "; ".join(filter(None, [_few_distillations(worst.seeds), f"interval: {worst.interval}"])),
    )


def _few_distillations(seeds: int) -> str:
    """Why so few students decide nothing; empty if there are enough."""
    missing = missing_seeds(seeds)
    return f"{plural(seeds, 'distillation')}: {missing} (--seed-run)" if missing else ""


def _sort_key(retention: Retention) -> float:
    # A task without a retention decides nothing unless no task has one.
    if isinstance(retention.retention, NotMeasured):
        return 1.0
    return retention.retention


def _describe_task(evaluation: EvaluationRecord, worst: Retention) -> str:
    """Describes the task that decides, and how it differs from the paper's figure."""
    facts = {task.name: task for task in evaluation.tasks}
    task = facts.get(worst.task)
    # Two tasks on the same texts are one piece of evidence.
    tasks = sum(entry.same_texts_as is None for entry in evaluation.tasks)
    rank = f", the lowest of {tasks}" if tasks > 1 else ""
    procedure = f", {task.procedure}" if task is not None else ""
    suite = "not GLUE"
    if task is not None and task.suite == "GLUE":
        suite = "one task of GLUE"
    return (
        f"task {worst.task}{rank}{procedure}, {plural(worst.seeds, 'seed')}; {_bound_text()}; the"
        f" paper's figure is GLUE's macro-score, this is {suite}"
    )


def _quality_caveats(evaluation: EvaluationRecord, worst: Retention) -> list[str]:
    """Missing seeds, retention above the baseline, the fitted copy, and soft targets."""
    caveats = []
    if missing_seeds(worst.seeds):
        caveats.append(missing_seeds(worst.seeds))
    if isinstance(worst.retention, NotMeasured):
        caveats.append(worst.retention.not_measured)
    # The baseline already scores high on some tasks, so plain retention flatters.
    if isinstance(worst.retention_above_baseline, float):
        caveats.append(
            f"retention above the baseline of {percent(worst.baseline)}"
            f" ({worst.baseline_model}): {percent(worst.retention_above_baseline)}"
        )
    labels = {
        _FITTED_TEACHER: "the copy of the teacher whose head was fitted",
        # The paper's (D) row.
        "student-d": "the student with the fine-tuned teacher's soft targets",
        "student-step0-d": "the undistilled student with them",
        "teacher-d": "the teacher with its own",
    }
    others = {(r.task, r.model, r.artefact): r for r in evaluation.retentions}
    for model, label in labels.items():
        other = others.get((worst.task, model, "pytorch"))
        if other is not None and isinstance(other.retention, float):
            caveats.append(f"{label} retains {percent(other.retention)}")
    return caveats

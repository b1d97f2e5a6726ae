"""Claims about size and speed, each with a verdict and the paper's figure.

A speed claim compares two artefacts (`Pairing`), either by blocks of calls in which they alternated
(`speed_claim`) or by the cost model (`predicted_claim`). The verdict comes from the confidence
interval, or from the predicted band: an interval that contains the threshold is inconclusive. Only
"speed" and "size" are claims of the paper and use its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgedistil.core import paper
from edgedistil.core.format import plural
from edgedistil.core.precision import PRECISIONS, Precision
from edgedistil.core.profile_records import Claim
from edgedistil.core.records import Band, Method, NotMeasured
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK
from edgedistil.core.verdict import Verdict, decide, in_sentence
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import CONFIDENCE, Ratio

SpeedKind = Literal["speed", "deploy", "int8-pays"]
# What a claim is about; requirements find claims by these words in `Claim.figure`.
ENCODERS = "encoders"
FILL_MASK_MODELS = "fill-mask models"

_FIGURES: dict[SpeedKind, str] = {
    "speed": "speed ratio",
    "deploy": "speed ratio as deployed",
    "int8-pays": "speed ratio of int8",
}
# The claims "deploy" and "int8-pays" are about the first of these that the student has.
_SMALL_PRECISIONS = [name for name, row in PRECISIONS.items() if row.weight_bits <= 8]


# --- pairings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """Two artefacts that a speed claim compares.

    Attributes:
        kind: "speed" is the paper's claim in fp32; "deploy" compares the fp32 teacher with the
            quantized student; "int8-pays" compares the student with its quantized self.
        subject: What is compared, for sentences: "encoders" or "fill-mask models".
        first: The artefact that should be slower.
        second: The artefact that should be faster.
    """

    kind: SpeedKind
    subject: str
    first: Artefact
    second: Artefact

    @property
    def name(self) -> str:
        """Name of the pairing in jobs and replies."""
        return f"{self.kind} {self.subject}"

    @property
    def threshold(self) -> float:
        """Speed ratio from which on the claim holds."""
        # The paper compares models in one precision; the other claims are only that it is faster.
        return paper.SPEED_RATIO if self.kind == "speed" else 1.0

    @property
    def paper(self) -> str:
        """The paper's figure next to the claim."""
        return paper.SPEED_ROW if self.kind == "speed" else "not in the paper"


def pairings(artefacts: Sequence[Artefact]) -> list[Pairing]:
    """Returns the pairs of artefacts that speed claims can be made about.

    Pairs of which the run lacks an artefact are left out.
    """
    by_key = {(a.role, a.task, a.precision): a for a in artefacts}
    teacher = by_key.get(("teacher", ENCODER_TASK, "fp32"))
    student = by_key.get(("student", ENCODER_TASK, "fp32"))
    small_student = by_key.get(("student", ENCODER_TASK, _small_precision(artefacts)))
    fill_mask_teacher = by_key.get(("teacher", FILL_MASK_TASK, "fp32"))
    fill_mask_student = by_key.get(("student", FILL_MASK_TASK, "fp32"))

    # The claims, in the order of the report.
    candidates: list[tuple[SpeedKind, str, Artefact | None, Artefact | None]] = [
        ("speed", ENCODERS, teacher, student),
        ("speed", FILL_MASK_MODELS, fill_mask_teacher, fill_mask_student),
        ("deploy", ENCODERS, teacher, small_student),
        ("int8-pays", ENCODERS, student, small_student),
    ]
    pairs = []
    for kind, subject, first, second in candidates:
        if first is not None and second is not None:
            pairs.append(Pairing(kind, subject, first, second))
    return pairs


def _small_precision(artefacts: Sequence[Artefact]) -> Precision:
    """Returns the precision of the quantized student: int8 before int4."""
    available = {a.precision for a in artefacts if (a.role, a.task) == ("student", ENCODER_TASK)}
    for precision in _SMALL_PRECISIONS:
        if precision in available:
            return precision
    return _SMALL_PRECISIONS[0]


# --- speed ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClaimSetting:
    """Where and how the two artefacts of a claim were compared.

    Attributes:
        device: Name of the device.
        method: How the times were obtained.
        threads: Threads of both sessions.
        runtime: Runtime with its version.
        text: What the models ran on: "60 sentence pairs, batch 1".
    """

    device: str
    method: Method
    threads: int
    runtime: str
    text: str


def speed_claim(pairing: Pairing, ratio: Ratio | NotMeasured, setting: ClaimSetting) -> Claim:
    """Returns the claim about a pairing from processes in which both artefacts took turns.

    Args:
        pairing: The two artefacts.
        ratio: Their speed ratio, or why the processes give none.
        setting: Where and how they ran.
    """
    conditions = _conditions(pairing, setting)
    if setting.threads > 1:
        # Rows of a profile have sessions of their own, whose threads spin.
        conditions += ", idle threads stop spinning after each call (force_spinning_stop)"
    if isinstance(ratio, NotMeasured):
        return _undecided_claim(pairing, ratio, setting, conditions=conditions)
    interval = (
        f"geometric mean of {ratio.processes} processes with alternating blocks, "
        f"{CONFIDENCE:.0%} interval (Student's t over the processes)"
    )
    return _claim(pairing, ratio, setting, conditions=f"{conditions}; {interval}")


def _undecided_claim(
    pairing: Pairing, reason: NotMeasured, setting: ClaimSetting, *, conditions: str
) -> Claim:
    """Returns the claim about a pairing whose processes were disturbed."""
    outcome = _outcome(pairing, "inconclusive", setting)
    return Claim(
        claim=pairing.kind,
        verdict="inconclusive",
        sentence=f"{outcome}: the machine was disturbed: {reason.not_measured}.",
        method=setting.method,
        device=setting.device,
        conditions=conditions,
        figure=_figure(pairing, setting),
        value=reason,
        low=reason,
        high=reason,
        disturbed=reason.not_measured,
        threshold=pairing.threshold,
        paper=pairing.paper,
    )


def _figure(pairing: Pairing, setting: ClaimSetting) -> str:
    """Name of the ratio, by which requirements find it."""
    return f"{_FIGURES[pairing.kind]}, {pairing.subject}, {plural(setting.threads, 'thread')}"


@dataclass(frozen=True)
class PredictedRatio:
    """A speed ratio that the cost model predicts.

    Attributes:
        middle: The ratio.
        band: Its band.
        counted: The ratio of the multiply-adds alone: what a prediction without a model is.
        undecided: Why there is no verdict, whatever the band; None if the band decides.
    """

    middle: float
    band: Band
    counted: float
    undecided: str | None = None


def predicted_claim(pairing: Pairing, predicted: PredictedRatio, setting: ClaimSetting) -> Claim:
    """Returns the claim about a pairing as the cost model predicts it.

    Args:
        pairing: The two artefacts.
        predicted: The ratio.
        setting: The device, and what the prediction is based on.
    """
    # A predicted ratio has a band instead of an interval.
    band = predicted.band
    ratio = Ratio(predicted.middle, band.low, band.high, processes=0)
    conditions = _conditions(pairing, setting)
    verdict: Verdict | None = None
    if predicted.undecided is not None:
        verdict = "inconclusive"
        conditions = f"{conditions}; no verdict: {predicted.undecided}"
    claim = _claim(pairing, ratio, setting, conditions=conditions, verdict=verdict)
    counted = f"counting multiply-adds alone: {predicted.counted:.2f}."
    sentence = f"Predicted, not measured: {claim.sentence.removesuffix('.')}; {counted}"
    return claim.model_copy(update={"sentence": sentence})


def _claim(
    pairing: Pairing,
    ratio: Ratio,
    setting: ClaimSetting,
    *,
    conditions: str,
    verdict: Verdict | None = None,
) -> Claim:
    # The interval decides, not the middle: a ratio above the threshold may be noise.
    verdict = verdict or decide(ratio.low, ratio.high, pairing.threshold)
    return Claim(
        claim=pairing.kind,
        verdict=verdict,
        sentence=_sentence(pairing, ratio, verdict, setting),
        method=setting.method,
        device=setting.device,
        conditions=conditions,
        figure=_figure(pairing, setting),
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        threshold=pairing.threshold,
        paper=pairing.paper,
    )


def _conditions(pairing: Pairing, setting: ClaimSetting) -> str:
    return (
        f"{pairing.first.label} against {pairing.second.label}, {setting.runtime}, "
        f"{plural(setting.threads, 'thread')}, {setting.text}"
    )


def _sentence(pairing: Pairing, ratio: Ratio, verdict: Verdict, setting: ClaimSetting) -> str:
    first, second = pairing.first, pairing.second
    outcome = _outcome(pairing, verdict, setting)
    speed = f"{ratio.value:.2f} times as fast ({ratio.low:.2f} to {ratio.high:.2f})"
    sizes = f"{second.file_bytes / 1e6:.1f} MB against {first.file_bytes / 1e6:.1f} MB on disk"
    if pairing.kind == "speed":
        return f"{outcome}: the student is {speed} as its teacher; {sizes}."
    if pairing.kind == "deploy":
        return f"{outcome}: it is {speed}; {sizes}."
    return f"{outcome}: it is {speed} as {first.precision}; {sizes}."


def _outcome(pairing: Pairing, verdict: Verdict, setting: ClaimSetting) -> str:
    """Returns claim, place and verdict; only "speed" has the paper's words."""
    first, second = pairing.first, pairing.second
    # A record has a claim for each thread count.
    place = f"on {setting.device} with {plural(setting.threads, 'thread')}"
    outcome = in_sentence(verdict)
    if pairing.kind == "speed":
        return f'"60% faster" {outcome} for the {pairing.subject} {place}'
    if pairing.kind == "deploy":
        return (
            f"That the {second.precision} student is faster than the {first.precision} teacher "
            f"{place} {outcome}"
        )
    return f"That {second.precision} pays {place} {outcome}"


# --- size ----------------------------------------------------------------------------------------


def size_claims(artefacts: Sequence[Artefact], *, device: str, method: Method) -> list[Claim]:
    """Returns the claim about the parameters saved by the encoders.

    Args:
        artefacts: Artefacts of a run; without both fp32 encoders no claim is made.
        device: Device of the profile that the claim belongs to.
        method: Method of that profile; the parameters are counted on the files.
    """
    by_key = {(a.role, a.task, a.precision): a for a in artefacts}
    teacher = by_key.get(("teacher", ENCODER_TASK, "fp32"))
    student = by_key.get(("student", ENCODER_TASK, "fp32"))
    if teacher is None or student is None:
        return []
    saved = paper.parameters_saved(teacher.parameters, student.parameters)
    # A count has no noise: both ends of its interval are the same.
    verdict = decide(saved, saved, paper.PARAMETERS_SAVED)
    sentence = (
        f'"40% smaller" {in_sentence(verdict)}: '
        f"the student has {student.parameters / 1e6:.1f}M parameters, "
        f"its teacher {teacher.parameters / 1e6:.1f}M, {saved:.1%} fewer; "
        f"{student.file_bytes / 1e6:.1f} MB against {teacher.file_bytes / 1e6:.1f} MB on disk."
    )
    claim = Claim(
        claim="size",
        verdict=verdict,
        sentence=sentence,
        method=method,
        device=device,
        conditions="encoders as exported, every parameter counted; the threshold is what the "
        "paper's own pair reaches by the same count",
        figure="parameters saved",
        value=saved,
        low=saved,
        high=saved,
        threshold=paper.PARAMETERS_SAVED,
        paper=paper.SIZE_ROW,
    )
    return [claim]

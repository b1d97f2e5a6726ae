"""What stages hand on. Units are in the names, provenance is inside, raw samples are kept.

A record is frozen, strict, and JSON on disk (`write_record`, `read_record`). A figure that could not be had is a
`NotMeasured` with its reason, never 0, -1 or "unknown"; NaN and infinities are refused.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgedistil.core.cpu import this_cpu
from edgedistil.core.errors import StorageError
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import read_json, write_json
from edgedistil.core.task import LabelledKind
from edgedistil.core.version import __version__

Method = Literal["measured", "emulated", "predicted"]
Role = Literal["teacher", "student"]
Kind = LabelledKind

VERSIONED_PACKAGES = (
    "edgedistil",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optimum",
    "numpy",
)


class Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, allow_inf_nan=False, protected_namespaces=()
    )


class NotMeasured(Record):
    """An absent figure, and why it is absent."""

    not_measured: str = Field(min_length=1)


Figure = float | NotMeasured
Count = int | NotMeasured


class Host(Record):
    """The machine that a figure was taken on."""

    machine: str
    cpu: str
    cores: int
    memory_bytes: Count
    system: str
    python: str


class Provenance(Record):
    created_utc: str
    command: str
    versions: dict[str, str]
    host: Host


# --- distil ---------------------------------------------------------------------------------------


class Source(Record):
    """One corpus source as it was used."""

    name: str
    licence: str
    origin: str
    sha256: str
    documents: int
    text_bytes: int


class CorpusRecord(Record):
    sources: list[Source]
    layout: Literal["packed", "lines"]
    block_length: int
    vocabulary: int
    train_tokens: int
    heldout_tokens: int
    heldout_documents: int
    cache_key: str
    cached_at: str


class ModelFacts(Record):
    """What a model is, counted on the model itself."""

    name: str
    model_type: str
    architecture: str
    layers: int
    hidden: int
    vocabulary: int
    parameters: int = Field(description="of the whole model, tied weights once")
    encoder_parameters: int = Field(description="without any head")
    weights_sha256: str


class HeldoutMlm(Record):
    """Masked-LM quality on held-out text, the same masked positions for every model."""

    model: str
    step: int
    masked_tokens: int
    mlm_loss_nats: float
    top1: float = Field(
        description="share of masked tokens whose most likely word is the right one, 0..1"
    )
    agreement: Figure = Field(
        description="share of masked tokens with the teacher's most likely word, 0..1"
    )
    kl_nats: Figure = Field(
        description="KL(teacher || student) at T = 1, mean over the masked tokens"
    )


class DistillRecord(Record):
    """The result of `distill`; the trace itself is in metrics.jsonl."""

    recipe_sha256: str
    teacher: ModelFacts
    student: ModelFacts
    student_init: str = Field(
        default="teacher", description="teacher, random, or the folder of a student"
    )
    layer_map: list[int] = Field(
        description="teacher layers that the student starts from, where it does"
    )
    steps: int
    tokens_seen: int
    seconds: float
    tokens_per_s: float
    heldout: list[HeldoutMlm] = Field(description="teacher, student at step 0, student now")
    precision: str = Field(default="float32", description="that the loop computed in")
    processes: int = 1
    peak_memory_bytes: Count = Field(
        default=NotMeasured(not_measured="not looked at"),
        description="of the main process while it trained",
    )
    provenance: Provenance


class PlannedModel(Record):
    """A model that a plan is about: counted on the model, or reckoned from known shapes."""

    name: str
    layers: int
    hidden: int
    vocabulary: int
    parameters: int
    how: str


class PlannedDevice(Record):
    """What the run would take on one kind of device. `method` says whether steps were timed or only reckoned."""

    device: str
    method: Method
    processes: int
    micro_batch: int
    tokens_per_s: Figure = Field(description="over all processes")
    seconds: Figure = Field(
        description="of the loop: training, held-out evaluations in it, checkpoints"
    )
    memory_bytes: Count = Field(description="peak of one process")
    device_memory_bytes: Count = Field(description="what there is")
    how: str


class PlanRecord(Record):
    """What `distill` would do, and what it would take."""

    recipe: str
    teacher: PlannedModel
    student: PlannedModel
    layer_map: list[int]
    corpus_tokens: int = Field(description="tokens of one pass over the training part")
    corpus_how: str
    tokens: int = Field(description="tokens that the run will see")
    steps: int
    tokens_per_step: int
    precision: str
    devices: list[PlannedDevice]
    notes: list[str] = []
    provenance: Provenance


# --- evaluate -------------------------------------------------------------------------------------


class Cell(Record):
    """One model fine-tuned (and scored) on one task with one seed."""

    task: str
    model: str = Field(
        description="teacher · student · student-step0 · student-random · student-d …"
    )
    seed: int
    scores: dict[str, float] = Field(description="metric name → value, 0..1 or -1..1; not percent")
    metric: str = Field(description="the one of `scores` that counts")
    dev_examples: int
    train_examples: int
    seconds: float
    artefact: str = Field(
        default="pytorch", description="pytorch, or the precision of the ONNX artefact scored"
    )
    warnings: list[str] = []
    hyper_parameters: dict[str, float | int | str] = Field(
        default={}, description="of fine-tuning, limits included"
    )
    provenance: Provenance


class PaperRow(Record):
    """What Sanh et al. 2019 report for a task; shares, not percent."""

    metric: str
    teacher: float
    student: float
    student_d: Figure = NotMeasured(not_measured="the paper has no (D) row for this task")
    source: str


class TaskFacts(Record):
    """A task as it was used: its data, its baseline, and the paper's row where there is one."""

    name: str
    title: str
    kind: Kind
    metric: str
    suite: str | None = Field(
        default=None, description="GLUE, or none: another data set is never called GLUE"
    )
    train_examples: int
    dev_examples: int
    baseline: float = Field(description="what the constant prediction scores on the dev set")
    baseline_rule: str = Field(description="what the constant prediction is")
    origin: str
    licence: str
    settings_source: str = Field(description="where the hyper-parameters come from")
    paper: PaperRow | None = None
    warnings: list[str] = []


class Summary(Record):
    """A task and model over its seeds."""

    task: str
    model: str
    artefact: str = "pytorch"
    metric: str
    seeds: list[int]
    median: float
    lowest: float
    highest: float


class Retention(Record):
    """Share of the teacher's score that a student retains; `baseline` is a constant prediction's."""

    task: str
    model: str
    artefact: str = "pytorch"
    metric: str
    baseline: float
    retention: Figure = Field(description="student median / teacher median")
    retention_low: Figure
    retention_high: Figure
    retention_above_baseline: Figure = Field(
        description="(student - baseline) / (teacher - baseline)"
    )
    retention_above_baseline_low: Figure
    retention_above_baseline_high: Figure
    interval: str = Field(
        default="", description="what the low and high figures are: level, what was resampled"
    )
    paper: Figure = Field(
        default=NotMeasured(not_measured="the paper has no row for this task"),
        description="retention in the paper",
    )


class MacroScore(Record):
    """Plain mean of a suite's task scores (medians over the seeds)."""

    suite: str
    model: str
    artefact: str = "pytorch"
    score: Figure = Field(description="absent unless every task of the suite was scored")
    tasks: list[str]
    how: str
    paper: Figure


class ArtefactScore(Record):
    """A fine-tuned model as PyTorch or as one ONNX artefact: score, size and latency side by side."""

    task: str
    model: str
    artefact: str = Field(description="pytorch, or the precision of the ONNX artefact")
    metric: str
    seeds: list[int]
    median: float
    drop: float = Field(
        description="median over the seeds of (pytorch score - this score), same weights"
    )
    bytes: int = Field(description="weights file, or the graph with its external data")
    latency_ms: Figure = Field(description="p50 of single dev examples, one thread")
    latency_conditions: str


class EvaluationRecord(Record):
    cells: list[Cell]
    summaries: list[Summary]
    retentions: list[Retention]
    tasks: list[TaskFacts] = []
    macros: list[MacroScore] = []
    artefacts: list[ArtefactScore] = []
    provenance: Provenance


class Variation(Record):
    """One run of an ablation against the full recipe: same tokens, same seeds, same tasks."""

    name: str
    description: str
    run: str
    changed: dict[str, str] = Field(description="recipe key → value here (the full recipe's value)")
    tokens_seen: int
    score: float = Field(description="mean over the tasks of the medians over the seeds")
    per_task: dict[str, float]
    change: Figure = Field(description="score - the full recipe's score")
    change_low: Figure
    change_high: Figure
    spread: Figure = Field(description="standard deviation over the seeds of the change")
    within_noise: bool = Field(description="the interval of the change holds 0")
    paper_change: Figure = Field(description="what the paper's table 4 says, on GLUE's macro-score")


class AblationRecord(Record):
    """What removing a part of the recipe costs (the paper's table 4); `variations[0]` is the full recipe."""

    tasks: list[str]
    seeds: list[int]
    interval: str
    variations: list[Variation]
    agrees_with_paper: str = Field(
        description="whether the order of the changes is the paper's, in words"
    )
    provenance: Provenance


# --- export and parity ------------------------------------------------------------------------------


class FileFacts(Record):
    path: str = Field(description="relative to the export folder")
    bytes: int
    sha256: str


class ExportRecord(Record):
    """One artefact: what was made, from what, and what it costs. `export.<precision>.json` in the export folder."""

    model: str = Field(description="student, teacher, or the name of the exported model")
    role: Role | Literal["other"]
    task: str
    precision: Precision
    files: list[FileFacts] = Field(description="the graph first, then its external data")
    source_sha256: str
    parameters: int
    opset: int
    ir_version: int
    target_device: str
    reasons: dict[str, str] = Field(
        description="choice made → why (signedness, per channel, tracer, embeddings …)"
    )
    fused: dict[str, int] = Field(description="what the graph passes fused, counted")
    kept_float: list[str] = Field(description="initializers over 1 KiB that stayed in float")
    bytes_by_part: dict[str, int] = Field(
        description="embeddings, attention, feed-forward, head, other"
    )
    seconds: float
    provenance: Provenance


class ParityFigures(Record):
    """How far an artefact's outputs are from PyTorch's on one set of probes."""

    sequences: int
    length: Count
    max_abs: float
    mean_abs: float
    cosine_min: Figure = Field(
        description="smallest cosine of a hidden state (or of an output row)"
    )
    cosine_mean: Figure = Field(description="mean cosine of the same rows")
    kl_nats: Figure
    agreement: Figure = Field(description="top-1 at masked positions, of labels, or of spans, 0..1")
    decisions: int = Field(
        default=0, description="masked positions, labels or spans that `agreement` is over"
    )
    concordance: Figure = Field(
        default=NotMeasured(not_measured="the task's answer is not one value"),
        description="Lin's coefficient of a regression's values over the probes; a shift or another scale lowers it",
    )


class Tolerance(Record):
    """A bound that a figure must keep, and why it is what it is."""

    figure: str
    bound: Literal["at most", "at least"]
    value: float
    reason: str


class ToleranceResult(Record):
    tolerance: Tolerance
    got: float
    holds: bool


class ParityRecord(Record):
    model: str
    task: str
    precision: Precision
    artefact_sha256: str
    runtime: str
    method: Method = Field(
        default="measured", description="emulated when it ran under another instruction set"
    )
    device: str = "host"
    overall: ParityFigures
    by_length: list[ParityFigures]
    results: list[ToleranceResult]
    passed: bool
    provenance: Provenance


class PartError(Record):
    """The error of one part of an encoder: the embeddings, half a layer, the head.

    Relative errors are ‖artefact - PyTorch‖ / ‖PyTorch‖ over the probes' hidden states.
    """

    part: str = Field(
        description="embeddings · layer N attention · layer N feed-forward · head · output"
    )
    own: float = Field(
        description="relative error of its output when its input is PyTorch's, exactly"
    )
    reached: float = Field(
        description="relative error of its output in the running artefact, earlier errors included"
    )
    reached_max_abs: float


class NodeError(Record):
    """The error that one node of a part adds to exact inputs."""

    node: str
    operator: str
    output: str
    own: float = Field(
        description="relative error of its output when its inputs are the good artefact's"
    )


class FloatGain(Record):
    """What leaving one part in float buys: the figures of the artefact made so, and its size."""

    part: str
    figures: ParityFigures
    bytes: int


class ExplainRecord(Record):
    """Where an artefact's error comes from."""

    artefact_sha256: str
    task: str
    parts: list[PartError]
    worst_part: str
    worst_node: NodeError | NotMeasured
    nodes: list[NodeError] = Field(description="of the worst part, worst first")
    bytes: int
    figures: ParityFigures | NotMeasured = Field(description="of the artefact as it is")
    gains: list[FloatGain] | NotMeasured
    provenance: Provenance


# --- profile ----------------------------------------------------------------------------------------


class Band(Record):
    """A predicted figure: low and high, never a bare number."""

    low: float
    high: float


class LatencyStats(Record):
    """Observed percentiles (nearest rank) of steady calls, and the raw samples behind them."""

    calls: int
    p50_ms: Figure
    p90_ms: Figure
    p95_ms: Figure
    p99_ms: Figure
    min_ms: float
    mean_ms: float
    drift: Figure = Field(description="median of the last third / median of the first third - 1")
    samples_ms: list[float]


class MemoryStats(Record):
    """Resident memory of a fresh process that only loads and runs the artefact."""

    after_import_bytes: Count
    after_load_bytes: Count
    after_run_bytes: Count
    peak_bytes: Count


class ProfileRow(Record):
    """One artefact at one length and thread count on one device by one method."""

    model: str
    role: Role | Literal["other"]
    task: str
    precision: Precision
    file_bytes: int
    parameters: int
    artefact_sha256: str
    device: str
    method: Method
    runtime: str
    threads: int
    batch: int
    length: int | Literal["sentence-pairs"]
    latency_ms: Figure | Band = Field(
        description="p50 of steady calls, a predicted band, or why there is none"
    )
    latency: LatencyStats | NotMeasured
    load_ms: Figure | Band
    first_call_ms: Figure | Band
    start_to_first_result_ms: Figure | Band
    memory: MemoryStats | NotMeasured
    peak_memory_bytes: Count | Band
    valid: bool
    invalid_reason: str | None = None
    conditions: dict[str, str] = Field(
        description="governor, clock, temperature, calibration, kernels …; as read"
    )


class Claim(Record):
    """Teacher against student under equal conditions, next to the paper's figure."""

    claim: Literal["speed", "size", "quality", "deploy", "int8-pays"]
    verdict: Literal["holds", "does not hold", "inconclusive"]
    sentence: str
    method: Method
    device: str
    conditions: str = Field(
        description="models, task, precision, runtime, threads, lengths, in words"
    )
    figure: str = Field(description="what `value` is: speed ratio, parameters saved, …")
    value: Figure
    low: Figure
    high: Figure
    threshold: float
    paper: str


class OpTime(Record):
    """Share of one kind of operator or of one layer in the profiled pass."""

    name: str
    calls: int
    total_ms: float
    share: float


class MemoryFit(Record):
    """One artefact under a memory limit: whether it fits, with its peak, and what enforced the limit."""

    model: str
    role: Role | Literal["other"]
    task: str
    precision: Precision
    artefact_sha256: str
    device: str
    method: Method
    limit_bytes: int
    enforced_by: str = Field(
        description="cgroup v2, cgroup v1, RLIMIT_AS, a watch on the guest's pages"
    )
    threads: int
    length: int
    fits: bool
    peak_memory_bytes: Count
    ended: str | None = Field(
        default=None, description="where and of what it died, when it does not fit"
    )


class ProfileRecord(Record):
    device: str
    method: Method
    rows: list[ProfileRow]
    claims: list[Claim]
    fits: list[MemoryFit] = []
    op_times: dict[str, list[OpTime]] = Field(
        default={}, description="artefact label → times by kind of operator"
    )
    layer_times: dict[str, list[OpTime]] = {}
    notes: list[str] = []
    provenance: Provenance


# --- reading and writing ------------------------------------------------------------------------------

R = TypeVar("R", bound=Record)


def write_record(path: Path, record: Record) -> None:
    """Writes a record as JSON, whole or not at all."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[R]) -> R:
    """The record in `path`.

    Raises:
        StorageError: The file is missing, torn, or of another kind or version.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"{path} is no {kind.__name__}: {where}: {first['msg']}",
            hint="it was written by another version, or changed by hand: make it anew",
        ) from error


def provenance(command: str | None = None) -> Provenance:
    """Who made a figure, when and where: UTC time, command line, versions, host."""
    return Provenance(
        created_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=command or " ".join(["edgedistil", *sys.argv[1:]]),
        versions=installed_versions(),
        host=this_host(),
    )


def installed_versions() -> dict[str, str]:
    versions = {"edgedistil": __version__}
    for name in VERSIONED_PACKAGES[1:]:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # the device side runs without the training packages
    return versions


def this_host() -> Host:
    return Host(
        machine=platform.machine(),
        cpu=this_cpu().name,
        cores=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _memory_bytes() -> Count:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return NotMeasured(not_measured="this system does not tell its memory size")


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

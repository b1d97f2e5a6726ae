"""Records: the JSON files through which stages pass their results on.

A record is frozen and strict. Units are in the field names; provenance and raw samples are
included. A figure that is not available is a `NotMeasured` with a reason, never 0, -1 or "unknown";
NaN and infinities are refused. Field names are the JSON keys of users' files, so a renamed field
makes earlier files unreadable.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgedistil.core.cpu import this_cpu
from edgedistil.core.errors import StorageError
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import read_json, write_json
from edgedistil.core.task import LabelledKind
from edgedistil.core.verdict import Verdict
from edgedistil.core.version import __version__

# How a figure was obtained: on the device, under QEMU, or from the cost model.
Method = Literal["measured", "emulated", "predicted"]
Role = Literal["teacher", "student", "other"]
# Text of a parity check: the run's, the user's (--text), or the one that comes with the package.
ProbeText = Literal["held-out", "user", "built-in"]

# Packages whose versions can change a figure.
VERSIONED_PACKAGES = (
    "edgedistil",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnx-ir",
    "optimum",
    "numpy",
)


class Record(BaseModel):
    """Base of all records."""

    # Not strict, because JSON writes the float 2.0 as 2 where another program wrote the file.
    # `model_type` and the like are ordinary field names here, hence no protected namespaces.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, allow_inf_nan=False, protected_namespaces=()
    )
    # What to do about a corrupt file; may name {path}, {folder} and {run}, the folder's name.
    remedy: ClassVar[str] = "remove it and create it again"


class NotMeasured(Record):
    """An absent figure, and the reason why it is absent."""

    not_measured: str = Field(min_length=1)


Figure = float | NotMeasured
Count = int | NotMeasured


class Host(Record):
    """The machine on which a figure was obtained."""

    # Machine name as `uname -m` prints it.
    machine: str
    # Model name of the processor.
    cpu: str
    # Logical cores of the machine.
    cores: int
    memory_bytes: Count
    # Operating system and kernel release.
    system: str
    # Version of Python.
    python: str


class Provenance(Record):
    """When, where and with what a record was written."""

    # UTC, ISO 8601.
    created_utc: str
    # Command line.
    command: str
    # Package → version, of the installed packages in VERSIONED_PACKAGES.
    versions: dict[str, str]
    host: Host


# --- distil --------------------------------------------------------------------------------------


class CorpusSource(Record):
    """One text source as it was used."""

    # Asset, path or glob, or hub id.
    name: str
    licence: str
    # Where the text is from, such as "PyPI gensim 4.4.0".
    origin: str
    # Digest of the source's content, or of its pinned revision.
    sha256: str
    documents: int
    text_bytes: int


class CorpusRecord(Record):
    """The tokenized corpus of a run: `corpus.json`."""

    remedy: ClassVar[str] = "restore it from a copy, or start another run with --run NEW-NAME"

    sources: list[CorpusSource]
    # packed fills rows across document ends; lines has one document per row.
    layout: Literal["packed", "lines", "texts"]
    # Longest row in tokens.
    block_length: int
    # Tokens in the tokenizer's vocabulary.
    vocabulary: int
    train_tokens: int
    heldout_tokens: int
    heldout_documents: int
    # Key of the corpus in the cache, and its folder there.
    cache_key: str
    cached_at: str
    # File of that folder → sha256.
    files: dict[str, str] = {}
    # sha256 of the file with a teacher's vectors of these texts; None without one.
    answers_sha256: str | None = None


class ModelFacts(Record):
    """Sizes of a model, counted on the model itself."""

    name: str
    # `model_type` and class name, as in config.json.
    model_type: str
    architecture: str
    # Transformer layers, width of the hidden states, tokens in the vocabulary.
    layers: int
    hidden: int
    vocabulary: int
    # All parameters; tied weights count once.
    parameters: int
    # Parameters without any head.
    encoder_parameters: int
    weights_sha256: str


class HeldoutMlm(Record):
    """Masked-LM quality on held-out text; every model sees the same masked positions."""

    # teacher, student-step0 or student.
    model: str
    # Optimizer steps of training before this evaluation.
    step: int
    masked_tokens: int
    # Mean cross-entropy per masked token, in nats.
    mlm_loss_nats: float
    # Share of the masked tokens that the model predicts correctly (top 1), 0 to 1. Of BERT's masked
    # tokens 80% are hidden by [MASK], 10% replaced and 10% visible.
    top1: float
    # The same among the tokens that are hidden by [MASK], and their number.
    top1_hidden: Figure = NotMeasured(not_measured="not recorded")
    hidden_tokens: int = 0
    # Share of the masked tokens with the same top-1 prediction as the teacher, 0 to 1.
    agreement: Figure
    # KL(teacher || student) at temperature 1, mean per masked token, in nats.
    kl_nats: Figure


class HeldoutVectors(Record):
    """Agreement of sentence vectors with the teacher's on held-out texts, the same for all."""

    # teacher or student.
    model: str
    # Optimizer steps of training before this evaluation.
    step: int
    texts: int
    # Spearman's rank correlation of the similarities of all pairs of texts with the teacher's.
    rank_correlation: float
    # Share of the 10 texts that are most similar to a text that the teacher's 10 share.
    top10_overlap: Figure
    # The same with the text's own vector from this model and the other vectors from the teacher.
    asymmetric_top10_overlap: Figure
    # Mean cosine between a text's vector and the teacher's vector of the text, −1 to 1.
    cosine: Figure


HeldoutFigures = HeldoutMlm | HeldoutVectors


class DistillRecord(Record):
    """The result of `distill`: `distill.json`. The loss trace is in metrics.jsonl."""

    remedy: ClassVar[str] = (
        "remove it and continue from the last checkpoint: "
        "edgedistil distill {folder}/recipe.toml --run {run} --resume"
    )

    recipe_sha256: str
    teacher: ModelFacts
    student: ModelFacts
    # teacher, random, or the folder of a student.
    student_init: str = "teacher"
    # Teacher layer from which each student layer was initialized.
    layer_map: list[int]
    # Optimizer steps, and tokens of all micro-batches over all processes.
    steps: int
    tokens_seen: int
    # Duration of the training loop, and tokens_seen divided by it.
    seconds: float
    tokens_per_s: float
    # Teacher, student at step 0, student after training.
    heldout: list[HeldoutMlm] | list[HeldoutVectors]
    # What the student learned: mlm or representation.
    objective: str = "mlm"
    # sha256 of the file of vectors that the student learned; None: the teacher's own.
    answers_sha256: str | None = None
    # Compute type of the loop: float32, bfloat16 or float16.
    precision: str = "float32"
    processes: int = 1
    # Peak resident memory of the main process while it trained.
    peak_memory_bytes: Count = NotMeasured(not_measured="not recorded")
    # File of the run's model folders (student/model.safetensors) → sha256.
    files: dict[str, str] = {}
    provenance: Provenance


class PlannedModel(Record):
    """Sizes of a model in a plan, counted on the model or known for its name."""

    name: str
    layers: int
    hidden: int
    vocabulary: int
    parameters: int
    # Whether the sizes were counted or are published ones.
    how: str


class PlannedDevice(Record):
    """Estimated time and memory of a run on one kind of device."""

    device: str
    # measured: steps were timed on this machine; predicted: computed from FLOPs.
    method: Method
    processes: int
    # Sequences of one forward pass in one process.
    micro_batch: int
    # Over all processes.
    tokens_per_s: Figure
    # Duration of the loop: training, its held-out evaluations, and checkpoints.
    seconds: Figure
    # Peak memory of one process, and the memory that the device has.
    memory_bytes: Count
    device_memory_bytes: Count
    # The basis of the estimate.
    how: str


class PlanRecord(Record):
    """The result of `distill --plan`: work, time and memory without training."""

    recipe: str
    teacher: PlannedModel
    student: PlannedModel
    layer_map: list[int]
    # Tokens of one pass over the training part, and how they were counted or estimated.
    corpus_tokens: int
    corpus_how: str
    # Tokens that training will see, optimizer steps, and tokens of one step.
    tokens: int
    steps: int
    tokens_per_step: int
    # Compute type, as in the recipe.
    precision: str
    devices: list[PlannedDevice]
    notes: list[str] = []
    provenance: Provenance


# --- evaluate ------------------------------------------------------------------------------------


class Cell(Record):
    """One model, fine-tuned and scored on one task with one seed."""

    task: str
    # teacher, student, student-step0, student-random, student-d, or a folder's name.
    model: str
    seed: int
    # Metric → score, 0 to 1 or -1 to 1; not percent.
    scores: dict[str, float]
    # The metric in `scores` that summaries use.
    metric: str
    dev_examples: int
    train_examples: int
    # Duration of fine-tuning and scoring.
    seconds: float
    # pytorch, or the precision of the ONNX artefact that was scored.
    artefact: str = "pytorch"
    warnings: list[str] = []
    # Hyper-parameters of fine-tuning, limits of examples included.
    hyper_parameters: dict[str, float | int | str] = {}
    provenance: Provenance


class PaperRow(Record):
    """Scores of Sanh et al. 2019 for a task, 0 to 1; not percent."""

    metric: str
    teacher: float
    student: float
    # With a second distillation while fine-tuning.
    student_d: Figure = NotMeasured(not_measured="the paper has no (D) row for this task")
    # Table of the paper.
    source: str


class TaskFacts(Record):
    """A task as it was used: its data, its baseline, and the paper's row if there is one."""

    name: str
    title: str
    kind: LabelledKind
    metric: str
    # Class that f1 and accuracy_f1 are about; None for other metrics.
    positive: str | None = None
    # GLUE, or None; only GLUE's own data sets carry that name.
    suite: str | None = None
    train_examples: int
    dev_examples: int
    # Score of a constant prediction on the dev set, and the rule of that prediction.
    baseline: float
    baseline_rule: str
    # What retention above the baseline starts from: constant, or student-random.
    baseline_model: str = "constant"
    # Where the data is from.
    origin: str
    licence: str
    # Publication or measurement that the hyper-parameters come from.
    settings_source: str
    # Settings that were tried for each model, and the examples that chose one; never the dev set.
    settings_tried: int = 1
    settings_chosen_on: str = ""
    # How scores come about, for sentences.
    procedure: str = "fine-tuned with the same budget"
    # Earlier task with the same dev texts: the two count as one.
    same_texts_as: str | None = None
    # Share of the smaller dev set's texts that both have.
    same_texts_share: float = 0.0
    # Smallest digests of the distinct dev texts, and how many there are.
    dev_sketch: list[str] = []
    dev_texts: int = 0
    paper: PaperRow | None = None
    warnings: list[str] = []


class Summary(Record):
    """Scores of one model on one task over its seeds, 0 to 1 or -1 to 1."""

    task: str
    model: str
    artefact: str = "pytorch"
    metric: str
    seeds: list[int]
    median: float
    # Retention is a ratio of means.
    mean: float
    lowest: float
    highest: float


class Retention(Record):
    """Share of a reference model's score that another model retains on one task, 0 to 1."""

    task: str
    model: str
    artefact: str = "pytorch"
    metric: str
    # teacher-as-given; teacher where that is the model as the user gave it.
    reference: str
    # Trainings of each of the two models; of different numbers the smaller one.
    seeds: int
    # Score of the baseline, and what it is: a constant prediction, or student-random.
    baseline: Figure
    baseline_model: str = "constant"
    # Model's mean / reference's mean over the seeds, with its confidence interval.
    retention: Figure
    retention_low: Figure
    retention_high: Figure
    # (model - baseline) / (reference - baseline), with its confidence interval.
    retention_above_baseline: Figure
    retention_above_baseline_low: Figure
    retention_above_baseline_high: Figure
    # Level of the intervals, and the noise that they include.
    interval: str = ""
    # Retention in the paper.
    paper: Figure = NotMeasured(not_measured="the paper has no row for this task")


class MacroScore(Record):
    """Mean of a suite's task scores (medians over the seeds), 0 to 1."""

    suite: str
    model: str
    artefact: str = "pytorch"
    # Absent unless every task of the suite was scored.
    score: Figure
    tasks: list[str]
    # The tasks' metrics and how they are averaged.
    how: str
    # Macro-score in the paper.
    paper: Figure
    # Model's score / reference's score, with its confidence interval; `reference` and `seeds` as in
    # `Retention`, of the task with the fewest seeds.
    retention: Figure = NotMeasured(not_measured="this model is the reference")
    retention_low: Figure = NotMeasured(not_measured="this model is the reference")
    retention_high: Figure = NotMeasured(not_measured="this model is the reference")
    reference: str = "teacher"
    seeds: int = 0
    interval: str = ""


class ArtefactScore(Record):
    """Score, size and latency of a fine-tuned model in PyTorch or as one ONNX artefact."""

    task: str
    model: str
    # pytorch, or the precision of the ONNX artefact.
    artefact: str
    metric: str
    seeds: list[int]
    median: float
    # Median over the seeds of (score in PyTorch - this score), with the same weights.
    drop: float
    # Size of the weights file, or of the graph with its external data.
    bytes: int
    # Median of single dev examples on one thread, and the conditions of the measurement.
    latency_ms: Figure
    latency_conditions: str
    # Signs of other work on the machine during these calls, in both of two measurements.
    disturbed: str | None = None


class RetrievalScore(Record):
    """Search quality of one model on one collection, 0 to 1."""

    collection: str
    # Package or folder of the collection.
    origin: str
    queries: int
    documents: int
    # A model of the run, an artefact ("student int8"), "static" (the reference's word vectors), or
    # a model whose queries search in another one's vectors.
    model: str
    # ndcg@10, recall@10, recall@100 and mrr, means over the queries.
    metrics: dict[str, float]
    # Interval of ndcg@10.
    low: float
    high: float
    # Model's ndcg@10 / reference's ndcg@10, over the same queries.
    reference: str
    retention: float
    retention_low: float
    retention_high: float
    # Level of the intervals, and the noise that they include.
    interval: str
    notes: list[str] = []
    # Distillations with other seeds that the figures are means of.
    seeds: int = 1


class RetrievalDifference(Record):
    """nDCG@10 of one model minus another's, on the same queries, with its interval."""

    collection: str
    model: str
    other: str
    difference: float
    low: float
    high: float
    interval: str


class PairScore(Record):
    """Correlation of a model's similarities of text pairs with people's grades, −1 to 1."""

    name: str
    # File of the pairs.
    origin: str
    pairs: int
    model: str
    pearson: float
    pearson_low: float
    pearson_high: float
    spearman: float
    spearman_low: float
    spearman_high: float
    interval: str


class EvaluationRecord(Record):
    """The result of `evaluate`: `evaluation.json`."""

    remedy: ClassVar[str] = (
        "remove it and run edgedistil evaluate again; cells that are scored are not repeated"
    )

    cells: list[Cell]
    summaries: list[Summary]
    retentions: list[Retention]
    tasks: list[TaskFacts] = []
    macros: list[MacroScore] = []
    artefacts: list[ArtefactScore] = []
    retrieval: list[RetrievalScore] = []
    retrieval_differences: list[RetrievalDifference] = []
    pairs: list[PairScore] = []
    provenance: Provenance


class Variation(Record):
    """One run of an ablation, compared with the full recipe: same tokens, seeds and tasks."""

    name: str
    description: str
    # Name of the run.
    run: str
    # Recipe key → "value here (the full recipe's value)".
    changed: dict[str, str]
    tokens_seen: int
    # Mean over the tasks of the means over the seeds, 0 to 1; tasks on the same texts count as one.
    score: float
    # Task → mean over the seeds.
    per_task: dict[str, float]
    # score - the full recipe's score, with its confidence interval.
    change: Figure
    change_low: Figure
    change_high: Figure
    # Standard deviation of the change over the seeds.
    spread: Figure
    # Whether the confidence interval of the change contains 0, or there are fewer than three seeds.
    within_noise: bool
    # Change in the paper's table 4, on GLUE's macro-score.
    paper_change: Figure


class AblationRecord(Record):
    """The result of `ablate`: `ablation.json` in the full recipe's run."""

    remedy: ClassVar[str] = "remove it and run edgedistil ablate again"

    tasks: list[str]
    seeds: list[int]
    # Level of the intervals, and what was resampled.
    interval: str
    # The full recipe first.
    variations: list[Variation]
    # Whether the changes have the same order as in the paper, in words.
    agrees_with_paper: str
    provenance: Provenance


# --- export and parity ---------------------------------------------------------------------------


class FileFacts(Record):
    """One file of an export folder."""

    # Relative to the export folder.
    path: str
    bytes: int
    sha256: str


class ExportRecord(Record):
    """One artefact: `export.<precision>.json` in the export folder."""

    remedy: ClassVar[str] = "remove the folder {folder} and run edgedistil export again"

    # student, teacher, or the name of the exported model.
    model: str
    role: Role
    task: str
    precision: Precision
    # The graph first, then its external data.
    files: list[FileFacts]
    # Digest of the weights that were exported.
    source_sha256: str
    parameters: int
    # Operator set and IR version of the graph.
    opset: int
    ir_version: int
    # host, or the device that the artefact is made for.
    target_device: str
    # Choice → reason (signedness, per channel, tracer, embeddings, ...).
    reasons: dict[str, str]
    # Graph pass → number of places that it changed.
    fused: dict[str, int]
    # Text that its outputs were compared on.
    probe_text: ProbeText = "held-out"
    # Initializers over 1 KiB that are stored in float.
    kept_float: list[str]
    # embeddings, attention, feed-forward, head, other → bytes of the weights.
    bytes_by_part: dict[str, int]
    # Duration of the export of this artefact.
    seconds: float
    provenance: Provenance


class ParityFigures(Record):
    """Differences between an artefact's outputs and PyTorch's on one set of probes."""

    sequences: int
    # Tokens of every sequence; absent where lengths are mixed.
    length: Count
    # Absolute error, in units of the output.
    max_abs: float
    mean_abs: float
    # Cosine of hidden states, or of rows of the output: smallest and mean.
    cosine_min: Figure
    cosine_mean: Figure
    # KL(PyTorch || artefact) of the output distributions, mean, in nats.
    kl_nats: Figure
    # Share of equal decisions (top token of a masked position, label, span), 0 to 1.
    agreement: Figure
    # Number of decisions in `agreement`.
    decisions: int = 0
    # Lin's concordance coefficient of a regression's values, of several outputs the smallest one; a
    # shift or another scale lowers it.
    concordance: Figure = NotMeasured(not_measured="the task's answer is not a value")
    # Distance from PyTorch with the same roundings, as a share of their own error.
    reference_share: Figure = NotMeasured(not_measured="no reference with the same roundings")


class RankFigures(Record):
    """Agreement of sentence vectors with PyTorch's on a pool of texts, and of their rankings."""

    texts: int
    # How the model's vectors are compared: cosine, dot, euclidean or manhattan.
    similarity: str
    # Share of the 10 texts nearest to a text that are PyTorch's, mean over the texts, 0 to 1.
    top10_overlap: float
    # Spearman's rank correlation of the similarities of all pairs of texts, −1 to 1.
    rank_correlation: float
    # Cosine of a text's vector and PyTorch's, smallest and mean.
    vector_cosine_min: float
    vector_cosine_mean: float


class Tolerance(Record):
    """A bound on a figure of the parity check, with its reason."""

    # Field of ParityFigures or of RankFigures.
    figure: str
    bound: Literal["at most", "at least"]
    value: float
    reason: str


class ToleranceResult(Record):
    """A bound, and the figure that was compared with it."""

    tolerance: Tolerance
    got: float
    holds: bool
    # Padded length that the figure is of; None for all.
    length: int | None = None


class ReferencePart(Record):
    """What one part of a quantized artefact adds, against PyTorch with the same roundings."""

    # embeddings, layer N attention, layer N feed-forward, head, or output.
    part: str
    # Difference from PyTorch with the same roundings, as a share of their own error: over all
    # lengths, and at the length where it is largest.
    share: float
    worst_share: float
    worst_length: int


class CertificateRecord(Record):
    """The comparison of an artefact's weights and constants with the model's, without probes."""

    # Tensors and float attributes of the artefact that were compared.
    initializers: int
    attributes: int
    # Tensors of the model that they were compared with.
    tensors: int
    # Each one names a tensor or an attribute, its value, and the one that was expected.
    problems: list[str]

    @property
    def holds(self) -> bool:
        """Whether every weight and constant is the model's."""
        return not self.problems


class InvarianceRecord(Record):
    """Changes of a text's own outputs when it is padded or has neighbours."""

    texts: int
    # Calls that were compared with the text alone.
    calls: int
    # Largest change of an output, in its unit: padded to other lengths, and between other texts.
    padded: float
    neighbours: float
    # Largest change of a sentence vector's components.
    vector: Figure
    # Answers that were compared (tokens, labels, positions), and those that changed.
    answers: int
    changed: int
    # Largest change that is allowed; None for a precision whose outputs depend on other texts.
    bound: float | None
    reason: str
    holds: bool

    @property
    def largest(self) -> float:
        """The largest change of any output."""
        vector = self.vector if isinstance(self.vector, float | int) else 0.0
        return max(self.padded, self.neighbours, vector)


class ParityRecord(Record):
    """The parity check of one artefact: `parity/<model>-<task>.<precision>.json`."""

    remedy: ClassVar[str] = "remove it and run edgedistil export again"

    model: str
    task: str
    precision: Precision
    artefact_sha256: str
    # onnxruntime and its version.
    runtime: str
    # emulated where the artefact ran under another instruction set.
    method: Method = "measured"
    device: str = "host"
    # Figures over all probes, and for each sequence length.
    overall: ParityFigures
    by_length: list[ParityFigures]
    results: list[ToleranceResult]
    # Absent where the source model is not at hand, as on a board.
    certificate: CertificateRecord | NotMeasured = NotMeasured(
        not_measured="the source model was not compared"
    )
    # Each part against PyTorch with the same roundings.
    parts: list[ReferencePart] | NotMeasured = NotMeasured(
        not_measured="nothing is rounded, or not compared part by part"
    )
    # The same texts alone, padded, and next to others; absent where only outputs were sent.
    invariance: InvarianceRecord | NotMeasured = NotMeasured(
        not_measured="texts were not run alone and with neighbours"
    )
    # Sentence vectors and their rankings, on texts of the probes' source.
    ranking: RankFigures | NotMeasured = NotMeasured(
        not_measured="no sentence vectors, or too few different lines of text to rank them"
    )
    # Whether every bound holds, and the certificate, parts and invariance where they were compared.
    passed: bool
    provenance: Provenance


class PartError(Record):
    """Error of one part of an encoder: the embeddings, half a layer, the head.

    Relative errors are ‖artefact - PyTorch‖ / ‖PyTorch‖ over the probes' hidden states.
    """

    # embeddings, layer N attention, layer N feed-forward, head, or output.
    part: str
    # Relative error of the part's output when its input is exactly PyTorch's.
    own: float
    # Relative error of the part's output in the running artefact, earlier errors included.
    reached: float
    # Largest absolute error of the part's output in the running artefact.
    reached_max_abs: float


class NodeError(Record):
    """Error that one node of a part adds to exact inputs."""

    node: str
    operator: str
    output: str
    # Relative error of the node's output when its inputs are the reference artefact's.
    own: float


class FloatGain(Record):
    """Effect of leaving one part in float: figures and size of such an artefact."""

    part: str
    figures: ParityFigures
    bytes: int


class ExplainRecord(Record):
    """The result of `export --explain`: where an artefact's error comes from."""

    remedy: ClassVar[str] = "remove it and run edgedistil export --explain again"

    artefact_sha256: str
    task: str
    parts: list[PartError]
    # Part with the largest own error, and its node with the largest error.
    worst_part: str
    worst_node: NodeError | NotMeasured
    # Nodes of the worst part, largest error first.
    nodes: list[NodeError]
    # Size and figures of the artefact as it is.
    bytes: int
    figures: ParityFigures | NotMeasured
    # Effect of leaving each of the worst parts in float.
    gains: list[FloatGain] | NotMeasured
    provenance: Provenance


# --- profile -------------------------------------------------------------------------------------


class Band(Record):
    """A predicted figure: never a single number, always a lower and an upper bound."""

    low: float
    high: float


class AtLeast(Record):
    """A one-sided 95% bound: the true figure is at least this, and why there is no figure."""

    at_least: float
    reason: str = Field(min_length=1)


Percentile = float | AtLeast | NotMeasured


class LatencyStats(Record):
    """Observed percentiles (nearest rank) of steady calls, and the raw samples."""

    calls: int
    # Time that the percentiles are about: those of a minute or of a hot machine differ.
    window_s: float
    # A bound where there are too few samples for the percentile (30 for p90, 60, 300).
    p50_ms: Figure
    p90_ms: Percentile
    p95_ms: Percentile
    p99_ms: Percentile
    min_ms: float
    mean_ms: float
    # Median of the last third / median of the first third - 1.
    drift: Figure
    samples_ms: list[float]


class MemoryStats(Record):
    """Resident memory of a fresh process that only loads and runs the artefact."""

    after_import_bytes: Count
    after_load_bytes: Count
    after_run_bytes: Count
    peak_bytes: Count
    # Parts of `after_run_bytes`: the process's own, and mapped from files, which can be dropped.
    anonymous_bytes: Count = NotMeasured(not_measured="not reported by this machine")
    file_bytes: Count = NotMeasured(not_measured="not reported by this machine")
    # After a run, with shared pages divided by the processes that share them.
    pss_bytes: Count = NotMeasured(not_measured="not reported by this machine")


class ProfileRow(Record):
    """One artefact at one length and thread count, on one device by one method."""

    model: str
    role: Role
    task: str
    precision: Precision
    # Size of the graph with its external data.
    file_bytes: int
    parameters: int
    artefact_sha256: str
    device: str
    method: Method
    # onnxruntime and its version.
    runtime: str
    threads: int
    batch: int
    # Tokens of a sequence; sentence-pairs is the pass over STS-B-like pairs of mixed lengths.
    length: int | Literal["sentence-pairs"]
    # Median of steady calls, a predicted band, or a reason for its absence.
    latency_ms: Figure | Band
    latency: LatencyStats | NotMeasured
    # Creating the session, its first call, and both with the start of the process.
    load_ms: Figure | Band
    first_call_ms: Figure | Band
    start_to_first_result_ms: Figure | Band
    memory: MemoryStats | NotMeasured
    peak_memory_bytes: Count | Band
    # False for a throttled run, or one without times; `invalid_reason` then says why.
    valid: bool
    invalid_reason: str | None = None
    # Signs of other work during the calls, in both of two measurements: the row is shown with a
    # mark and never carries a verdict.
    disturbed: str | None = None
    # Governor, clock, temperature, calibration, kernels, ...; as the machine reports them.
    conditions: dict[str, str]

    @property
    def usable(self) -> bool:
        """Whether verdicts, fits and comparisons may use the row's times."""
        return self.valid and self.disturbed is None


class Claim(Record):
    """Comparison of teacher and student under equal conditions, with the paper's figure."""

    claim: Literal["speed", "size", "quality", "deploy", "int8-pays"]
    verdict: Verdict
    # The claim with its figures, for people.
    sentence: str
    method: Method
    device: str
    # Models, task, precision, runtime, threads and lengths, in words.
    conditions: str
    # Meaning of `value`: speed ratio, share of parameters saved, ...
    figure: str
    # Value with its confidence interval, and the bound that it is compared with.
    value: Figure
    low: Figure
    high: Figure
    threshold: float
    # The paper's row.
    paper: str
    # Why the machine was disturbed meanwhile; the verdict is then inconclusive.
    disturbed: str | None = None


class OpTime(Record):
    """Time of one kind of operator, or of one layer, in the profiled calls."""

    name: str
    calls: int
    total_ms: float
    # Share of the time of all operators, 0 to 1.
    share: float


class MemoryFit(Record):
    """Whether one artefact runs within a memory limit."""

    model: str
    role: Role
    task: str
    precision: Precision
    artefact_sha256: str
    device: str
    method: Method
    limit_bytes: int
    # cgroup v2, cgroup v1, RLIMIT_AS, or a watch on the guest's pages.
    enforced_by: str
    threads: int
    # Tokens of the sequence that was run.
    length: int
    fits: bool
    peak_memory_bytes: Count
    # Peak without a limit. What it exceeds the limit by are file pages, which the kernel drops and
    # reads again.
    needed_bytes: Count = NotMeasured(not_measured="the artefact was not run without a limit")
    # Phase and cause of the failure, if it does not fit.
    ended: str | None = None

    @property
    def dropped_bytes(self) -> int:
        """File pages that had to be dropped to fit; 0 if none, or if that is unknown."""
        if not self.fits or isinstance(self.needed_bytes, NotMeasured):
            return 0
        return max(0, self.needed_bytes - self.limit_bytes)


class Sustained(Record):
    """Calls of one artefact without a pause: the first minute and the last one.

    Of a series below two minutes, its halves.
    """

    model: str
    role: Role
    task: str
    precision: Precision
    artefact_sha256: str
    device: str
    threads: int
    # Tokens of a sequence.
    length: int
    # Duration of the series, and of each of its two windows.
    seconds: float
    window_s: float
    calls: int
    first_p50_ms: Figure
    last_p50_ms: Figure
    # last / first - 1.
    change: Figure
    # Throttling that the machine reports, and signs of other work; None without.
    throttled: str | None
    disturbed: str | None
    # Governor, clock, temperature; as the machine reports them.
    conditions: dict[str, str]


class ProfileRecord(Record):
    """The result of `profile` for one device and method: `profile/<device>.<method>.json`."""

    remedy: ClassVar[str] = "remove it and run edgedistil profile again"

    device: str
    method: Method
    rows: list[ProfileRow]
    claims: list[Claim]
    fits: list[MemoryFit] = []
    sustained: list[Sustained] = []
    # Label of an artefact → times by kind of operator, or by layer.
    op_times: dict[str, list[OpTime]] = {}
    layer_times: dict[str, list[OpTime]] = {}
    notes: list[str] = []
    provenance: Provenance


# --- reading and writing -------------------------------------------------------------------------

R = TypeVar("R", bound=Record)


def write_record(path: Path, record: Record) -> None:
    """Writes a record as JSON; the file appears complete or not at all."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[R]) -> R:
    """Reads a record.

    Raises:
        StorageError: The file is missing, corrupt, or not a record of this kind and version.
    """
    hint = kind.remedy.format(path=path, folder=path.parent, run=path.parent.name)
    content = read_json(path, hint=hint)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise StorageError(
            f"{path} is not a valid {kind.__name__}: {first_problem(error)}",
            hint=f"it is corrupt, edited by hand or of another version; {hint}",
        ) from error


def first_problem(error: ValidationError) -> str:
    """Returns the place and the text of the first problem of a record."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def provenance(command: str | None = None) -> Provenance:
    """Returns the present time, command line, package versions and machine."""
    return Provenance(
        created_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=command or " ".join(["edgedistil", *sys.argv[1:]]),
        versions=installed_versions(),
        host=this_host(),
    )


def installed_versions() -> dict[str, str]:
    """Returns the versions of the installed packages in VERSIONED_PACKAGES."""
    versions = {"edgedistil": __version__}
    for name in VERSIONED_PACKAGES[1:]:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A machine that only runs artefacts has no training packages.
            continue
    return versions


def this_host() -> Host:
    """Returns the machine that this process runs on."""
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
        return NotMeasured(not_measured="this system does not report its memory size")


def text_sha256(text: str) -> str:
    """Returns the hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

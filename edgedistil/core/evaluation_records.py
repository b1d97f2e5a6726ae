"""Records of evaluation and ablation."""

from __future__ import annotations

from typing import ClassVar

from edgedistil.core.records import Figure, NotMeasured, Provenance, Record
from edgedistil.core.task import LabelledKind


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

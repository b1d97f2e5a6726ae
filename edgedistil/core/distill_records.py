"""Records of distillation: its corpus, its plan and its result."""

from __future__ import annotations

from typing import ClassVar, Literal

from edgedistil.core.records import (
    Band,
    Count,
    Figure,
    Method,
    NotMeasured,
    Provenance,
    Record,
)


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

    # teacher or student; the student at step 0 is the undistilled one.
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


class PrecisionRecord(Record):
    """The precision that a trial chose at the start of a run: `precision.json`."""

    remedy: ClassVar[str] = (
        'restore it from a copy, or set train.precision to "bfloat16" or "float32"'
    )

    precision: Literal["bfloat16", "float32"]
    # Shortest forward and backward pass of each precision, of this many rows and tokens each; of
    # the teacher's time the share that the run computes.
    seconds: dict[Literal["bfloat16", "float32"], float]
    rows: int
    length: int
    provenance: Provenance


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
    tokens_per_s: Figure | Band
    # Duration of the loop: training, its held-out evaluations, and checkpoints.
    seconds: Figure | Band
    # Peak memory of one process, and the memory that the device has.
    memory_bytes: Count
    device_memory_bytes: Count
    # The basis of the estimate.
    how: str


class PlanRecord(Record):
    """The result of `distill --plan`: work, time and memory without training."""

    recipe: str
    # What the student learns: mlm or representation.
    objective: str
    # Whether an MLM head is fitted to the teacher before the first run.
    fits_head: bool
    teacher: PlannedModel
    student: PlannedModel
    layer_map: list[int]
    # Tokens of one pass over the training part, and how they were counted or estimated.
    corpus_tokens: Count
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

"""Table of the tasks that a model can be exported for, one row each.

A task is what optimum, transformers.js and the hub call by the same name (`fill-mask`). The row
says which outputs the graph has, which classes load it, and on what level its outputs are compared.
To add a task, add its name and its row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Task = Literal[
    "fill-mask",
    "feature-extraction",
    "text-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
]
# What one answer is about: a token of the vocabulary at a position, a label of a sequence or of a
# token, a start and an end position, one of several sequences, or a hidden state (nothing is
# decided).
Level = Literal["vocabulary", "sequence", "token", "span", "choice", "hidden"]
# How the outputs of a sequence's head are read, as config.json names it: the largest one is the
# label, every label is decided by itself, or every output is a value.
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
# Kinds of labelled data sets, as `edgedistil evaluate` calls them.
LabelledKind = Literal["classification", "pair", "regression", "span"]


@dataclass(frozen=True)
class TaskInfo:
    """Facts about one task.

    Attributes:
        name: Name in records, folders and on the command line.
        level: What one answer of the model is about; decides how outputs are compared.
        outputs: Names of the graph's outputs, attributes of transformers' output object.
        meanings: What each output holds.
        architectures: Endings of the class names in config.json; the first one is written there.
        auto_class: Class of transformers that loads a model of any family for the task.
        ort_class: Class of optimum that runs the exported folder.
        label: Short name in plots and tables.
        sends_pairs: Whether users send two texts, so that token types matter.
        reads_pooler: Whether the pooler's weights are used; elsewhere they may be missing.
        labelled_kinds: Kinds of labelled data sets that a model of this task is scored on.
    """

    name: Task
    level: Level
    outputs: tuple[str, ...]
    meanings: tuple[str, ...]
    architectures: tuple[str, ...]
    auto_class: str
    ort_class: str
    label: str
    sends_pairs: bool = False
    reads_pooler: bool = False
    labelled_kinds: tuple[LabelledKind, ...] = ()

    @property
    def has_positions(self) -> bool:
        """Whether the second axis of the outputs is the position in the text."""
        return self.level not in ("sequence", "choice")

    @property
    def has_choices(self) -> bool:
        """Whether inputs are (batch, choices, sequence), and an answer is one of the choices."""
        return self.level == "choice"


TASKS: dict[Task, TaskInfo] = {
    row.name: row
    for row in (
        TaskInfo(
            name="fill-mask",
            level="vocabulary",
            outputs=("logits",),
            meanings=("score of each token of the vocabulary, at every position",),
            architectures=("ForMaskedLM", "ForPreTraining"),
            auto_class="AutoModelForMaskedLM",
            ort_class="ORTModelForMaskedLM",
            label="fill-mask",
        ),
        TaskInfo(
            name="feature-extraction",
            level="hidden",
            outputs=("last_hidden_state",),
            meanings=("state of the last layer, at every position",),
            architectures=("Model",),
            auto_class="AutoModel",
            ort_class="ORTModelForFeatureExtraction",
            label="encoder",
        ),
        TaskInfo(
            name="text-classification",
            level="sequence",
            outputs=("logits",),
            meanings=("score of each label",),
            architectures=("ForSequenceClassification",),
            auto_class="AutoModelForSequenceClassification",
            ort_class="ORTModelForSequenceClassification",
            label="text-classification",
            sends_pairs=True,
            reads_pooler=True,
            labelled_kinds=("classification", "pair", "regression"),
        ),
        TaskInfo(
            name="token-classification",
            level="token",
            outputs=("logits",),
            meanings=("score of each label, at every position",),
            architectures=("ForTokenClassification",),
            auto_class="AutoModelForTokenClassification",
            ort_class="ORTModelForTokenClassification",
            label="token-classification",
        ),
        TaskInfo(
            name="question-answering",
            level="span",
            outputs=("start_logits", "end_logits"),
            meanings=(
                "score of each position as the start of the answer",
                "score of each position as the end of the answer",
            ),
            architectures=("ForQuestionAnswering",),
            auto_class="AutoModelForQuestionAnswering",
            ort_class="ORTModelForQuestionAnswering",
            label="question-answering",
            sends_pairs=True,
            labelled_kinds=("span",),
        ),
        TaskInfo(
            name="multiple-choice",
            level="choice",
            outputs=("logits",),
            meanings=("score of each choice",),
            architectures=("ForMultipleChoice",),
            auto_class="AutoModelForMultipleChoice",
            ort_class="ORTModelForMultipleChoice",
            label="multiple-choice",
            sends_pairs=True,
            reads_pooler=True,
        ),
    )
}
# Both are exported of every run: the speed claim is measured on the encoder, as the paper did, and
# parity of the logits is shown on the masked language model.
ENCODER_TASK: Task = "feature-extraction"
# Output of an encoder's graph that has one vector for each text; only where the source says how it
# pools.
SENTENCE_OUTPUT = "sentence_embedding"
# The hub's name of an encoder whose vectors are compared: `ENCODER_TASK`, with `SENTENCE_OUTPUT`.
SENTENCE_TASK = "sentence-similarity"
FILL_MASK_TASK: Task = "fill-mask"
# transformers assumes so many labels where config.json names none.
_DEFAULT_LABELS = 2

# Texts of a question where no data set says how many: as SWAG's and most exams'.
USUAL_CHOICES = 4

assert tuple(TASKS) == get_args(Task), "every task has exactly one row"


def find_task(name: str) -> TaskInfo | None:
    """Row of a task; None if the name is unknown."""
    rows: Mapping[str, TaskInfo] = {row.name: row for row in TASKS.values()}
    return rows.get(name)


def task_of_architectures(architectures: list[str], prefix: str) -> Task | None:
    """Returns the task of class names from a config.json; None if none of them is known.

    Args:
        architectures: The class names.
        prefix: Beginning of the class names of the model's family.
    """
    # A head says more than the encoder: "BertModel" counts only where no class has a head.
    by_head = sorted(TASKS.values(), key=lambda task: task.level == "hidden")
    for task in by_head:
        # In full: BertLMHeadModel ends with Model too, and a user's own class computes anything.
        if any(prefix + ending in architectures for ending in task.architectures):
            return task.name
    return None


def task_of_kind(kind: LabelledKind) -> Task:
    """Task of a model that is scored on a kind of labelled data set."""
    return next(task.name for task in TASKS.values() if kind in task.labelled_kinds)


def problem_type_of(task: Task, declared: ProblemType | None, labels: int) -> ProblemType | None:
    """How the outputs of a model's head are read; None for a task that leaves no choice.

    Args:
        task: Task of the model.
        declared: `problem_type` of its config.json.
        labels: Number of outputs.
    """
    if TASKS[task].level != "sequence":
        return None
    # As transformers does: one output is a value, unless it is declared to be a yes or no.
    if labels == 1 and declared != "multi_label_classification":
        return "regression"
    return declared or "single_label_classification"


def label_names(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of a classifier's outputs, in order, from its config.json."""
    names = config.get("id2label")
    if not names:
        return [f"LABEL_{index}" for index in range(config.get("num_labels", _DEFAULT_LABELS))]
    return [str(names[index]) for index in sorted(names, key=int)]


def short_label(name: str) -> str:
    """Short name for plots and tables; a name that is not in the table stays as it is."""
    task = find_task(name)
    return task.label if task is not None else name

"""Interface of a kind of labelled task; the kinds are in `edgedistil.evaluate.kinds`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from edgedistil.core.task import TASKS, LabelledKind, Task, task_of_kind
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.evaluate.encode import Encoded
from edgedistil.evaluate.examples import Example, RawExample
from edgedistil.evaluate.labels import LabelRules
from edgedistil.evaluate.metrics import Floats
from edgedistil.evaluate.scoring import DevScores, Forward, Logits, ScoringSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TrainingRow:
    """One sequence for fine-tuning.

    Attributes:
        encoded: Token ids.
        label: Class, value, or first and last token of the answer.
        labelled: False if the row is for soft targets only; its label is not read.
    """

    encoded: Encoded
    label: float | tuple[int, int]
    labelled: bool = True


@dataclass(frozen=True)
class Baseline:
    """The constant prediction of a task, and its score on the dev set.

    Attributes:
        score: Score on the dev set.
        constant: The class or value that is predicted; 0 for spans, which have no constant.
        rule: Description for the record.
    """

    score: float
    constant: float
    rule: str


class TaskKind(ABC):
    """One kind of labelled task.

    Attributes:
        name: Name in task files and records.
        metrics: Metrics that fit the kind.
        text_fields: Accepted numbers of texts per example.
        has_classes: Whether the label is one of several classes.
        has_answers: Whether the label is a list of answers within the second text.
        per_token: Whether the outputs have one entry per token.
        label_inputs: Arguments of the model's forward pass that take the labels.
    """

    # Subclasses set these; `task` and `outputs` follow from the table of tasks.
    name: ClassVar[LabelledKind]
    metrics: ClassVar[tuple[str, ...]]
    text_fields: ClassVar[tuple[int, ...]]
    has_classes: ClassVar[bool] = False
    has_answers: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    label_inputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def task(self) -> Task:
        """Task that a fine-tuned model of this kind is exported for."""
        return task_of_kind(self.name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs, in transformers and in exported graphs."""
        return TASKS[self.task].outputs

    # --- labels

    def class_names(
        self,
        train: Sequence[RawExample],  # noqa: ARG002 - only kinds with classes look
        rules: LabelRules,  # noqa: ARG002
    ) -> tuple[str, ...]:
        """Returns the names of the classes in order; empty where labels are not classes.

        Raises:
            TaskError: The classes do not fit the metric.
        """
        return ()

    @abstractmethod
    def read_label(self, raw: RawExample, classes: tuple[str, ...], rules: LabelRules) -> float:
        """Returns the label of an example as a number.

        Raises:
            TaskError: The label is invalid; the message names file and line.
        """

    @abstractmethod
    def baseline(
        self, metric: str, train_N: Floats, dev_M: Floats, classes: Sequence[str]
    ) -> Baseline:
        """Returns the constant prediction and its score.

        Args:
            metric: The metric that counts.
            train_N: Labels of the training examples.
            dev_M: Labels of the dev examples.
            classes: Names of the classes.
        """

    # --- sequences

    @abstractmethod
    def first_sequences(
        self, tokenizer: TextTokenizer, examples: Sequence[Example], max_length: int
    ) -> list[Encoded]:
        """Encodes one sequence per example; of a question, its first window."""

    @abstractmethod
    def training_rows(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[Example],
        max_length: int,
        *,
        labelled: bool = True,
    ) -> list[TrainingRow]:
        """Encodes examples for fine-tuning.

        Args:
            tokenizer: TextTokenizer of the model.
            examples: Examples; a question becomes one row per window.
            max_length: Tokens of a sequence at most.
            labelled: False: the rows are for soft targets only, and their labels are not read.
        """

    # --- training

    @abstractmethod
    def configure(self, config: Any, classes: Sequence[str]) -> None:
        """Sets the head in a model's configuration of transformers."""

    @abstractmethod
    def label_batch(self, labels: NDArray[Any]) -> dict[str, Tensor]:
        """Returns the labels of a batch as arguments of the forward pass."""

    @abstractmethod
    def label_loss(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Computes the loss that transformers' head computes from labels.

        Args:
            logits: Outputs of the model, in the order of `outputs`.
            labels: Labels, in the order of `label_inputs`.
        """

    @abstractmethod
    def soft_target_batch(self, logits: Sequence[Logits], length: int) -> Tensor:
        """Returns the teacher's outputs of a batch as one tensor, padded to `length` tokens."""

    @abstractmethod
    def soft_target_loss(
        self, logits: Sequence[Tensor], soft: Tensor, mask_BL: Tensor, temperature: float
    ) -> Tensor:
        """Computes the mean loss against the teacher's outputs.

        Args:
            logits: The student's outputs, in the order of `outputs`.
            soft: The teacher's outputs, from `soft_target_batch`.
            mask_BL: 1 at tokens, 0 at padding.
            temperature: T > 0, dimensionless.
        """

    # --- scoring

    @abstractmethod
    def score(
        self,
        forward: Forward,
        tokenizer: TextTokenizer,
        dev: Sequence[Example],
        settings: ScoringSettings,
    ) -> DevScores:
        """Runs a model on the dev set and scores its predictions.

        Args:
            forward: Runs one padded batch.
            tokenizer: TextTokenizer of the model.
            dev: Dev examples.
            settings: Metric, sequence length and parts.
        Raises:
            TrainingDiverged: The model returns NaN or infinite outputs.
        """

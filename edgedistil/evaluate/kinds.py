"""The kinds of labelled tasks, one class each.

A kind says how labels are read, how examples become sequences, which head and loss a model is
fine-tuned with, how outputs become predictions, and what a constant prediction scores. To add a
kind, add its name to `LabelledKind` in `edgedistil.core.task`, write its class here and list an
instance in `KINDS`.

Methods for training import torch when they are called: scoring an artefact must not load it.
"""

# ruff: noqa: ARG002 - a kind does not need every argument of the interface

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import TaskError
from edgedistil.core.task import LabelledKind
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.evaluate import squad
from edgedistil.evaluate.encode import Encoded, encode_texts, pad_id
from edgedistil.evaluate.examples import Example, RawExample
from edgedistil.evaluate.kind import Baseline, TaskKind, TrainingRow
from edgedistil.evaluate.labels import LabelRules, class_names, class_number, regression_value
from edgedistil.evaluate.metrics import (
    CLASS_METRICS,
    SPAN_METRICS,
    VALUE_METRICS,
    Floats,
    constant_score,
)
from edgedistil.evaluate.scoring import (
    DevScores,
    Forward,
    Logits,
    ScoringSettings,
    all_logits,
    score_labels,
)

if TYPE_CHECKING:
    from torch import Tensor


# A context becomes hundreds of windows at this length, and each token of them some 200 bytes.
_LONGEST_CONTEXT = 2**19


class _SingleLabel(TaskKind):
    """Kinds with one label and one sequence per example, and outputs of shape (B, C)."""

    @abstractmethod
    def predictions(self, logits_NC: NDArray[Any]) -> Floats:
        """Returns the predicted class or value of N examples."""

    def first_sequences(
        self, tokenizer: TextTokenizer, examples: Sequence[Example], max_length: int
    ) -> list[Encoded]:
        return encode_texts(tokenizer, [example.texts for example in examples], max_length)

    def training_rows(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[Example],
        max_length: int,
        *,
        labelled: bool = True,
    ) -> list[TrainingRow]:
        sequences = self.first_sequences(tokenizer, examples, max_length)
        return [
            TrainingRow(sequence, example.label, labelled)
            for sequence, example in zip(sequences, examples, strict=True)
        ]

    def soft_target_batch(self, logits: Sequence[Logits], length: int) -> Tensor:
        import torch

        rows_BC = np.stack([outputs[0] for outputs in logits])
        return torch.from_numpy(rows_BC.astype(np.float32))

    def score(
        self,
        forward: Forward,
        tokenizer: TextTokenizer,
        dev: Sequence[Example],
        settings: ScoringSettings,
    ) -> DevScores:
        sequences = self.first_sequences(tokenizer, dev, settings.max_length)
        logits = all_logits(forward, sequences, pad_id(tokenizer))
        logits_NC = np.stack([outputs[0] for outputs in logits])
        return score_labels(dev, self.predictions(logits_NC), settings)


class Classification(_SingleLabel):
    """One class per example, which is one text or two."""

    name: ClassVar[LabelledKind] = "classification"
    metrics = CLASS_METRICS
    has_classes = True
    text_fields: ClassVar[tuple[int, ...]] = (1, 2)

    def class_names(self, train: Sequence[RawExample], rules: LabelRules) -> tuple[str, ...]:
        return class_names(train, rules)

    def read_label(self, raw: RawExample, classes: tuple[str, ...], rules: LabelRules) -> float:
        return class_number(raw, classes, rules)

    def baseline(
        self, metric: str, train_N: Floats, dev_M: Floats, classes: Sequence[str]
    ) -> Baseline:
        # Of equally frequent classes, argmax takes the first one.
        constant = float(np.argmax(np.bincount(train_N.astype(np.int64))))
        rule = f"always '{classes[int(constant)]}', the most frequent training label"
        return Baseline(constant_score(metric, constant, dev_M), constant, rule)

    def configure(self, config: Any, classes: Sequence[str]) -> None:
        # The length of `id2label` is the number of outputs of the head.
        config.id2label = dict(enumerate(classes))
        config.label2id = {label: index for index, label in enumerate(classes)}
        config.problem_type = "single_label_classification"

    def label_batch(self, labels: NDArray[Any]) -> dict[str, Tensor]:
        import torch

        return {"labels": torch.from_numpy(labels.astype(np.int64))}

    def label_loss(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        from torch.nn import functional

        # Under autocast the logits are bfloat16: losses are computed in float32.
        return functional.cross_entropy(logits[0].float(), labels[0])

    def soft_target_loss(
        self, logits: Sequence[Tensor], soft: Tensor, mask_BL: Tensor, temperature: float
    ) -> Tensor:
        from edgedistil.models import losses

        return losses.soft_target_loss(logits[0], soft, temperature=temperature)

    def predictions(self, logits_NC: NDArray[Any]) -> Floats:
        return np.asarray(logits_NC.argmax(axis=1), dtype=np.float64)


class PairClassification(Classification):
    """One class per pair of texts."""

    name = "pair"
    text_fields = (2,)


class Regression(_SingleLabel):
    """One value per example, which is one text or two."""

    name = "regression"
    metrics = VALUE_METRICS
    text_fields = (1, 2)

    def read_label(self, raw: RawExample, classes: tuple[str, ...], rules: LabelRules) -> float:
        return regression_value(raw, rules.bounds)

    def baseline(
        self, metric: str, train_N: Floats, dev_M: Floats, classes: Sequence[str]
    ) -> Baseline:
        constant = float(np.mean(train_N))
        rule = (
            f"always {constant:.3g}, the mean of the training labels "
            "(a constant has no correlation: 0)"
        )
        return Baseline(constant_score(metric, constant, dev_M), constant, rule)

    def configure(self, config: Any, classes: Sequence[str]) -> None:
        # With one label transformers' own loss is the squared error.
        config.num_labels = 1
        config.problem_type = "regression"

    def label_batch(self, labels: NDArray[Any]) -> dict[str, Tensor]:
        import torch

        return {"labels": torch.from_numpy(labels.astype(np.float32))}

    def label_loss(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        from torch.nn import functional

        return functional.mse_loss(logits[0][:, 0].float(), labels[0].float())

    def soft_target_loss(
        self, logits: Sequence[Tensor], soft: Tensor, mask_BL: Tensor, temperature: float
    ) -> Tensor:
        from edgedistil.models import losses

        return losses.soft_value_loss(logits[0][:, 0], soft[:, 0])

    def predictions(self, logits_NC: NDArray[Any]) -> Floats:
        return logits_NC[:, 0].astype(np.float64)


class Span(TaskKind):
    """Answers to a question, which are spans of a context; as in SQuAD 1.1."""

    name = "span"
    metrics = SPAN_METRICS
    text_fields = (2,)
    has_answers = True
    per_token = True
    label_inputs = ("start_positions", "end_positions")

    def read_label(self, raw: RawExample, classes: tuple[str, ...], rules: LabelRules) -> float:
        """Checks the answers, which are the labels; returns 0."""
        # Unanswerable questions (SQuAD 2.0) would need a score for giving no answer.
        if not raw.answers:
            raise TaskError(
                f"{raw.where}: the question has no answer",
                hint="SQuAD 1.1 has at least one answer per question",
            )
        context = raw.texts[1]
        if len(context) > _LONGEST_CONTEXT:
            raise TaskError(
                f"{raw.where}: a context of {len(context):,} characters; expected at most "
                f"{_LONGEST_CONTEXT:,}",
                hint="split it into its paragraphs",
            )
        for answer in raw.answers:
            text = context[answer.start : answer.start + len(answer.text)]
            if text != answer.text or not answer.text:
                raise TaskError(
                    f"{raw.where}: answer '{answer.text}' is not at character {answer.start} "
                    f"of the context, which has '{text}' there"
                )
        return 0.0

    def baseline(
        self, metric: str, train_N: Floats, dev_M: Floats, classes: Sequence[str]
    ) -> Baseline:
        # No constant text answers different questions.
        return Baseline(score=0.0, constant=0.0, rule="no answer at all")

    def first_sequences(
        self, tokenizer: TextTokenizer, examples: Sequence[Example], max_length: int
    ) -> list[Encoded]:
        # The other windows of a long context have the same length, apart from the last one.
        return [squad.windows(tokenizer, example, max_length)[0].encoded for example in examples]

    def training_rows(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[Example],
        max_length: int,
        *,
        labelled: bool = True,
    ) -> list[TrainingRow]:
        rows = []
        for example in examples:
            for window in squad.windows(tokenizer, example, max_length):
                # Training uses the first of a question's answers, as the official script does.
                label = squad.answer_tokens(window, example.answers[0]) if labelled else (0, 0)
                rows.append(TrainingRow(window.encoded, label, labelled))
        return rows

    def configure(self, config: Any, classes: Sequence[str]) -> None:
        # Start and end; a checkpoint may have had another head.
        config.num_labels = len(self.outputs)

    def label_batch(self, labels: NDArray[Any]) -> dict[str, Tensor]:
        import torch

        # A column of the array is not contiguous; the copy is.
        columns = [torch.from_numpy(labels[:, side].copy()) for side in (0, 1)]
        return dict(zip(self.label_inputs, columns, strict=True))

    def label_loss(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        import torch
        from torch.nn import functional

        # Start and end are two classifications over the tokens of a window.
        sides = zip(logits, labels, strict=True)
        losses = [functional.cross_entropy(side_BL.float(), label_B) for side_BL, label_B in sides]
        return torch.stack(losses).mean()

    def soft_target_batch(self, logits: Sequence[Logits], length: int) -> Tensor:
        import torch

        # Zeros at padding; the loss masks it out.
        array_B2L = np.zeros((len(logits), 2, length), dtype=np.float32)
        for row, (start, end) in enumerate(logits):
            array_B2L[row, 0, : len(start)] = start
            array_B2L[row, 1, : len(end)] = end
        return torch.from_numpy(array_B2L)

    def soft_target_loss(
        self, logits: Sequence[Tensor], soft: Tensor, mask_BL: Tensor, temperature: float
    ) -> Tensor:
        import torch

        from edgedistil.models import losses

        sides = [
            losses.soft_span_loss(side_BL, soft[:, i], mask_BL, temperature=temperature)
            for i, side_BL in enumerate(logits)
        ]
        return torch.stack(sides).mean()

    def score(
        self,
        forward: Forward,
        tokenizer: TextTokenizer,
        dev: Sequence[Example],
        settings: ScoringSettings,
    ) -> DevScores:
        # Run all windows of all questions at once, so that batches have similar lengths.
        pieces = [squad.windows(tokenizer, example, settings.max_length) for example in dev]
        sequences = [window.encoded for window in chain.from_iterable(pieces)]
        logits = iter(all_logits(forward, sequences, pad_id(tokenizer), per_token=True))

        exact, f1 = [], []
        for example, windows in zip(dev, pieces, strict=True):
            sides = []
            for _ in windows:
                start, end = next(logits)
                sides.append((start, end))
            prediction = squad.best_answer(example.texts[1], windows, sides)
            answers = [answer.text for answer in example.answers]
            exact.append(squad.exact_match(prediction, answers))
            f1.append(squad.best_f1(prediction, answers))
        scores = {"em": float(np.mean(exact)), "f1": float(np.mean(f1))}
        return DevScores(scores, [], per_question={"em": exact, "f1": f1})


KINDS: dict[LabelledKind, TaskKind] = {
    kind.name: kind for kind in (Classification(), PairClassification(), Regression(), Span())
}

assert tuple(KINDS) == get_args(LabelledKind), "every kind has exactly one class"

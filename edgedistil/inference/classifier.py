"""Labels of texts, or of pairs of texts, from an exported classifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.contract import CONTRACT_FILE
from edgedistil.core.errors import ModelError
from edgedistil.inference.probabilities import sigmoid, softmax
from edgedistil.inference.task_model import TaskModel, Text, framed_of, listed
from edgedistil.inference.windows import in_windows

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Label:
    """A label of a text.

    Attributes:
        name: Name of the label.
        score: Its probability, 0 to 1; of a regression, the value.
    """

    name: str
    score: float


class Classifier(TaskModel):
    """Labels texts, or pairs of texts, with an exported classifier.

    A model of one label has probabilities that add up to 1, one of several labels has a
    probability for each, and a regression has values.

    Example:
        classifier = Classifier("runs/mine/export/student-text-classification")
        best = [labels[0].name for labels in classifier.classify(["first text", "second text"])]
    """

    task = "text-classification"

    @property
    def labels(self) -> list[str]:
        """Names of the labels, in the model's order."""
        return self._model.contract.labels

    def classify(self, texts: Iterable[Text], *, top_k: int | None = None) -> list[list[Label]]:
        """Returns the labels of each text, the most likely first.

        Args:
            texts: Texts, or pairs of texts.
            top_k: Labels of a text at most; None for all.
        Raises:
            InputError: One text was passed rather than a list.
            ModelError: An output holds NaN or infinite values, or does not fit the contract.
        """
        results = []
        for row in self.scores(texts):
            # A stable sort: among equal scores the first label comes first.
            order = np.argsort(-row, kind="stable")[:top_k]
            results.append([Label(self.labels[index], float(row[index])) for index in order])
        return results

    def scores(self, texts: Iterable[Text]) -> Scores:
        """Returns the scores of all labels in the model's order, (texts, labels).

        Args:
            texts: Texts, or pairs of texts.
        """
        self._truncate()
        parts, cut = [], 0
        for window in in_windows(listed(texts)):
            encodings = self._encode(window)
            cut += sum(bool(encoding.overflowing) for encoding in encodings)
            logits = np.empty((len(window), len(self.labels)), np.float32)
            for batch, outputs in self._outputs([framed_of(encoding) for encoding in encodings]):
                logits[batch.indices] = self._checked(outputs["logits"], len(batch.indices))
            parts.append(self._scores_of(logits))
        self._warn_of_cut(cut)
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)

    def _checked(self, logits_BC: Scores, texts: int) -> Scores:
        expected = (texts, len(self.labels))
        if logits_BC.shape != expected:
            raise ModelError(
                f"the graph in {self._model.folder} gives scores of the shape {logits_BC.shape}; "
                f"{CONTRACT_FILE} says {expected}",
                hint="run edgedistil export again: it replaces the folder",
            )
        self._require_finite(logits_BC, "scores")
        return logits_BC

    def _scores_of(self, logits_BC: Scores) -> Scores:
        match self._model.contract.problem_type:
            case "regression":
                return logits_BC
            case "multi_label_classification":
                return sigmoid(logits_BC)
            case _:
                return softmax(logits_BC)

"""From padded batches to logits and scores, for PyTorch models and ONNX artefacts alike.

Nothing here imports torch: the artefact's scores have to come from what a device runs
(docs/decisions.md#one-scoring-path).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import TrainingDiverged
from edgedistil.evaluate.encode import Encoded, Ids, length_groups, pad_batch
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.metrics import Floats, score

# Outputs of a model for one batch or one sequence: (B, C), or start (B, L) and end (B, L).
Logits = tuple[NDArray[Any], ...]
# Runs a batch. Takes input ids, attention mask and token types, shape (B, L) each.
Forward = Callable[[Ids, Ids, Ids], Logits]

# Tokens of a scoring batch, padding included: trades memory against the number of calls.
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class ScoringSettings:
    """How the dev set of a task is scored.

    Attributes:
        metric: The metric that counts.
        max_length: Tokens of a sequence at most.
        parts: Names of the dev files, if each of them gets its own scores (`accuracy_m`).
    """

    metric: str
    max_length: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class DevScores:
    """Predictions of a model for the dev set, and their scores.

    Attributes:
        scores: Metric → value.
        warnings: Remarks on scores that are 0 by definition.
        labels: N classes or values; empty where `per_question` is used.
        predictions: N predicted classes or values; empty where `per_question` is used.
        per_question: Metric → score of each question, for spans.
    """

    scores: dict[str, float]
    warnings: list[str]
    labels: list[float] = field(default_factory=list)
    predictions: list[float] = field(default_factory=list)
    per_question: dict[str, list[float]] = field(default_factory=dict)


def score_labels(
    dev: Sequence[Example], predictions_N: Floats, settings: ScoringSettings
) -> DevScores:
    """Scores one predicted class or value per example, over the dev set and over its parts."""
    labels_N = np.array([example.label for example in dev])
    scores, notes = score(settings.metric, labels_N, predictions_N)

    # The score that counts is over all dev files; each file's own scores are extra.
    for number, name in enumerate(settings.parts):
        in_part_N = np.array([example.part == number for example in dev])
        # A limit on dev examples can leave out all of a file's.
        if not in_part_N.any():
            continue
        part_scores, _ = score(settings.metric, labels_N[in_part_N], predictions_N[in_part_N])
        scores |= {f"{metric}_{name}": value for metric, value in part_scores.items()}
    return DevScores(scores, notes, labels_N.tolist(), predictions_N.tolist())


def all_logits(
    forward: Forward,
    sequences: Sequence[Encoded],
    pad: int,
    *,
    per_token: bool = False,
    label: str = "scoring",
) -> list[Logits]:
    """Runs a model on sequences, in batches of similar length.

    Args:
        forward: Runs one padded batch.
        sequences: N sequences.
        pad: Id of the padding token.
        per_token: Whether the outputs have one entry per token; those of padding are removed.
        label: Label of the progress bar.
    Returns:
        Outputs of each sequence, in the order of `sequences`.
    Raises:
        TrainingDiverged: An output is NaN or infinite.
    """
    lengths = [len(sequence.input_ids) for sequence in sequences]
    logits: list[Logits] = [()] * len(sequences)
    with console.progress(label, len(sequences), unit="sequences") as bar:
        # Sequences of similar length share a batch, so little of it is padding.
        for batch in length_groups(lengths, BATCH_TOKENS):
            outputs = forward(*pad_batch([sequences[i] for i in batch], pad))
            if not all(np.isfinite(output).all() for output in outputs):
                raise TrainingDiverged(
                    "the fine-tuned model returns NaN or infinite outputs",
                    hint="lower learning_rate in the task's file",
                )
            # Put the rows of the batch back into the order of the sequences.
            for row, index in enumerate(batch):
                end = lengths[index] if per_token else None
                logits[index] = tuple(output[row][:end] for output in outputs)
            bar.advance(len(batch))
    return logits

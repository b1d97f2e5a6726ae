"""Dev set → predictions → scores, whatever runs the model: PyTorch and ONNX artefacts come through here. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.core import console
from edgedistil.core.errors import TrainingDiverged
from edgedistil.evaluate import squad
from edgedistil.evaluate.encode import Encoded, Ids, encode_texts, length_groups, pad_id, padded
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.metrics import Floats, score

Logits = tuple[NDArray[Any], ...]  # (B, C), or start (B, L) and end (B, L)
Forward = Callable[[Ids, Ids, Ids], Logits]  # input ids, attention mask, token types, each (B, L)

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Scored:
    """What a model said about the dev set. A span task has `per_question` instead of labels and predictions."""

    scores: dict[str, float]
    warnings: list[str]
    labels: list[float] = field(default_factory=list)
    predictions: list[float] = field(default_factory=list)
    per_question: dict[str, list[float]] = field(default_factory=dict)


def score_dev(
    forward: Forward,
    tokenizer: Tokenizer,
    dev: Sequence[Example],
    *,
    kind: str,
    metric: str,
    max_length: int,
    parts: tuple[str, ...] = (),
) -> Scored:
    """The dev set's predictions and their scores.

    Args:
        forward: Runs one padded batch.
        parts: Names of the dev files, if each gets a score of its own beside the whole (`accuracy_m`).
    Raises:
        TrainingDiverged: The model answers NaN.
    """
    if kind == "span":
        return _score_spans(forward, tokenizer, dev, max_length)
    encoded = encode_texts(tokenizer, [example.texts for example in dev], max_length)
    rows = np.stack([each[0] for each in all_logits(forward, encoded, pad_id(tokenizer))])
    predictions = (
        rows[:, 0].astype(np.float64)
        if kind == "regression"
        else rows.argmax(axis=1).astype(np.float64)
    )
    labels = np.array([example.label for example in dev])
    scores, notes = score(metric, labels, predictions)
    for number, name in enumerate(parts):
        of_part = np.array([example.part == number for example in dev])
        for key, value in score(metric, labels[of_part], predictions[of_part])[0].items():
            scores[f"{key}_{name}"] = value
    return Scored(scores, notes, labels.tolist(), predictions.tolist())


def _score_spans(
    forward: Forward, tokenizer: Tokenizer, dev: Sequence[Example], max_length: int
) -> Scored:
    pieces = [squad.windows(tokenizer, example, max_length) for example in dev]
    logits = all_logits(
        forward, [w.encoded for windows in pieces for w in windows], pad_id(tokenizer)
    )
    em, f1 = [], []
    at = 0
    for example, windows in zip(dev, pieces, strict=True):
        own = [(each[0], each[1]) for each in logits[at : at + len(windows)]]
        at += len(windows)
        said = squad.best_answer(example.texts[1], windows, own)
        answers = [answer.text for answer in example.answers]
        em.append(squad.exact_match(said, answers))
        f1.append(squad.best_f1(said, answers))
    scores = {"em": float(np.mean(em)), "f1": float(np.mean(f1))}
    return Scored(scores, [], per_question={"em": em, "f1": f1})


def all_logits(
    forward: Forward, encoded: Sequence[Encoded], pad: int, *, label: str = "scoring"
) -> list[Logits]:
    """The logits of each sequence, in order; run in batches of similar length, padding cut off again."""
    lengths = [len(each.input_ids) for each in encoded]
    found: list[Logits] = [()] * len(encoded)
    with console.progress(label, len(encoded), unit="sequences") as bar:
        for batch in length_groups(lengths, BATCH_TOKENS):
            outputs = forward(*arrays([encoded[i] for i in batch], pad))
            if not all(np.isfinite(output).all() for output in outputs):
                raise TrainingDiverged(
                    "the fine-tuned model answers NaN",
                    hint="lower learning_rate in the task's file",
                )
            for row, index in enumerate(batch):
                found[index] = tuple(
                    _unpadded(output[row], lengths[index], len(outputs)) for output in outputs
                )
            bar.advance(len(batch))
    return found


def _unpadded(row: NDArray[Any], length: int, outputs: int) -> NDArray[Any]:
    return row[:length] if outputs == 2 else row


def arrays(batch: Sequence[Encoded], pad: int) -> tuple[Ids, Ids, Ids]:
    """Input ids, attention mask and token types of a batch, each (B, L)."""
    input_ids = padded([each.input_ids for each in batch], pad)
    mask = padded([[1] * len(each.input_ids) for each in batch], 0)
    return input_ids, mask, padded([each.type_ids for each in batch], 0)


def floor_labels(examples: Sequence[Example]) -> Floats:
    return np.array([example.label for example in examples])

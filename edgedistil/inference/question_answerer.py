"""Answers that are spans of a context, from an exported model for question answering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.inference.probabilities import softmax
from edgedistil.inference.task_model import TaskModel, framed_of, listed
from edgedistil.inference.windows import in_windows

# Tokens that two windows of a long context share at most: BERT's code for SQuAD has 128.
_OVERLAP = 128
# Tokens of an answer at most, as SQuAD's scores in `evaluate` have it.
ANSWER_TOKENS = 30
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """An answer to a question.

    Attributes:
        text: Characters of the context.
        score: Probability of its start times that of its end, 0 to 1.
        start: Number of its first character in the context.
        end: Number of the character after its last one.
    """

    text: str
    score: float
    start: int
    end: int


class QuestionAnswerer(TaskModel):
    """Finds answers in contexts with an exported model for question answering.

    A context that is longer than the model reads becomes windows, which overlap.

    Example:
        answerer = QuestionAnswerer("runs/mine/export/student-question-answering")
        [answers] = answerer.answer([("Who wrote?", "Ada Lovelace wrote to London.")])
        print(answers[0].text)
    """

    task = "question-answering"

    def answer(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        top_k: int = 1,
        max_tokens: int = ANSWER_TOKENS,
    ) -> list[list[Answer]]:
        """Returns the most likely answers to each question.

        Args:
            questions: Pairs of a question and its context.
            top_k: Answers of a question at most; fewer if the context has fewer spans.
            max_tokens: Tokens of an answer at most.
        Raises:
            InputError: A question needs more than half of the tokens that the model reads.
        Differs from: transformers 4's pipeline, which makes the scores of each window add up to 1
            by themselves, so that a window without the answer has one of the same score. Here all
            windows of a context share the sum; of a single window the scores are the same.
        """
        room = self.max_length - self._model.tokenizer.special_count(pair=True)
        results = []
        for window in in_windows(listed(questions)):
            self._require_short(window, room // 2)
            # A question has half of the room at most, so a window moves on by a quarter of it.
            self._truncate(overlap=max(1, min(_OVERLAP, room // 4)), strategy="only_second")
            parts = [[part, *part.overflowing] for part in self._encode(window)]
            scores = iter(self._scores([part for encodings in parts for part in encodings]))
            for (_, context), encodings in zip(window, parts, strict=True):
                sides = [next(scores) for _ in encodings]
                best = _best_spans(encodings, self._probabilities(encodings, sides), max_tokens)
                results.append(_answers(context, best[: max(0, top_k)]))
        return results

    def _require_short(self, questions: list[tuple[str, str]], most: int) -> None:
        texts = [question for question, _ in questions]
        self._model.tokenizer.backend.no_truncation()
        for text, ids in zip(texts, self._model.tokenizer.encode_texts(texts), strict=True):
            if len(ids) > most:
                raise InputError(
                    f"a question has {len(ids)} tokens; expected at most {most}, half of what the "
                    f"model reads: {echo(text)}"
                )

    def _scores(self, encodings: list[Encoding]) -> list[Floats]:
        """Returns the logits of starts and ends, (2, L) for each window."""
        scores: list[Floats] = [np.zeros((2, 0), np.float32)] * len(encodings)
        for batch, outputs in self._outputs([framed_of(encoding) for encoding in encodings]):
            both_2BL = np.stack([outputs["start_logits"], outputs["end_logits"]])
            self._require_finite(both_2BL, "scores")
            for row, index in enumerate(batch.indices):
                scores[index] = both_2BL[:, row, batch.mask_BL[row] == 1]
        return scores

    def _probabilities(self, encodings: list[Encoding], sides: list[Floats]) -> list[Floats]:
        """Returns the probabilities of starts and ends, which are 0 outside of the context."""
        cls_id = self._model.tokenizer.token_id("cls")
        masked = []
        for encoding, logits_2L in zip(encodings, sides, strict=True):
            # Models that were trained on questions without an answer point at this token.
            counts_L = _in_context(encoding) | (np.array(encoding.ids) == cls_id)
            masked.append(np.where(counts_L, logits_2L, -np.inf).astype(np.float32))
        joined_2N = np.concatenate(masked, axis=1)
        if np.isneginf(joined_2N).all():
            return [np.zeros_like(part) for part in masked]
        joined_2N = softmax(joined_2N)
        ends = np.cumsum([part.shape[1] for part in masked])[:-1]
        parts = np.split(joined_2N, ends, axis=1)
        return [
            np.where(_in_context(encoding), part, 0).astype(np.float32)
            for encoding, part in zip(encodings, parts, strict=True)
        ]


def _in_context(encoding: Encoding) -> NDArray[np.bool_]:
    """Returns which tokens are of the context, the second text."""
    return np.array([text == 1 for text in encoding.sequence_ids], np.bool_)


def _best_spans(
    encodings: list[Encoding], probabilities: list[Floats], max_tokens: int
) -> list[tuple[float, int, int]]:
    """Returns score and characters of spans, the most likely first; each span once."""
    best: dict[tuple[int, int], float] = {}
    complete = _word_spans(encodings)
    for encoding, (starts_L, ends_L) in zip(encodings, probabilities, strict=True):
        tokens = zip(encoding.word_ids, encoding.offsets, strict=True)
        words = [complete.get(word, span) for word, span in tokens]
        products_LL = np.tril(np.triu(np.outer(starts_L, ends_L)), max_tokens - 1)
        for start, end in np.argwhere(products_LL).tolist():
            # Windows share tokens, and tokens share words.
            span = words[start][0], words[end][1]
            best[span] = max(best.get(span, 0.0), float(products_LL[start, end]))
    # The earlier and shorter of equal spans comes first.
    return sorted(((score, *span) for span, score in best.items()), key=lambda s: (-s[0], s[1:]))


def _word_spans(encodings: list[Encoding]) -> dict[int | None, tuple[int, int]]:
    """Returns the characters of each word of the context, which windows may divide."""
    spans: dict[int | None, tuple[int, int]] = {}
    for encoding in encodings:
        tokens = zip(encoding.word_ids, encoding.offsets, encoding.sequence_ids, strict=True)
        for word, (start, end), text in tokens:
            if text != 1 or word is None:
                continue
            before = spans.get(word, (start, end))
            spans[word] = min(before[0], start), max(before[1], end)
    return spans


def _answers(context: str, spans: list[tuple[float, int, int]]) -> list[Answer]:
    answers = []
    for score, start, end in spans:
        text = context[start:end]
        # Tokens of some vocabularies begin with the blank in front of a word.
        start += len(text) - len(text.lstrip())
        answers.append(Answer(text.strip(), score, start, start + len(text.strip())))
    return answers

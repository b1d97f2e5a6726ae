"""Labelled spans of texts, from an exported token classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.inference.probabilities import softmax
from edgedistil.inference.task_model import TaskModel, framed_of, listed
from edgedistil.inference.windows import in_windows

# How tokens become spans; the names are those of transformers' pipeline.
Aggregation = Literal["none", "simple", "first", "average", "max"]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """A labelled part of a text.

    Attributes:
        label: Label, without B- or I- where tokens were joined.
        score: Its probability, 0 to 1; the mean over the joined tokens or words.
        start: Number of its first character.
        end: Number of the character after its last one.
        text: The characters.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Piece:
    """A token or a word with the scores of the labels."""

    scores_C: Floats
    start: int
    end: int
    continues_word: bool

    @property
    def best(self) -> int:
        """Number of its most likely label."""
        return int(self.scores_C.argmax())


class TokenClassifier(TaskModel):
    """Finds labelled spans, such as names, with an exported token classifier.

    Example:
        names = TokenClassifier("runs/mine/export/student-token-classification")
        [spans] = names.spans(["Ada Lovelace wrote to London."])
    """

    task = "token-classification"

    def spans(
        self,
        texts: Iterable[str],
        *,
        aggregation: Aggregation = "simple",
        overlap: int | None = None,
        ignored: Sequence[str] = ("O",),
    ) -> list[list[Span]]:
        """Returns the labelled spans of each text.

        Args:
            texts: The texts.
            aggregation: none: a span for each token; simple: neighbouring tokens with one label are
                joined; first, average, max: a word has the label of its first token, of the mean of
                its tokens, or of its most certain token, and neighbouring words are joined.
            overlap: Tokens that two windows of a long text share; None: long texts are cut.
            ignored: Labels that are left out.
        Raises:
            InputError: The aggregation is unknown, or windows would not move on.
        Source: The token classification pipeline of transformers 5, whose results are the same.
        """
        if aggregation not in get_args(Aggregation):
            expected = ", ".join(get_args(Aggregation))
            raise InputError(f"unknown aggregation {echo(aggregation)}; expected {expected}")
        # Windows that share all their tokens would never end.
        room = self.max_length - self._model.tokenizer.special_count(pair=False)
        if overlap is not None and not 0 <= overlap < room:
            raise InputError(f"overlap is {overlap}; expected 0 to {room - 1}")
        self._truncate(overlap=overlap or 0)
        results, cut = [], 0
        for window in in_windows(listed(texts)):
            # A text has one encoding, and more where it is longer than the model reads.
            parts = [[encoding] for encoding in self._encode(window)]
            for encodings in parts:
                if overlap is not None:
                    encodings += encodings[0].overflowing
                cut += overlap is None and bool(encodings[0].overflowing)
            # All parts of a window are scored together, then handed back to their texts.
            scores = iter(self._scores([part for encodings in parts for part in encodings]))
            for text, encodings in zip(window, parts, strict=True):
                spans = []
                for encoding in encodings:
                    pieces = self._pieces(text, encoding, next(scores))
                    spans += self._spans(text, pieces, aggregation, ignored)
                results.append(_without_overlaps(spans) if len(encodings) > 1 else spans)
        self._warn_of_cut(cut)
        return results

    def _scores(self, encodings: list[Encoding]) -> list[Floats]:
        """Returns the probabilities of the labels at each token, (L, labels) for each text."""
        scores: list[Floats] = [np.zeros((0, 0), np.float32)] * len(encodings)
        for batch, outputs in self._outputs([framed_of(encoding) for encoding in encodings]):
            self._require_finite(outputs["logits"], "scores")
            for row, index in enumerate(batch.indices):
                scores[index] = softmax(outputs["logits"][row][batch.mask_BL[row] == 1])
        return scores

    def _pieces(self, text: str, encoding: Encoding, scores_LC: Floats) -> list[_Piece]:
        """Returns the tokens of a text, without special tokens."""
        backend = self._model.tokenizer.backend
        has_prefix = bool(getattr(backend.model, "continuing_subword_prefix", None))
        unknown = self._model.tokenizer.token_id("unk")
        pieces = []
        for number, (start, end) in enumerate(encoding.offsets):
            if encoding.special_tokens_mask[number]:
                continue
            if has_prefix:
                # A continuing token is longer than its characters by the prefix.
                continues = len(encoding.tokens[number]) != end - start
            else:
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            continues = continues and encoding.ids[number] != unknown
            pieces.append(_Piece(scores_LC[number], start, end, continues))
        return pieces

    def _spans(
        self, text: str, pieces: list[_Piece], aggregation: Aggregation, ignored: Sequence[str]
    ) -> list[Span]:
        labels = self._model.contract.labels
        if aggregation == "none":
            groups = [[piece] for piece in pieces]
        else:
            if aggregation != "simple":
                pieces = _words(pieces, aggregation)
            groups = _groups(pieces, labels)
        spans = []
        for group in groups:
            label = labels[group[0].best]
            if aggregation != "none":
                label = label.split("-", 1)[-1]
            if label in ignored:
                continue
            score = float(np.mean([piece.scores_C[piece.best] for piece in group]))
            start, end = group[0].start, group[-1].end
            spans.append(Span(label, score, start, end, text[start:end]))
        return spans


def _words(pieces: list[_Piece], aggregation: Aggregation) -> list[_Piece]:
    """Joins the tokens of each word."""
    words: list[list[_Piece]] = []
    for piece in pieces:
        if words and piece.continues_word:
            words[-1].append(piece)
        else:
            words.append([piece])
    return [
        _Piece(_word_scores(word, aggregation), word[0].start, word[-1].end, continues_word=False)
        for word in words
    ]


def _word_scores(word: list[_Piece], aggregation: Aggregation) -> Floats:
    if aggregation == "first":
        return word[0].scores_C
    if aggregation == "max":
        return max(word, key=lambda piece: float(piece.scores_C.max())).scores_C
    return np.asarray(np.mean([piece.scores_C for piece in word], axis=0), np.float32)


def _groups(pieces: list[_Piece], labels: list[str]) -> list[list[_Piece]]:
    """Joins neighbours with one label; B- starts another group."""
    groups: list[list[_Piece]] = []
    last = None
    for piece in pieces:
        begins, kind = _begins_and_kind(labels[piece.best])
        if groups and kind == last and not begins:
            groups[-1].append(piece)
        else:
            groups.append([piece])
        last = kind
    return groups


def _begins_and_kind(label: str) -> tuple[bool, str]:
    """Returns whether a label starts a span, and the label without B- or I-."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlaps(spans: list[Span]) -> list[Span]:
    """Of spans that overlap, keeps the longest, then the most certain one."""
    remaining: list[Span] = []
    for span in sorted(spans, key=lambda item: item.start):
        if not remaining or not remaining[-1].start <= span.start < remaining[-1].end:
            remaining.append(span)
            continue
        before = remaining[-1]
        if (span.end - span.start, span.score) > (before.end - before.start, before.score):
            remaining[-1] = span
    return remaining

"""Extractive question answering by SQuAD 1.1's definitions: windows over long contexts, n-best spans, EM and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.evaluate.encode import Encoded
from edgedistil.evaluate.examples import Answer, Example

Floats = NDArray[np.float32]

STRIDE = 128  # tokens from one window's first to the next one's
QUERY_LIMIT = 64  # tokens of the question
N_BEST = 20  # starts and ends that are combined
ANSWER_LIMIT = 30  # tokens of an answer
_PAIR_SPECIALS = 3  # [CLS] question [SEP] context [SEP]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Window:
    """A piece of one question's context, ready for the model.

    `spans` holds the characters of each token, None where no answer may begin or end; `is_best_view[i]` says that no
    other window shows more context on both sides of token i.
    """

    encoded: Encoded
    spans: list[tuple[int, int] | None]
    is_best_view: list[bool]


def windows(tokenizer: Tokenizer, example: Example, max_length: int) -> list[Window]:
    """The windows of one question over its whole context, in order.

    Source: Devlin et al. 2019, SQuAD code: 128 tokens from window to window, questions of at most 64 tokens; an answer
    counts only in the window that shows most context around it.
    """
    question, context = example.texts
    question, size = _cut_question(tokenizer, question)
    room = max_length - size - _PAIR_SPECIALS
    tokenizer.enable_truncation(max_length, stride=max(0, room - STRIDE), strategy="only_second")
    first = tokenizer.encode(question, context)
    pieces = [first, *first.overflowing]
    spans = [
        [
            offset if which == 1 else None
            for offset, which in zip(piece.offsets, piece.sequence_ids, strict=True)
        ]
        for piece in pieces
    ]
    views = _best_views(spans)
    return [
        Window(Encoded(list(piece.ids), list(piece.type_ids)), span, view)
        for piece, span, view in zip(pieces, spans, views, strict=True)
    ]


def _cut_question(tokenizer: Tokenizer, question: str) -> tuple[str, int]:
    tokenizer.no_truncation()
    encoded = tokenizer.encode(question, add_special_tokens=False)
    if len(encoded.ids) <= QUERY_LIMIT:
        return question, len(encoded.ids)
    return question[: encoded.offsets[QUERY_LIMIT - 1][1]], QUERY_LIMIT


def _best_views(spans: list[list[tuple[int, int] | None]]) -> list[list[bool]]:
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for number, window in enumerate(spans):
        places = [i for i, span in enumerate(window) if span is not None]
        for i in places:
            span = window[i]
            assert span is not None
            view = min(i - places[0], places[-1] - i) + 0.01 * len(places)
            if span not in best or view > best[span][0]:
                best[span] = (view, number)
    return [
        [span is not None and best[span][1] == number for span in window]
        for number, window in enumerate(spans)
    ]


def answer_tokens(window: Window, answer: Answer) -> tuple[int, int]:
    """First and last token of the answer in this window; (0, 0), the [CLS] token, when it is not wholly inside."""
    end = answer.start + len(answer.text)
    inside = [
        i
        for i, span in enumerate(window.spans)
        if span and span[0] < end and span[1] > answer.start
    ]
    if not inside:
        return 0, 0
    first, last = window.spans[inside[0]], window.spans[inside[-1]]
    assert first is not None and last is not None
    covers = first[0] <= answer.start and last[1] >= end
    return (inside[0], inside[-1]) if covers else (0, 0)


def best_answer(
    context: str, pieces: Sequence[Window], logits: Sequence[tuple[Floats, Floats]]
) -> str:
    """The text of the most likely span over all windows; "" when no pair of the best starts and ends is a span.

    Args:
        logits: Start and end logits of each window, as long as the window (no padding).
    """
    found, best = "", -np.inf
    for window, (starts, ends) in zip(pieces, logits, strict=True):
        for start in _best(starts):
            if not window.is_best_view[start]:
                continue
            for end in _best(ends):
                length = end - start + 1
                if not 1 <= length <= ANSWER_LIMIT or window.spans[end] is None:
                    continue
                total = float(starts[start]) + float(ends[end])
                if total > best:
                    first, last = window.spans[start], window.spans[end]
                    assert first is not None and last is not None
                    found, best = context[first[0] : last[1]], total
    return found


def _best(logits: Floats) -> list[int]:
    return [int(i) for i in np.argsort(-logits, kind="stable")[:N_BEST]]


# --- the official score -----------------------------------------------------------------------------


def normalised_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces: what SQuAD 1.1 compares.

    Source: Rajpurkar et al. 2016, §6.1 ("we ignore punctuations and articles").
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction equals one of the answers after normalisation, else 0."""
    return float(
        any(normalised_answer(prediction) == normalised_answer(answer) for answer in answers)
    )


def best_f1(prediction: str, answers: Sequence[str]) -> float:
    """Largest F1 of the bags of words of the prediction and of an answer, after normalisation."""
    return max(_word_f1(prediction, answer) for answer in answers)


def _word_f1(prediction: str, answer: str) -> float:
    said, right = normalised_answer(prediction).split(), normalised_answer(answer).split()
    shared = sum((Counter(said) & Counter(right)).values())
    return 2 * shared / (len(said) + len(right)) if shared else 0.0

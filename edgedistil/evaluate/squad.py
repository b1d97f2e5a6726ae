"""Extractive question answering as in SQuAD 1.1: windows, n-best spans, exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.evaluate.encode import Encoded, encoded, longest_sequence
from edgedistil.evaluate.examples import AnswerSpan, Example

Floats = NDArray[np.float32]
CharSpan = tuple[int, int]

# The constants of BERT's code for SQuAD, so that scores compare with published ones. The stride is
# a step, not an overlap (docs/decisions.md#squads-stride-is-a-step).
STRIDE = 128  # tokens from the start of one window to the start of the next
QUESTION_LIMIT = 64  # tokens of the question
N_BEST = 20  # start positions and end positions that are combined
ANSWER_LIMIT = 30  # tokens of an answer
# Weight of a window's length when two windows show equally much context around a token.
_LENGTH_WEIGHT = 0.01

# Characters of scripts that are written without blanks between words: Thai, Lao, Burmese, Khmer,
# kana, and Chinese characters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0002fa1f"
)
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Window:
    """Part of the context of one question, encoded for the model.

    Attributes:
        encoded: Token ids of the question and of the part.
        spans: Characters of the context that each token covers; None where no answer may start or
            end (question and special tokens).
        is_best_view: Whether no other window shows more context on both sides of each token.
    """

    encoded: Encoded
    spans: list[CharSpan | None]
    is_best_view: list[bool]


# --- windows -------------------------------------------------------------------------------------


def windows(tokenizer: TextTokenizer, example: Example, max_length: int) -> list[Window]:
    """Splits the context of one question into overlapping windows, in order.

    Args:
        tokenizer: TextTokenizer of the model; its truncation is changed.
        example: Question and context.
        max_length: Tokens of a window at most, special tokens included.
    Source: Devlin et al. 2019, SQuAD code: windows start 128 tokens apart, questions have at most
        64 tokens, and an answer counts only in the window that shows most context around it.
    """
    question, context = example.texts
    question, size = _truncate_question(tokenizer, question)

    # The tokenizer takes the overlap of two windows, BERT's code the step between them.
    max_length = longest_sequence(tokenizer, max_length)
    room = max_length - size - tokenizer.special_count(pair=True)
    backend = tokenizer.backend
    backend.enable_truncation(max_length, stride=max(0, room - STRIDE), strategy="only_second")
    # Truncation returns the first window; the others are in `overflowing`.
    first = backend.encode(question, context)
    parts = [first, *first.overflowing]

    spans = [_context_spans(part) for part in parts]
    views = _best_views(spans)
    return [
        Window(encoded(tokenizer, part), span, view)
        for part, span, view in zip(parts, spans, views, strict=True)
    ]


def _truncate_question(tokenizer: TextTokenizer, question: str) -> tuple[str, int]:
    """Returns the question's text up to its token limit, and the number of its tokens."""
    tokenizer.backend.no_truncation()
    encoded = tokenizer.backend.encode(question, add_special_tokens=False)
    if len(encoded.ids) <= QUESTION_LIMIT:
        return question, len(encoded.ids)
    last_character = encoded.offsets[QUESTION_LIMIT - 1][1]
    return question[:last_character], QUESTION_LIMIT


def _context_spans(part: Encoding) -> list[CharSpan | None]:
    """Returns the characters of the tokens that belong to the context, None for the others."""
    pairs = zip(part.offsets, part.sequence_ids, strict=True)
    return [offset if text == 1 else None for offset, text in pairs]


def _best_views(spans: list[list[CharSpan | None]]) -> list[list[bool]]:
    """Marks, for each token of the context, the window that shows most context around it."""
    best: dict[CharSpan, tuple[float, int]] = {}
    for number, window in enumerate(spans):
        places = [i for i, span in enumerate(window) if span is not None]
        for i in places:
            span = window[i]
            assert span is not None
            # Context on the shorter side counts, as in BERT's code.
            view = min(i - places[0], places[-1] - i) + _LENGTH_WEIGHT * len(places)
            if span not in best or view > best[span][0]:
                best[span] = (view, number)
    return [_windows_own(window, number, best) for number, window in enumerate(spans)]


def _windows_own(
    window: list[CharSpan | None], number: int, best: dict[CharSpan, tuple[float, int]]
) -> list[bool]:
    return [span is not None and best[span][1] == number for span in window]


# --- answers -------------------------------------------------------------------------------------


def answer_tokens(window: Window, answer: AnswerSpan) -> tuple[int, int]:
    """Returns the first and last token of an answer in a window.

    Returns:
        Token positions; (0, 0), the [CLS] token, if the window does not contain the entire answer.
    """
    answer_end = answer.start + len(answer.text)
    inside = []
    for i, span in enumerate(window.spans):
        if span and span[0] < answer_end and span[1] > answer.start:
            inside.append(i)
    if not inside:
        return 0, 0
    first, last = window.spans[inside[0]], window.spans[inside[-1]]
    assert first is not None and last is not None
    # An answer that begins before the window or ends after it overlaps but is not covered. Between
    # two tokens of the window there may be characters that the tokenizer drops, such as accents.
    spans = window.spans
    begins = first[0] <= answer.start or spans[inside[0] - 1] is not None
    ends = last[1] >= answer_end or any(spans[inside[-1] + 1 : inside[-1] + 2])
    return (inside[0], inside[-1]) if begins and ends else (0, 0)


def best_answer(
    context: str, pieces: Sequence[Window], logits: Sequence[tuple[Floats, Floats]]
) -> str:
    """Returns the text of the most likely span over all windows of a question.

    Args:
        context: Text that the spans refer to.
        pieces: Windows of the question.
        logits: Start and end logits of each window, as long as the window (without padding).
    Returns:
        Text; "" if no pair of the best starts and ends is a valid span.
    """
    text, best = "", -np.inf
    for window, (starts, ends) in zip(pieces, logits, strict=True):
        for start in _n_best(starts):
            # Another window shows this token with more context, so its logits count there.
            if not window.is_best_view[start]:
                continue
            for end in _n_best(ends):
                total = float(starts[start]) + float(ends[end])
                if _is_valid_span(window, start, end) and total > best:
                    text, best = _span_text(context, window, start, end), total
    return text


def _is_valid_span(window: Window, start: int, end: int) -> bool:
    return 1 <= end - start + 1 <= ANSWER_LIMIT and window.spans[end] is not None


def _span_text(context: str, window: Window, start: int, end: int) -> str:
    first, last = window.spans[start], window.spans[end]
    assert first is not None and last is not None
    # Tokens of some vocabularies begin with the blank in front of a word.
    return context[first[0] : last[1]].strip()


def _n_best(logits: Floats) -> list[int]:
    # A stable sort: among equal logits the first token wins, on every machine.
    return [int(i) for i in np.argsort(-logits, kind="stable")[:N_BEST]]


# --- official scores -----------------------------------------------------------------------------


def normalize_answer(text: str) -> str:
    """Returns the text in lower case, without ASCII punctuation and English articles.

    Source: Rajpurkar et al. 2016, §6.1 ("we ignore punctuations and articles").
    """
    # Articles go after punctuation, as in the official script: "the-a" becomes "thea".
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 if the prediction equals an answer after normalization, else 0."""
    normalized = normalize_answer(prediction)
    return float(any(normalized == normalize_answer(answer) for answer in answers))


def best_f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the largest word F1 of the prediction with an answer, after normalization."""
    return max(_word_f1(prediction, answer) for answer in answers)


def _word_f1(prediction: str, answer: str) -> float:
    # As MLQA's script does, each character of a script without blanks counts as a word; the
    # official one has none of them in its answers.
    predicted, expected = (_WORDS.findall(normalize_answer(text)) for text in (prediction, answer))
    # Words are counted as often as they occur on both sides.
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if not shared:
        return 0.0
    return 2 * shared / (len(predicted) + len(expected))

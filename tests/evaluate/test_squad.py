"""SQuAD 1.1: normalization and scores by the official definitions, windows, n-best spans."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.evaluate.encode import open_tokenizer
from edgedistil.evaluate.examples import AnswerSpan, Example
from edgedistil.evaluate.squad import (
    ANSWER_LIMIT,
    Floats,
    Window,
    answer_tokens,
    best_answer,
    best_f1,
    exact_match,
    normalize_answer,
    windows,
)
from tests.fixtures.tokenizer_folders import LAYOUTS, our_text


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat!", "cat"),
        ("a theatre, an Ant", "theatre ant"),
        ("U.S.A.", "usa"),
        ("the-a", "thea"),  # punctuation is removed first, so no article is left
        ("Łódź’s", "łódź’s"),  # only ASCII punctuation is removed
        ("THE", ""),
    ],
)
def test_normalization(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_exact_match_takes_the_best_answer() -> None:
    assert exact_match("The Broncos", ["Denver Broncos", "broncos."]) == 1.0
    assert exact_match("Denver", ["Denver Broncos", "broncos"]) == 0.0


def test_f1_by_hand() -> None:
    assert best_f1("the Denver Broncos team", ["Denver Broncos"]) == pytest.approx(2 * 2 / (3 + 2))
    assert best_f1("Broncos Broncos", ["Broncos"]) == pytest.approx(2 * 1 / (2 + 1))
    assert best_f1("x", ["y", "x z"]) == pytest.approx(2 / 3)


def test_f1_of_text_without_blanks_counts_characters() -> None:
    assert best_f1("北京大学", ["北京"]) == pytest.approx(2 * 2 / (4 + 2))
    assert best_f1("iPhone 手机", ["手机"]) == pytest.approx(2 * 2 / (3 + 2))
    assert best_f1("ประเทศไทย", ["ไทย"]) > 0.4


def test_f1_without_shared_words_or_without_a_prediction_is_zero() -> None:
    assert best_f1("Paris", ["London"]) == 0.0
    assert best_f1("", ["London"]) == 0.0


@pytest.fixture
def tokenizer(tiny_models: Path) -> TextTokenizer:
    # Windows of 201 tokens are longer than this model's positions.
    return replace(open_tokenizer(tiny_models / "student"), positions=None)


def long_example(words: int = 300) -> Example:
    context = " ".join(["plot", "story", "film"][i % 3] for i in range(words - 1)) + " London"
    start = context.index("London")
    return Example(("where was it ?", context), answers=(AnswerSpan("London", start),))


def test_windows_cover_the_context_in_steps_of_the_stride(tokenizer: TextTokenizer) -> None:
    pieces = windows(tokenizer, long_example(), 201)
    # The first character of the context that each window shows.
    firsts = [min(span for span in piece.spans if span)[0] for piece in pieces]
    context = long_example().texts[1]
    assert [len(context[:first].split()) for first in firsts] == [0, 128]
    assert pieces[-1].spans[-2] == (len(context) - 6, len(context))
    assert all(len(piece.encoded.input_ids) <= 201 for piece in pieces)


def test_each_token_has_exactly_one_best_view(tokenizer: TextTokenizer) -> None:
    pieces = windows(tokenizer, long_example(), 201)
    views = []
    for piece in pieces:
        pairs = zip(piece.spans, piece.is_best_view, strict=True)
        views += [span for span, best in pairs if best]
    assert len(views) == len(set(views)) == 300


def test_question_is_truncated_at_its_limit(tokenizer: TextTokenizer) -> None:
    example = Example(("film " * 97, "good story"), answers=(AnswerSpan("good", 0),))
    piece = windows(tokenizer, example, 131)[0]
    assert piece.encoded.type_ids.count(0) == 64 + 2


def test_answer_tokens_are_the_answer(tokenizer: TextTokenizer) -> None:
    example = Example(("who ?", "Ada lived in Paris ."), answers=(AnswerSpan("in Paris", 10),))
    piece = windows(tokenizer, example, 31)[0]
    start, end = answer_tokens(piece, example.answers[0])
    assert example.texts[1][piece.spans[start][0] : piece.spans[end][1]] == "in Paris"


def test_windows_are_cut_at_the_positions_of_the_model(tokenizer: TextTokenizer) -> None:
    pieces = windows(replace(tokenizer, positions=64), long_example(), 201)
    assert {len(piece.encoded.input_ids) for piece in pieces[:-1]} == {64}


def test_window_without_the_answer_points_at_cls(tokenizer: TextTokenizer) -> None:
    example = long_example()
    first, last = windows(tokenizer, example, 201)
    assert answer_tokens(first, example.answers[0]) == (0, 0)
    assert answer_tokens(last, example.answers[0]) != (0, 0)


CONTEXT = "Ada lived in Paris ."


def logits(size: int, **at: float) -> Floats:
    """Logits of `size` tokens; `t4=3.0` sets that of token 4."""
    values = np.full(size, -9.0, dtype=np.float32)
    for token, value in at.items():
        values[int(token[1:])] = value
    return values


@pytest.fixture
def window(tokenizer: TextTokenizer) -> Window:
    """One window, whose context is at tokens 4 to 8."""
    return windows(tokenizer, Example(("who ?", CONTEXT)), 31)[0]


def answer(window: Window, starts: dict[str, float], ends: dict[str, float]) -> str:
    size = len(window.spans)
    return best_answer(CONTEXT, [window], [(logits(size, **starts), logits(size, **ends))])


def test_best_span_is_the_text_of_the_largest_sum(window: Window) -> None:
    assert answer(window, {"t4": 3.0, "t7": 5.0}, {"t4": 3.0, "t7": 5.0}) == "Paris"


def test_span_that_ends_before_it_starts_is_skipped(window: Window) -> None:
    assert answer(window, {"t7": 9.0, "t4": 1.0}, {"t5": 9.0, "t7": 0.5}) == "Ada lived"


def test_question_and_special_tokens_are_never_answers(window: Window) -> None:
    assert (
        answer(window, {"t0": 30.0, "t1": 20.0, "t6": 1.0}, {"t0": 30.0, "t1": 20.0, "t7": 1.0})
        == "in Paris"
    )


def test_longest_answer_is_limited(tokenizer: TextTokenizer) -> None:
    context = "film " * 40
    window = windows(tokenizer, Example(("who ?", context.strip())), 61)[0]
    size = len(window.spans)
    # The likelier end is one token too far.
    starts = logits(size, t4=9.0)
    ends = logits(size, **{f"t{4 + ANSWER_LIMIT}": 9.0, f"t{3 + ANSWER_LIMIT}": 5.0})
    assert len(best_answer(context, [window], [(starts, ends)]).split()) == ANSWER_LIMIT


def without_marks(text: str) -> str:
    return "".join(c for c in text if not unicodedata.category(c).startswith("M"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_answers_are_found_again_with_every_kind_of_tokenizer(
    tokenizer_folders: dict[str, Path], name: str
) -> None:
    """Each word of each line is the answer once; offsets lead from text to tokens and back."""
    tokenizer = open_tokenizer(tokenizer_folders[name])
    unknown = tokenizer.token_id("unk")
    words = 0
    for context in our_text()[:99:7]:
        (window,) = windows(tokenizer, Example(("Which word?", context)), 480)
        start = 0
        for word in context.split(" "):
            answer = AnswerSpan(text=word, start=start)
            start += len(word) + 1
            first, last = answer_tokens(window, answer)
            tokens = window.encoded.input_ids[first : last + 1]
            # Long words of scripts without blanks are beyond the limit of an answer.
            if unknown in tokens or len(tokens) > ANSWER_LIMIT:
                continue
            logits = np.full((2, len(window.spans)), -9.0)
            logits[0, first] = logits[1, last] = 9.0
            text = best_answer(context, [window], [(logits[0], logits[1])])
            # ALBERT drops marks, of which some are at the end of a word.
            assert without_marks(text) == without_marks(word)
            words += 1
    assert words > 100

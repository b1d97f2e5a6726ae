"""Which tokens stay: required ones, frequent ones, and how many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import InputError
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.trimming.selection import (
    Selection,
    VocabularyRequest,
    count_tokens,
    dropped_by_script,
    select_tokens,
    warn_of_other_scripts,
)
from tests.trimming.conftest import english_text


def select(folder: Path, **request: float) -> Selection:
    tokenizer = read_tokenizer(folder)
    counts_V = count_tokens(tokenizer, english_text())
    return select_tokens(tokenizer, counts_V, VocabularyRequest(**request))


@pytest.mark.parametrize("layout", ["WordPiece", "BPE", "Unigram"])
def test_the_most_frequent_tokens_stay(layout: str, english: dict[str, Path]) -> None:
    tokenizer = read_tokenizer(english[layout])
    counts_V = count_tokens(tokenizer, english_text())
    selection = select_tokens(tokenizer, counts_V, VocabularyRequest(size=700))
    # Joined tokens need their parts, so the last few places may stay empty.
    assert 695 <= len(selection.rows) <= 700
    stayed = [int(counts_V[number]) for number in selection.rows]
    gone = set(selection.vocabulary.ids.values()) - set(selection.rows)
    frequent = sorted(int(counts_V[number]) for number in gone)
    # Of the tokens that stay, some are bytes and parts of others.
    assert frequent[-1] <= sorted(stayed, reverse=True)[150]
    assert selection.coverage == sum(stayed) / counts_V.sum()


def test_coverage_takes_as_few_tokens_as_it_needs(english: dict[str, Path]) -> None:
    some, more = (select(english["WordPiece"], coverage=c) for c in (0.9, 0.97))
    assert 0.9 <= some.coverage < more.coverage
    assert more.coverage >= 0.97
    assert some.required < len(some.rows) < len(more.rows)


def test_a_size_below_what_has_to_stay_names_the_least(english: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="a vocabulary of 50 tokens is too small") as caught:
        select(english["WordPiece"], size=50)
    least = int(str(caught.value.hint).split()[-1])
    assert len(select(english["WordPiece"], size=least).rows) == least
    with pytest.raises(InputError, match="too small"):
        select(english["WordPiece"], size=least - 1)


def test_a_size_that_removes_nothing_is_refused(english: dict[str, Path]) -> None:
    size = read_tokenizer(english["WordPiece"]).size
    message = f"is not smaller than the present one, which has {size:,}"
    with pytest.raises(InputError, match=message):
        select(english["WordPiece"], size=size)
    assert len(select(english["WordPiece"], size=size - 1).rows) == size - 1


def test_a_coverage_that_removes_nothing_is_refused(english: dict[str, Path]) -> None:
    tokenizer = read_tokenizer(english["WordPiece"])
    counts_V = np.ones(tokenizer.size, np.int64)
    message = f"all {tokenizer.size:,} tokens are needed for a coverage of 1"
    with pytest.raises(InputError, match=message):
        select_tokens(tokenizer, counts_V, VocabularyRequest(coverage=1.0))


def test_dropped_tokens_are_counted_by_script(english: dict[str, Path]) -> None:
    selection = select(english["BPE"], size=600)
    dropped = dropped_by_script(selection)
    gone = len(selection.vocabulary.ids) - len(selection.rows)
    assert sum(dropped.values()) == gone > 100
    assert dropped["LATIN"] > gone / 2


def test_a_text_in_another_script_is_warned_of(
    english: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = select(english["WordPiece"], size=600).vocabulary
    assert warn_of_other_scripts(vocabulary, ["plain English text"]) == {}
    assert capsys.readouterr().err == ""
    shares = warn_of_other_scripts(vocabulary, ["latin", "ქართ"])
    assert shares == {"GEORGIAN": pytest.approx(4 / 9)}
    assert "44% of the text's letters are in a script" in capsys.readouterr().err

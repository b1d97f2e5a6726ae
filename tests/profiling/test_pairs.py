"""Sentence pairs as long as STS-B's, in any script."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistil.core.errors import CorpusError
from edgedistil.core.text import read_lines
from edgedistil.profiling.pairs import sentence_pairs
from edgedistil.profiling.workload import SAMPLE_TEXT

CHINESE = "今天天气很好我们去公园散步。孩子们在湖边喂鸭子然后回家吃饭！你喜欢这个城市吗？"
JAPANESE = "今日はとても良い天気です。公園まで歩いて行きましょう。子供たちは湖で遊びます。"
THAI = "วันนี้อากาศดีมาก เราไปเดินเล่นที่สวนสาธารณะ เด็กๆให้อาหารเป็ดริมทะเลสาบ"


def letters(text: str) -> list[str]:
    return list(text)


def test_pair_lengths_follow_the_distribution() -> None:
    pairs = sentence_pairs(
        read_lines(SAMPLE_TEXT), 1500, seed=56, source="test", split_tokens=str.split
    )
    words = np.array([len(sentence.split()) for pair in pairs for sentence in pair])
    assert len(words) == 3000
    assert np.quantile(words, [0.05, 0.5, 0.95]).tolist() == pytest.approx([5, 10, 25], abs=1)
    assert words.max() <= 55 and words.min() >= 3


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_text_without_blanks_is_cut_by_tokens(text: str) -> None:
    pairs = sentence_pairs([text], 100, seed=56, source="test", split_tokens=letters)
    lengths = np.array([len(part) for pair in pairs for part in pair])
    assert lengths.min() >= 2 and lengths.max() <= 55
    assert np.median(lengths) == pytest.approx(10, abs=1)
    assert {character for pair in pairs for part in pair for character in part} <= set(text)


def test_sentences_without_blanks_end_at_their_own_marks() -> None:
    pairs = sentence_pairs(
        ["一二三。四五六！七八九？"], 1, seed=0, source="test", split_tokens=letters
    )
    assert all(part[0] in "一四七" for part in pairs[0])


def test_a_vocabulary_without_the_script_gives_characters() -> None:
    pairs = sentence_pairs([THAI], 10, seed=56, source="test", split_tokens=lambda text: [text])
    assert all(2 <= len(part) <= 55 for pair in pairs for part in pair)


def test_other_text_without_blanks_is_cut_by_tokens() -> None:
    pairs = sentence_pairs(["ACGTTGCAACGT" * 9], 10, seed=56, source="dna", split_tokens=letters)
    assert all(set(part) <= set("ACGT") and 3 <= len(part) <= 55 for p in pairs for part in p)


def test_a_text_without_sentences_is_an_error() -> None:
    with pytest.raises(CorpusError, match="the file has no sentence of 3 words or tokens"):
        sentence_pairs(["two words"], 1, seed=56, source="the file", split_tokens=str.split)

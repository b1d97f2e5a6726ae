"""Sentence pairs as long as those of STS-B, cut from any text.

Lengths are in words where a language has blanks between them, and in tokens where it has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from edgedistil.core.errors import CorpusError

# Splits a text into a part per token; joined they are the text.
SplitTokens = Callable[[str], list[str]]

# Fewer units than this are a heading, not a sentence; also the shortest of the distribution below.
_MIN_SENTENCE_WORDS = 3
# Words of one sentence at these quantiles. STS-B's own text is in no package registry; the figures
# follow what is published about it (most sentences are captions and headlines of 7 to 13 words,
# with a tail of news and forum sentences up to about 55).
_STSB_QUANTILES = (0.0, 0.05, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
_STSB_WORDS = (3, 5, 7, 10, 13, 20, 25, 34, 55)
# White space after the end of a sentence; Chinese and Japanese have none there.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
# Scripts without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def sentence_pairs(
    texts: Sequence[str], count: int, *, seed: int, source: str, split_tokens: SplitTokens
) -> list[tuple[str, str]]:
    """Returns pairs of neighbouring sentences, cut to the lengths of STS-B's sentences.

    The lengths are drawn first (stratified over the distribution, then shuffled). Each length takes
    its words from the next sentence, and continues into the following one if that is too short.
    Whether the sentences of a pair are related does not change the time of a call.

    Args:
        texts: Lines of text.
        count: Number of pairs.
        seed: Of the lengths and of the first sentence.
        source: Where the text comes from, for the message.
        split_tokens: Used for sentences without blanks between their words.
    Raises:
        CorpusError: No sentence has three words or tokens.
    """
    sentences = _split_sentences(texts, split_tokens)
    if not sentences:
        raise CorpusError(
            f"{source} has no sentence of {_MIN_SENTENCE_WORDS} words or tokens",
            hint="pass more text with --text FILE",
        )

    # Draw the lengths: one in each of as many equal parts of the distribution, in random order.
    random = np.random.default_rng(seed)
    strata = (np.arange(2 * count) + random.random(2 * count)) / (2 * count)
    word_counts = np.rint(np.interp(strata, _STSB_QUANTILES, _STSB_WORDS)).astype(int)
    random.shuffle(word_counts)

    # Cut the sentences to these lengths; consecutive ones form a pair.
    start = int(random.integers(len(sentences)))
    cut = []
    for index, words_needed in enumerate(word_counts):
        cut.append("".join(_words_from(sentences, start + index, int(words_needed))).strip())
    return list(zip(cut[0::2], cut[1::2], strict=True))


def _split_sentences(texts: Sequence[str], split_tokens: SplitTokens) -> list[list[str]]:
    """Returns the units of every sentence: words with a blank after them, or tokens."""
    sentences = []
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            units = _split_units(sentence, split_tokens)
            if len(units) >= _MIN_SENTENCE_WORDS:
                sentences.append(units)
    if sentences:
        return sentences
    # Other text without blanks, such as sequences of DNA.
    all_tokens = [split_tokens(text) for text in texts]
    return [units for units in all_tokens if len(units) >= _MIN_SENTENCE_WORDS]


def _split_units(sentence: str, split_tokens: SplitTokens) -> list[str]:
    unspaced = len(_UNSPACED.findall(sentence))
    letters = sum(character.isalnum() for character in sentence)
    if 2 * unspaced <= letters:
        return [f"{word} " for word in sentence.split()]
    tokens = split_tokens(sentence)
    # A vocabulary that does not know the script has one token for a complete line.
    return tokens if len(tokens) >= _MIN_SENTENCE_WORDS else list(sentence)


def _words_from(sentences: Sequence[Sequence[str]], index: int, count: int) -> list[str]:
    """Returns `count` words from sentence `index`, continued in the next ones."""
    words: list[str] = []
    while len(words) < count:
        words += sentences[index % len(sentences)]
        index += 1
    return words[:count]

"""Inputs of the profiled models: text at fixed lengths, and sentence pairs as long as STS-B's.

Everything is tokenized on this host; a board receives token ids. The same seed and text give the
same ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.errors import CorpusError, InputError, ModelError
from edgedistil.core.options import ProfileOptions

DEFAULT_LENGTHS = (16, 32, 64, 128, 256)
# English sentences, written for this project: the text of a model without a run and without --text.
# They decide the token ids, so a change makes new figures incomparable with earlier ones.
SAMPLE_TEXT = Path(__file__).with_name("sample_text.txt")
# Several texts per length, so that no figure depends on a single text.
TEXTS_PER_LENGTH = 4
# Name of the case that passes once over the sentence pairs.
PAIRS = "sentence-pairs"
# Two special tokens and one of text.
_MIN_LENGTH = 3
# Fixed, so that every profile of a text has the same inputs.
_SEED = 56
# The shortest sentence of the distribution below.
_MIN_SENTENCE_WORDS = 3

# Words of one sentence at these quantiles. STS-B's own text is in no package registry; the figures
# follow what is published about it (most sentences are captions and headlines of 7 to 13 words,
# with a tail of news and forum sentences up to about 55).
_STSB_QUANTILES = (0.0, 0.05, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
_STSB_WORDS = (3, 5, 7, 10, 13, 20, 25, 34, 55)
# White space after the end of a sentence.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Workload:
    """Inputs of the timed calls, batch 1.

    Attributes:
        inputs: Key → input name → array of shape (1, L).
        lengths: Sequence length → keys of its inputs.
        pairs: Keys of the sentence pairs.
        source: Where the text comes from, for reports.
        claim_pairs: The pairs on which two models alternate for a speed claim.
    """

    inputs: dict[str, dict[str, Any]]
    lengths: dict[int, list[str]]
    pairs: list[str]
    source: str
    claim_pairs: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes the inputs as npz, with the rows of each input concatenated.

        Packed, so that the number of pairs hardly costs a process anything: an npz with an array
        per key and input has thousands of members. `runner.read_feeds` reads it.
        """
        all_feeds = list(self.inputs.values())
        packed: dict[str, Any] = {}
        for name in all_feeds[0] if all_feeds else ():
            packed[f"packed:{name}"] = np.concatenate([feeds[name][0] for feeds in all_feeds])
        packed["packed:keys"] = np.array(list(self.inputs))
        packed["packed:lengths"] = np.array([feeds["input_ids"].shape[1] for feeds in all_feeds])
        np.savez(path, **packed)

    def pair_lengths(self) -> list[int]:
        """Returns the number of tokens of each sentence pair."""
        return [int(self.inputs[key]["input_ids"].shape[1]) for key in self.pairs]


def build_workload(
    tokenizer: Path,
    lines: Sequence[str],
    *,
    source: str,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    pairs: int = ProfileOptions.sentence_pairs,
    claim_pairs: int = ProfileOptions.claim_pairs,
    seed: int = _SEED,
) -> Workload:
    """Tokenizes `lines` into inputs of exact lengths and into sentence pairs, without padding.

    Args:
        tokenizer: tokenizer.json; its own truncation and padding are switched off.
        lines: Text, one sequence per line.
        source: Where the text comes from, for messages and reports.
        lengths: Sequence lengths in tokens, special tokens included.
        pairs: Number of sentence pairs.
        claim_pairs: The first of them, on which two models alternate for a speed claim.
        seed: Of the sentence pairs.
    Raises:
        CorpusError: The text is empty, or too short for the shortest sentence pair.
        ModelError: The tokenizer cannot be read, or adds an unexpected number of special tokens.
    """
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise CorpusError(f"{source} has no text: expected one sequence per line")
    encoder = _TextEncoder.load(tokenizer)
    inputs: dict[str, dict[str, Any]] = {}

    # Texts of exact lengths: consecutive pieces of one stream of tokens.
    stream = encoder.stream(texts, needed=TEXTS_PER_LENGTH * sum(lengths) + 1)
    keys_by_length: dict[int, list[str]] = {}
    for length in lengths:
        for number in range(TEXTS_PER_LENGTH):
            key = f"length{length}.{number}"
            ids = [next(stream) for _ in range(length - encoder.special_tokens)]
            inputs[key] = encoder.single(ids)
            keys_by_length.setdefault(length, []).append(key)

    # Sentence pairs.
    pair_keys = []
    for number, (first, second) in enumerate(
        sentence_pairs(texts, pairs, seed=seed, source=source)
    ):
        pair_keys.append(f"pair.{number}")
        inputs[pair_keys[-1]] = encoder.pair(first, second)
    return Workload(inputs, keys_by_length, pair_keys, source, pair_keys[:claim_pairs])


def select_lengths(lengths: Sequence[int] | None, max_length: int | None) -> list[int]:
    """Returns the lengths to profile, sorted; without `lengths` the defaults that the model has.

    Args:
        lengths: Requested lengths in tokens.
        max_length: Positions of the model; None if unknown.
    Raises:
        InputError: A requested length is too short, or longer than the model's positions.
    """
    if lengths is None:
        return [length for length in DEFAULT_LENGTHS if max_length is None or length <= max_length]
    for length in lengths:
        if length < _MIN_LENGTH:
            raise InputError(
                f"--length {length}: expected {_MIN_LENGTH} or more (two are special tokens)"
            )
        if max_length is not None and length > max_length:
            raise InputError(f"--length {length}: the model has positions for {max_length} tokens")
    return sorted(set(lengths))


# --- sentence pairs ------------------------------------------------------------------------------


def sentence_pairs(
    texts: Sequence[str], count: int, *, seed: int, source: str
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
    Raises:
        CorpusError: No sentence has three words.
    """
    # Words of every sentence.
    sentences: list[list[str]] = []
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            words = sentence.split()
            if len(words) >= _MIN_SENTENCE_WORDS:
                sentences.append(words)
    if not sentences:
        raise CorpusError(
            f"{source} has no sentence of {_MIN_SENTENCE_WORDS} words or more",
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
        cut.append(" ".join(_words_from(sentences, start + index, int(words_needed))))
    return list(zip(cut[0::2], cut[1::2], strict=True))


def _words_from(sentences: Sequence[Sequence[str]], index: int, count: int) -> list[str]:
    """Returns `count` words from sentence `index`, continued in the next ones."""
    words: list[str] = []
    while len(words) < count:
        words += sentences[index % len(sentences)]
        index += 1
    return words[:count]


# --- token ids -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TextEncoder:
    """A tokenizer, and the special tokens that it puts before and after a text."""

    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def load(cls, path: Path) -> _TextEncoder:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for every defect of the file
            raise ModelError(f"cannot read the tokenizer {path}: {error}") from error
        # Lengths are exact here, whatever the file was saved with.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # An empty text shows the special tokens: [CLS] and [SEP].
        special = list(tokenizer.encode("").ids)
        if len(special) not in (0, 2):
            raise ModelError(
                f"{path} adds {len(special)} special tokens to a text: expected none or two"
            )
        return cls(tokenizer, tuple(special[:1]), tuple(special[1:]))

    @property
    def special_tokens(self) -> int:
        return len(self.before) + len(self.after)

    def stream(self, texts: Sequence[str], *, needed: int) -> Iterator[int]:
        """Yields token ids of the texts without special tokens, repeated without end.

        Args:
            texts: Encoded until `needed` ids are there; the rest is not read.
            needed: Number of ids that the caller takes.
        """
        ids: list[int] = []
        for text in texts:
            ids += self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) >= needed:
                break
        if not ids:
            raise CorpusError(
                "the tokenizer returns no tokens for this text",
                hint="check that the tokenizer and the text are of the same language",
            )
        while True:
            yield from ids

    def single(self, ids: Sequence[int]) -> dict[str, Any]:
        """Returns the inputs of one text."""
        return _feeds([*self.before, *ids, *self.after], None)

    def pair(self, first: str, second: str) -> dict[str, Any]:
        """Returns the inputs of two texts, with token types."""
        encoding = self.tokenizer.encode(first, second)
        return _feeds(encoding.ids, encoding.type_ids)


def _feeds(ids: Sequence[int], type_ids: Sequence[int] | None) -> dict[str, Any]:
    """Returns every input that a BERT-like encoder may have.

    The runner passes those that the graph has.
    """
    input_ids_BL = np.array([ids], dtype=np.int64)
    token_type_ids_BL = np.zeros_like(input_ids_BL)
    if type_ids is not None:
        token_type_ids_BL = np.array([type_ids], dtype=np.int64)
    return {
        "input_ids": input_ids_BL,
        "attention_mask": np.ones_like(input_ids_BL),
        "token_type_ids": token_type_ids_BL,
    }

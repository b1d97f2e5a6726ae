"""What the models are asked: real text at fixed lengths, and one pass over sentence pairs as long as STS-B's.

Everything is tokenized here, on the host; a board gets token ids. The same seed and text give the same ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.errors import CorpusError, InputError, ModelError

DEFAULT_LENGTHS = (16, 32, 64, 128, 256)
DEFAULT_PAIRS = 1500  # as many as STS-B's dev set has: one pass is the paper's table 3
CLAIM_PAIRS = 60
TEXTS_PER_LENGTH = 4
PAIRS = "sentence-pairs"

# Words of one sentence at these quantiles. STS-B's own text is in no package registry; the figures follow what is
# published about it (most sentences are captions and headlines of 7 to 13 words, with a tail of news and forum
# sentences up to about 55).
_STSB_QUANTILES = (0.0, 0.05, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
_STSB_WORDS = (3, 5, 7, 10, 13, 20, 25, 34, 55)


@dataclass(frozen=True)
class Workload:
    """Inputs by key (batch 1), which keys make up which length, and where the text is from."""

    inputs: dict[str, dict[str, Any]]
    lengths: dict[int, list[str]]
    pairs: list[str]
    source: str
    claim_pairs: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes the inputs as npz, packed: the rows of an input lie end to end, with their keys and lengths."""
        names = next(iter(self.inputs.values()), {})
        packed: dict[str, Any] = {
            f"packed:{name}": np.concatenate([each[name][0] for each in self.inputs.values()])
            for name in names
        }
        lengths = np.array([each["input_ids"].shape[1] for each in self.inputs.values()])
        packed |= {"packed:keys": np.array(list(self.inputs)), "packed:lengths": lengths}
        np.savez(path, **packed)

    def pair_lengths(self) -> list[int]:
        return [int(self.inputs[key]["input_ids"].shape[1]) for key in self.pairs]


def build(
    tokenizer: Path,
    lines: Sequence[str],
    *,
    source: str,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    pairs: int = DEFAULT_PAIRS,
    claim_pairs: int = CLAIM_PAIRS,
    seed: int = 56,
) -> Workload:
    """Token ids of `lines` at each of `lengths`, and of `pairs` sentence pairs; batch 1, no padding.

    Args:
        tokenizer: tokenizer.json; its own truncation and padding are switched off.
        lines: Text, one sequence a line.
        source: Where the text is from, in words.
        pairs: Of the pass.
        claim_pairs: The first of them, over which two models take turns for a speed claim.
    Raises:
        CorpusError: No text, or too little for the shortest sentence pair.
        ModelError: The tokenizer cannot be read, or frames a text in an unknown way.
    """
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise CorpusError(f"{source} has no text: expected a sequence a line")
    codec = _Codec.load(tokenizer)
    stream = codec.stream(texts, needed=TEXTS_PER_LENGTH * sum(lengths) + 1)
    inputs: dict[str, dict[str, Any]] = {}
    by_length: dict[int, list[str]] = {}
    for length in lengths:
        for number in range(TEXTS_PER_LENGTH):
            key = f"length{length}.{number}"
            inputs[key] = codec.framed(next(stream) for _ in range(length - codec.frame))
            by_length.setdefault(length, []).append(key)
    keys = []
    for number, (first, second) in enumerate(
        sentence_pairs(texts, pairs, seed=seed, source=source)
    ):
        keys.append(f"pair.{number}")
        inputs[keys[-1]] = codec.pair(first, second)
    return Workload(inputs, by_length, keys, source, keys[:claim_pairs])


def sentence_pairs(
    texts: Sequence[str], count: int, *, seed: int, source: str
) -> list[tuple[str, str]]:
    """`count` pairs of neighbouring sentences, cut to as many words as STS-B's sentences have.

    The lengths are drawn first (stratified over the distribution, shuffled by `seed`); then every wanted length takes
    its words from the next sentence and, if that is shorter, runs on. Whether a pair means the same does not matter to
    a clock.
    """
    sentences = [
        words
        for text in texts
        for sentence in _SENTENCE.split(text)
        if len(words := sentence.split()) >= 3
    ]
    if not sentences:
        raise CorpusError(
            f"{source} has no sentence of three words or more",
            hint="give more text with --text FILE",
        )
    random = np.random.default_rng(seed)
    strata = (np.arange(2 * count) + random.random(2 * count)) / (2 * count)
    wanted = np.rint(np.interp(strata, _STSB_QUANTILES, _STSB_WORDS)).astype(int)
    random.shuffle(wanted)
    start = int(random.integers(len(sentences)))
    cut = [
        " ".join(_words_from(sentences, start + index, int(words)))
        for index, words in enumerate(wanted)
    ]
    return list(zip(cut[0::2], cut[1::2], strict=True))


_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def _words_from(sentences: list[list[str]], index: int, words: int) -> list[str]:
    """The first `words` words of sentence `index`, running on into its neighbours when it is shorter."""
    found: list[str] = []
    while len(found) < words:
        found += sentences[index % len(sentences)]
        index += 1
    return found[:words]


@dataclass(frozen=True)
class _Codec:
    """A tokenizer and the special tokens that it puts around a text."""

    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def load(cls, path: Path) -> _Codec:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for every defect of the file
            raise ModelError(f"cannot read the tokenizer {path}: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        frame = list(tokenizer.encode("").ids)
        if len(frame) not in (0, 2):
            raise ModelError(
                f"{path} frames a text with {len(frame)} special tokens; expected none or two"
            )
        return cls(tokenizer, tuple(frame[:1]), tuple(frame[1:]))

    @property
    def frame(self) -> int:
        return len(self.before) + len(self.after)

    def stream(self, texts: Sequence[str], *, needed: int) -> Iterator[int]:
        """Token ids of the texts, without special tokens, over and over until `needed` and beyond."""
        ids: list[int] = []
        for text in texts:
            ids += self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) >= needed:
                break
        if not ids:
            raise CorpusError(
                "the tokenizer makes no token of this text",
                hint="is it the tokenizer of this language?",
            )
        while True:
            yield from ids

    def framed(self, ids: Iterator[int]) -> dict[str, Any]:
        return _feed([*self.before, *ids, *self.after], None)

    def pair(self, first: str, second: str) -> dict[str, Any]:
        encoded = self.tokenizer.encode(first, second)
        return _feed(encoded.ids, encoded.type_ids)


def _feed(ids: Sequence[int], types: Sequence[int] | None) -> dict[str, Any]:
    """All inputs that a BERT-like encoder may take; the runner gives a model those that it has."""
    row = np.array([ids], dtype=np.int64)
    kinds = np.zeros_like(row) if types is None else np.array([types], dtype=np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": kinds}


def read_lines(path: Path) -> list[str]:
    """The lines of the user's text file.

    Raises:
        CorpusError: Missing, not UTF-8, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    if not any(line.strip() for line in lines):
        raise CorpusError(f"{path} is empty: expected text, one sequence a line")
    return lines


def checked_lengths(lengths: Sequence[int] | None, max_length: int | None) -> list[int]:
    """Sorted lengths that the model has positions for.

    Raises:
        InputError: One that was asked for is too short or too long.
    """
    if lengths is None:
        return [each for each in DEFAULT_LENGTHS if max_length is None or each <= max_length]
    for each in lengths:
        if each < 3:
            raise InputError(
                f"--length {each}: expected 3 or more (two of them are special tokens)"
            )
        if max_length is not None and each > max_length:
            raise InputError(f"--length {each}: the model has positions for {max_length} tokens")
    return sorted(set(lengths))


def describe_lengths(lengths: Sequence[int]) -> str:
    """ "16, 32 … 256 tokens" for a sentence."""
    ordered = sorted(lengths)
    steps = {b - a for a, b in pairwise(ordered)}
    if len(ordered) > 3 or len(steps) == 1:
        return f"{ordered[0]} to {ordered[-1]} tokens"
    return ", ".join(str(each) for each in ordered) + " tokens"

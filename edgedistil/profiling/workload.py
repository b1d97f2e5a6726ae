"""Inputs of the profiled models: text at fixed lengths, and sentence pairs as long as STS-B's.

Everything is tokenized on this host; a board receives token ids. The same seed and text give the
same ids. Models with different vocabularies get the same texts, each in its own tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.errors import CorpusError, InputError
from edgedistil.core.options import ProfileOptions
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.encoder import InputShape, TextEncoder
from edgedistil.profiling.pairs import sentence_pairs
from edgedistil.runtime.protocol import JobModel

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
# Longest sequence of a model whose positions are unknown: attention takes memory by the square.
_MAX_UNKNOWN_LENGTH = 8192
# Characters of a line that are tokenized. They are more tokens than the lengths above need, and a
# tokenizer takes many times its text in memory: it aborts this process at a line of 100 MB.
_MAX_LINE = 100_000
# Tokens of a pass over all pairs, with a fixed length and batch: 50 MB of inputs. Pairs of free
# length take 60 tokens on average, and 1,500 of them are far below.
_MAX_PASS_TOKENS, _PAIR_TOKENS = 2**21, 64
# Fixed, so that every profile of a text has the same inputs.
_SEED = 56


# Key → input name → array of shape (1, L).
Feeds = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Workload:
    """Inputs of the timed calls of models with one tokenizer, batch 1.

    Attributes:
        inputs: Key → input name → array of shape (1, L).
        lengths: Sequence length → keys of its inputs.
        pairs: Keys of the sentence pairs.
        source: Where the text comes from, for reports.
        claim_pairs: The pairs on which two models alternate for a speed claim.
    """

    inputs: Feeds
    lengths: dict[int, list[str]]
    pairs: list[str]
    source: str
    claim_pairs: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes the inputs as npz, with the rows of each input concatenated."""
        _save_packed(path, self.inputs)

    @property
    def longest(self) -> int:
        """Tokens of the longest input."""
        return max(int(feeds["input_ids"].shape[1]) for feeds in self.inputs.values())

    def pair_lengths(self) -> list[int]:
        """Returns the number of tokens of each sentence pair."""
        return [int(self.inputs[key]["input_ids"].shape[1]) for key in self.pairs]

    @property
    def tokens_per_pair(self) -> float | None:
        """Mean tokens of a sentence pair; None without pairs."""
        return float(np.mean(self.pair_lengths())) if self.pairs else None


@dataclass(frozen=True)
class Workloads:
    """The same texts in the tokens of each tokenizer, under the same keys.

    Attributes:
        by_tokenizer: Folder of a tokenizer → its inputs; one object where they are equal.
    """

    by_tokenizer: dict[Path, Workload]

    def of(self, artefact: Artefact) -> Workload:
        """Returns the inputs of an artefact."""
        return self.by_tokenizer[artefact.tokenizer]

    @property
    def first(self) -> Workload:
        """Inputs of the first tokenizer; all have its keys."""
        return next(iter(self.by_tokenizer.values()))

    @property
    def differ(self) -> bool:
        """Whether the tokens of two tokenizers differ."""
        return len(self._distinct()) > 1

    def job_models(self, artefacts: Collection[Artefact]) -> dict[str, JobModel]:
        """Returns the models of a job whose inputs are `joint(artefacts)`, by label."""
        models = {}
        for artefact in artefacts:
            prefix = self._prefix(self.of(artefact))
            models[artefact.label] = artefact.job_model().model_copy(update={"key_prefix": prefix})
        return models

    def joint(self, artefacts: Collection[Artefact]) -> JointInputs:
        """Returns the inputs of several artefacts in one file."""
        inputs: Feeds = {}
        for workload in {id(w): w for w in map(self.of, artefacts)}.values():
            prefix = self._prefix(workload)
            inputs |= {f"{prefix}{key}": feeds for key, feeds in workload.inputs.items()}
        return JointInputs(inputs)

    def _prefix(self, workload: Workload) -> str:
        """Prefix of a workload's keys in joint inputs; empty if there is only one."""
        distinct = list(self._distinct())
        return f"tokens{distinct.index(id(workload))}:" if len(distinct) > 1 else ""

    def _distinct(self) -> dict[int, Workload]:
        return {id(workload): workload for workload in self.by_tokenizer.values()}


@dataclass(frozen=True)
class JointInputs:
    """Inputs of models with different tokenizers, with a prefix before each key."""

    inputs: Feeds

    def save(self, path: Path) -> None:
        """Writes the inputs as npz, with the rows of each input concatenated."""
        _save_packed(path, self.inputs)


def _save_packed(path: Path, inputs: Feeds) -> None:
    """Writes inputs as one array for each input name; `runner.read_feeds` reads them.

    Packed, so that the number of pairs hardly costs a process anything: an npz with an array per
    key and input has thousands of members.
    """
    all_feeds = list(inputs.values())
    packed: dict[str, Any] = {}
    for name in all_feeds[0] if all_feeds else ():
        packed[f"packed:{name}"] = np.concatenate([feeds[name][0] for feeds in all_feeds])
    packed["packed:keys"] = np.array(list(inputs))
    packed["packed:lengths"] = np.array([feeds["input_ids"].shape[1] for feeds in all_feeds])
    np.savez(path, **packed)


def build_workloads(
    tokenizers: Collection[Path],
    lines: Sequence[str],
    *,
    source: str,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    shape: InputShape = InputShape(),  # noqa: B008 - frozen
    pairs: int = ProfileOptions.sentence_pairs,
    claim_pairs: int = ProfileOptions.claim_pairs,
    seed: int = _SEED,
) -> Workloads:
    """Tokenizes `lines` into inputs of exact lengths and into sentence pairs.

    Without padding, unless the models take a fixed length.

    Args:
        tokenizers: Folders of the tokenizers; their own truncation and padding are switched off.
        lines: Text, one sequence per line.
        source: Where the text comes from, for messages and reports.
        lengths: Sequence lengths in tokens, special tokens included.
        shape: Sequences that the models can take.
        pairs: Number of sentence pairs.
        claim_pairs: The first of them, on which two models alternate for a speed claim.
        seed: Of the sentence pairs.
    Raises:
        CorpusError: The text is empty, or too short for the shortest sentence pair.
        ModelError: A tokenizer cannot be read.
        InputError: A length leaves no room for a token of text.
    """
    texts = [line.strip()[:_MAX_LINE] for line in lines if line.strip()]
    if not texts:
        raise CorpusError(f"{source} has no text: expected one sequence per line")
    encoders = {folder: TextEncoder.load(folder, shape) for folder in dict.fromkeys(tokenizers)}
    # The texts of the pairs are the same for all: those that the first tokenizer splits.
    split = next(iter(encoders.values())).split_tokens
    count = min(pairs, _most_pairs(shape))
    sentences = sentence_pairs(texts, count, seed=seed, source=source, split_tokens=split)
    by_tokenizer: dict[Path, Workload] = {}
    for folder, encoder in encoders.items():
        inputs, keys_by_length = _inputs_of_lengths(encoder, texts, lengths)
        feeds = {f"pair.{number}": row for number, row in enumerate(encoder.pairs(sentences))}
        inputs |= feeds
        equal = [w for w in by_tokenizer.values() if _equal_inputs(w.inputs, inputs)]
        if equal:
            by_tokenizer[folder] = equal[0]
            continue
        _warn_of_unknown_tokens(encoder, inputs, source)
        keys = list(feeds)
        by_tokenizer[folder] = Workload(inputs, keys_by_length, keys, source, keys[:claim_pairs])
    return Workloads(by_tokenizer)


def build_workload(tokenizer: Path, lines: Sequence[str], **options: Any) -> Workload:
    """Returns the inputs of one tokenizer; the options are those of `build_workloads`."""
    return build_workloads([tokenizer], lines, **options).first


def _inputs_of_lengths(
    encoder: TextEncoder, texts: Sequence[str], lengths: Sequence[int]
) -> tuple[Feeds, dict[int, list[str]]]:
    """Returns texts of exact lengths, and their keys by length."""
    inputs: Feeds = {}
    keys_by_length: dict[int, list[str]] = {}
    # Consecutive pieces of one stream of tokens.
    stream = encoder.stream(texts, needed=TEXTS_PER_LENGTH * sum(lengths) + 1)
    for length in lengths:
        if length <= encoder.special_tokens:
            raise InputError(
                f"{length} tokens leave no room for text: the tokenizer in "
                f"{encoder.tokenizer.folder} adds {encoder.special_tokens} special tokens"
            )
        for number in range(TEXTS_PER_LENGTH):
            key = f"length{length}.{number}"
            ids = [next(stream) for _ in range(length - encoder.special_tokens)]
            inputs[key] = encoder.single(ids)
            keys_by_length.setdefault(length, []).append(key)
    return inputs, keys_by_length


def _equal_inputs(first: Feeds, second: Feeds) -> bool:
    if first.keys() != second.keys():
        return False
    return all(
        np.array_equal(array, second[key][name])
        for key, feeds in first.items()
        for name, array in feeds.items()
    )


def _warn_of_unknown_tokens(encoder: TextEncoder, inputs: Feeds, source: str) -> None:
    unknown_id = encoder.tokenizer.token_id("unk")
    ids = np.concatenate([feeds["input_ids"].ravel() for feeds in inputs.values()])
    if unknown_id is not None:
        warn_of_unknown_tokens(int((ids == unknown_id).sum()), ids.size, text=source)


def _most_pairs(shape: InputShape) -> int:
    """Returns the most pairs that are worth their memory."""
    tokens = shape.batch * (shape.fixed_length or _PAIR_TOKENS)
    return max(1, _MAX_PASS_TOKENS // tokens)


def select_lengths(lengths: Sequence[int] | None, shape: InputShape) -> list[int]:
    """Returns the lengths to profile, sorted; without `lengths` the defaults that the model has.

    Args:
        lengths: Requested lengths in tokens.
        shape: Sequences that the models can take.
    Raises:
        InputError: A requested length is too short, or not one that the models take.
    """
    if shape.fixed_length is not None:
        other = [length for length in lengths or () if length != shape.fixed_length]
        if other:
            raise InputError(
                f"--length {other[0]}: the graph has a fixed shape and takes "
                f"{shape.fixed_length} tokens",
                hint="leave out --length, or export the graph with a free sequence axis",
            )
        return [shape.fixed_length]
    most = shape.max_length
    if lengths is None:
        fitting = [length for length in DEFAULT_LENGTHS if most is None or length <= most]
        # A model that is shorter than all of them is profiled at the length that it has.
        return fitting or [most or DEFAULT_LENGTHS[0]]
    for length in lengths:
        if length < _MIN_LENGTH:
            raise InputError(
                f"--length {length}: expected {_MIN_LENGTH} or more (two are special tokens)"
            )
        if most is not None and length > most:
            raise InputError(f"--length {length}: the model has positions for {most} tokens")
        if most is None and length > _MAX_UNKNOWN_LENGTH:
            raise InputError(
                f"--length {length}: expected at most {_MAX_UNKNOWN_LENGTH} tokens for a model "
                f"whose number of positions is unknown",
                hint="copy its config.json next to the graph",
            )
    return sorted(set(lengths))

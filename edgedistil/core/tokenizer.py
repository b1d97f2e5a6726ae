"""Reads a model folder's tokenizer so that it gives transformers' token ids; without torch.

transformers 5 does not take a tokenizer.json as it is: BertTokenizer, for example, takes only the
vocabulary from it and builds the rest from tokenizer_config.json and its own defaults. The classes
in `tokenizer_classes` are built in the same way; a file of any other class is read as it is.
tests/core/test_tokenizer.py compares the ids with transformers' for each rule. Reasons:
docs/decisions.md#one-reader-of-tokenizers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.library_errors import library_errors
from edgedistil.core.rundir import sha256_file
from edgedistil.core.tokenizer_build import BuiltTokenizer, build_tokenizer
from edgedistil.core.tokenizer_files import (
    DAMAGED_HINT,
    RESAVE_HINT,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    Side,
    TokenizerFiles,
    declared_inputs,
    extra_tokens,
    max_length,
    read_files,
    text_side,
    token_text,
)
from edgedistil.core.tokenizer_match import DOUBTED, REFUSED, foreign_signs, total_weight
from edgedistil.core.tokenizer_roles import special_roles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A character that no normalizer removes and that hardly any vocabulary has.
_RARE_CHARACTER = "ꙮ"
_SAME_SOURCE = "take tokenizer and model from the same source"


@dataclass(frozen=True)
class TextPlace:
    """Place of a text between the special tokens."""

    number: int
    type_id: int


@dataclass(frozen=True)
class SpecialPlace:
    """A special token around the texts."""

    token_id: int
    type_id: int


Frame = tuple[TextPlace | SpecialPlace, ...]


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer that gives transformers' ids.

    Attributes:
        backend: Without truncation and padding.
        folder: Where it was read.
        class_name: Class of transformers that it was read as; None if tokenizer.json was taken as
            it is.
        special: Name such as `cls_token` → token; only those that the vocabulary has.
        roles: The same, with tokens that no file names but that the vocabulary has.
        max_length: Tokens that the folder declares as the longest text; None: no limit.
        positions: Tokens that the folder's model has positions for; None without a known model.
        truncation_side: Side on which long texts are cut: right or left.
        padding_side: Side on which short texts are padded: right or left.
        gives_token_types: Whether texts come with token types, which mark the second text.
        frames: Special tokens around one text, and around two.
        doubts: Facts for which it may be another model's tokenizer; empty where it fits.
    """

    backend: Tokenizer
    folder: Path
    class_name: str | None
    special: Mapping[str, str]
    roles: Mapping[str, str]
    max_length: int | None
    positions: int | None
    truncation_side: Side
    padding_side: Side
    gives_token_types: bool
    frames: tuple[Frame, Frame]
    doubts: tuple[str, ...] = ()

    def token_id(self, kind: str) -> int | None:
        """Returns the id of a special token (`mask`); None if the vocabulary has no such token."""
        token = self.roles.get(f"{kind}_token")
        return self.backend.token_to_id(token) if token is not None else None

    def require(self, kind: str) -> int:
        """Returns the id of a special token; raises ModelError if it is missing."""
        token_id = self.token_id(kind)
        if token_id is None:
            raise ModelError(
                f"the tokenizer in {self.folder} has no {kind}_token",
                hint=f"name it in {SETTINGS_FILE}, and add it to the vocabulary",
            )
        return token_id

    @property
    def pad_id(self) -> int:
        """Id at padded positions, which the attention mask hides; 0 without a padding token."""
        token_id = self.token_id("pad")
        return 0 if token_id is None else token_id

    @property
    def special_ids(self) -> list[int]:
        """Ids of all special tokens, ascending."""
        # A token may have two names, or none and a place around every text.
        named = {self.require(name.removesuffix("_token")) for name in self.roles}
        before, after = self.framing
        return sorted({*named, *before, *after})

    @property
    def size(self) -> int:
        """One more than the largest id; more than the number of tokens if ids are missing."""
        return vocabulary_size(self.backend)

    @property
    def sha256(self) -> str:
        """Digest of what decides the ids; the file's own if it is read as it was written."""
        from tokenizers import Tokenizer

        path = self.folder / TOKENIZER_FILE
        if path.is_file():
            written = Tokenizer.from_file(str(path))
            written.no_truncation()
            written.no_padding()
            # Corpora and teachers in the cache have the digest of the file in their keys.
            if written.to_str() == self.backend.to_str():
                return sha256_file(path)
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def with_backend(self, backend: Tokenizer) -> TextTokenizer:
        """Returns the same tokenizer with another vocabulary, which has its special tokens."""
        frames = _frame(backend, pair=False), _frame(backend, pair=True)
        return replace(self, backend=backend, frames=frames)

    def special_count(self, *, pair: bool) -> int:
        """Returns the number of special tokens around one text, or around two."""
        return int(self.backend.num_special_tokens_to_add(pair))

    @property
    def framing(self) -> tuple[list[int], list[int]]:
        """Ids of the special tokens in front of a single text, and behind it."""
        frame = self.frames[0]
        place = next(index for index, part in enumerate(frame) if isinstance(part, TextPlace))
        before = [part.token_id for part in frame[:place] if isinstance(part, SpecialPlace)]
        after = [part.token_id for part in frame[place + 1 :] if isinstance(part, SpecialPlace)]
        return before, after

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without special tokens and without truncation."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def frame(self, *texts: Sequence[int]) -> tuple[list[int], list[int]]:
        """Puts the special tokens around the ids of one text or two.

        Returns:
            Token ids and token types.
        """
        ids: list[int] = []
        type_ids: list[int] = []
        for part in self.frames[len(texts) - 1]:
            new = texts[part.number] if isinstance(part, TextPlace) else [part.token_id]
            ids += new
            type_ids += [part.type_id] * len(new)
        return ids, type_ids

    def encode_framed(
        self, texts: Sequence[str], max_length: int
    ) -> list[tuple[list[int], list[int]]]:
        """Returns token ids and token types of each text, cut to `max_length` tokens."""
        room = max(0, max_length - self.special_count(pair=False))
        framed = []
        for ids in self.encode_texts(texts):
            excess = max(0, len(ids) - room)
            cut = ids[excess:] if self.truncation_side == "left" else ids[: len(ids) - excess]
            framed.append(self.frame(cut))
        return framed


def vocabulary_size(backend: Tokenizer) -> int:
    """Returns one more than the largest id of a tokenizer."""
    largest = _largest_listed_id(backend)
    if largest is None:
        largest = max(backend.get_vocab(with_added_tokens=True).values())
    return 1 + largest


def _largest_listed_id(backend: Tokenizer) -> int | None:
    """Largest id of a Unigram tokenizer, whose ids are places in a list; None for other kinds.

    Copying the 250,000 tokens of XLM-R's vocabulary into a dictionary takes 0.26 s each time.
    """
    if type(backend.model).__name__ != "Unigram":
        return None
    pieces = backend.get_vocab_size(with_added_tokens=False)
    return max([pieces - 1, *backend.get_added_tokens_decoder()])


def read_tokenizer(folder: Path, *, abridged: bool = False) -> TextTokenizer:
    """Reads the tokenizer of a model folder.

    Args:
        folder: The folder.
        abridged: Whether the reader needs ids, special tokens and limits only, and encodes no text:
            faster for large vocabularies.
    Raises:
        ModelError: The folder has no tokenizer, one that cannot be read, one with ids that the
            model in the folder does not have, or another model's.
    """
    files = read_files(folder)
    with library_errors(f"cannot read the tokenizer in {folder}", hint=DAMAGED_HINT):
        built = build_tokenizer(files, abridged=abridged)
        backend = built.backend
        backend.no_truncation()
        # A file may have both baked in: MiniLM's cuts at 128 tokens and pads up to them.
        backend.no_padding()
        backend.encode_special_tokens = bool(files.settings.get("split_special_tokens", False))
    backend, special = _within_rows(files, built)
    _check_unknown_token(backend, folder)
    with library_errors(f"the tokenizer in {folder} cannot encode a text", hint=RESAVE_HINT):
        backend.encode(f"a {_RARE_CHARACTER} b", "c")
        frames = _frame(backend, pair=False), _frame(backend, pair=True)
    _check_frames(files, backend, frames)
    _check_token_types(files, frames)
    roles = special_roles(files, backend, special)
    _check_padding(files, backend.token_to_id(roles.get("pad_token", "")))
    doubts = _doubts(files, backend, roles)
    return TextTokenizer(
        backend=backend,
        folder=folder,
        class_name=built.class_name,
        special=special,
        roles=roles,
        max_length=max_length(files),
        positions=files.positions,
        truncation_side=text_side(files, "truncation_side"),
        padding_side=text_side(files, "padding_side"),
        gives_token_types=_gives_token_types(files, built, frames),
        frames=frames,
        doubts=doubts,
    )


# --- tokens and their ids ------------------------------------------------------------------------


def _within_rows(files: TokenizerFiles, built: BuiltTokenizer) -> tuple[Tokenizer, dict[str, str]]:
    """Drops special tokens that only a class's defaults name and for which the model has no row.

    Raises:
        ModelError: Another token has an id beyond the model's rows, or two tokens have one id.
    """
    backend, special = built.backend, built.special
    rows, largest = files.size_of_model("vocabulary"), _largest_listed_id(backend)
    # Places in a list are distinct.
    if largest is not None and 0 <= largest < (rows or largest + 1):
        return backend, special
    vocabulary = backend.get_vocab(with_added_tokens=True)
    _check_distinct(vocabulary, files.folder)
    if rows is None or max(vocabulary.values()) < rows:
        return backend, special
    beyond = {token for token, token_id in vocabulary.items() if token_id >= rows}
    # transformers adds [MASK] to a vocabulary without one; no text needs it but a masked one.
    named = {*special.values(), *built.extra}
    if not beyond <= named - _declared_tokens(files, backend):
        largest = max(vocabulary.values())
        raise ModelError(
            f"the tokenizer in {files.folder} has ids up to {largest:,} ({len(vocabulary):,} "
            f"tokens), and the model has a word-embedding matrix of {rows:,} rows",
            hint=f"{_SAME_SOURCE}, or resize the matrix with model.resize_token_embeddings",
        )
    return _without_tokens(backend, beyond), {
        name: token for name, token in special.items() if token not in beyond
    }


def _declared_tokens(files: TokenizerFiles, backend: Tokenizer) -> set[str]:
    """Tokens that a file of the folder assigns an id to."""
    declared = set(backend.get_vocab(with_added_tokens=False)) | set(files.added)
    declared |= {str(token.get("content")) for token in files.fast.get("added_tokens") or []}
    declared |= {token_text(token) for token in extra_tokens(files)}
    for token in (files.settings.get("added_tokens_decoder") or {}).values():
        declared.add(str(token.get("content")))
    return declared


def _without_tokens(backend: Tokenizer, tokens: set[str]) -> Tokenizer:
    from tokenizers import Tokenizer

    described = json.loads(backend.to_str())
    described["added_tokens"] = [
        token for token in described["added_tokens"] if token["content"] not in tokens
    ]
    smaller = Tokenizer.from_str(json.dumps(described))
    smaller.encode_special_tokens = backend.encode_special_tokens
    return smaller


def _check_distinct(vocabulary: Mapping[str, int], folder: Path) -> None:
    """Raises ModelError for an empty vocabulary, or one in which two tokens have one id."""
    if not vocabulary:
        raise ModelError(f"the tokenizer in {folder} has an empty vocabulary", hint=RESAVE_HINT)
    if len(set(vocabulary.values())) == len(vocabulary):
        return
    owners: dict[int, str] = {}
    for token, token_id in sorted(vocabulary.items()):
        other = owners.setdefault(token_id, token)
        if other != token:
            raise ModelError(
                f"the tokens '{other}' and '{token}' of the tokenizer in {folder} have one id, "
                f"{token_id}; expected an id for each token"
            )


def _check_unknown_token(backend: Tokenizer, folder: Path) -> None:
    """Raises ModelError if the model needs a token for unknown words that it does not have."""
    if type(backend.model).__name__ not in ("WordPiece", "WordLevel"):
        return
    unknown = backend.model.unk_token
    if backend.token_to_id(unknown) is None:
        raise ModelError(
            f"the tokenizer in {folder} has no token for unknown words: its vocabulary lacks "
            f"'{unknown}'",
            hint=RESAVE_HINT,
        )


def _gives_token_types(
    files: TokenizerFiles, built: BuiltTokenizer, frames: tuple[Frame, Frame]
) -> bool:
    """Whether the tokenizer returns token types, as it declares, or that differ from each other."""
    names = declared_inputs(files)
    if names is not None:
        return "token_type_ids" in names
    if built.token_types is not None:
        return built.token_types
    return _largest_type(frames) > 0


def _largest_type(frames: tuple[Frame, Frame]) -> int:
    return max(part.type_id for frame in frames for part in frame)


def _check_frames(files: TokenizerFiles, backend: Tokenizer, frames: tuple[Frame, Frame]) -> None:
    """Raises ModelError if a token around the texts has an id that the model has no row for."""
    rows = files.size_of_model("vocabulary") or vocabulary_size(backend)
    ids = [part.token_id for frame in frames for part in frame if isinstance(part, SpecialPlace)]
    if max(ids, default=0) >= rows:
        raise ModelError(
            f"the tokenizer in {files.folder} puts a token with id {max(ids):,} around texts, and "
            f"the model has a word-embedding matrix of {rows:,} rows",
            hint=RESAVE_HINT,
        )


def _check_token_types(files: TokenizerFiles, frames: tuple[Frame, Frame]) -> None:
    """Raises ModelError if texts get token types that the folder's model has no vectors for."""
    segments, largest = files.size_of_model("segments"), _largest_type(frames)
    # A model with a single segment is never given token types.
    if segments is not None and segments > 1 and largest >= segments:
        raise ModelError(
            f"the tokenizer in {files.folder} marks texts with token types up to {largest}, and "
            f"the model has vectors for {segments} (0 to {segments - 1})",
            hint=_SAME_SOURCE,
        )


def _check_padding(files: TokenizerFiles, pad_id: int | None) -> None:
    """Raises ModelError if texts are padded with another id than positions are counted from."""
    family = FAMILIES.get(str(files.config.get("model_type")))
    if family is None or not family.pad_counts_positions or pad_id is None:
        return
    # A value of another type is reported where the model is read.
    if files.positions is None:
        return
    expected = family.first_position(files.config) - 1
    # Tokens with the model's padding id have no position of their own.
    if pad_id != expected:
        raise ModelError(
            f"the tokenizer in {files.folder} pads with id {pad_id}, and the {family.model_type} "
            f"counts positions from its own padding id, {expected}",
            hint=_SAME_SOURCE,
        )


def _doubts(files: TokenizerFiles, backend: Tokenizer, roles: Mapping[str, str]) -> tuple[str, ...]:
    """Returns what speaks against the tokenizer; raises ModelError if it is another model's."""
    signs = foreign_signs(files, backend, roles, vocabulary_size(backend))
    weight, facts = total_weight(signs), tuple(sign.text for sign in signs)
    if weight >= REFUSED:
        raise ModelError(
            f"the tokenizer in {files.folder} does not belong to its model: {'; '.join(facts)}",
            hint=_SAME_SOURCE,
        )
    return facts if weight >= DOUBTED else ()


def _frame(backend: Tokenizer, *, pair: bool) -> Frame:
    """Special tokens and texts in the order in which the tokenizer puts them."""
    sample = _text_with_tokens(backend)
    encoding = backend.encode(sample, sample) if pair else backend.encode(sample)
    frame: list[TextPlace | SpecialPlace] = []
    columns = (encoding.ids, encoding.type_ids, encoding.sequence_ids)
    for token_id, type_id, text in zip(*columns, strict=True):
        part = SpecialPlace(token_id, type_id) if text is None else TextPlace(text, type_id)
        # All tokens of a text are one place.
        if isinstance(part, SpecialPlace) or part not in frame:
            frame.append(part)
    return tuple(frame)


def _text_with_tokens(backend: Tokenizer) -> str:
    """A short text that has tokens, whatever the language of the vocabulary.

    Raises:
        ValueError: No word of the vocabulary has tokens.
    """
    for sample in ("a", "the", "的", _RARE_CHARACTER):
        if backend.encode(sample, add_special_tokens=False).ids:
            return sample
    for word in sorted(backend.get_vocab(with_added_tokens=False)):
        if backend.encode(word, add_special_tokens=False).ids:
            return word
    raise ValueError("no text has tokens")

"""Vocabulary of a tokenizer, from tokenizer.json or from the files of older models."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgedistil.core.errors import ModelError
from edgedistil.core.sentencepiece_file import read_sentencepiece
from edgedistil.core.tokenizer_files import RESAVE_HINT, TokenizerFiles

# Name that transformers looks for when the file of a class is missing.
_ANY_SENTENCEPIECE = "tokenizer.model"
# Planes of Unicode without characters: one placeholder for each id of an abridged vocabulary.
_PLACEHOLDERS = range(0x40000, 0xE0000)
# Characters of the pieces that an abridged vocabulary still has: those that any text is made of.
_SHORT_PIECE = 2


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of one kind of model; the fields of other kinds are empty.

    Attributes:
        ids: WordPiece and BPE: token → id.
        merges: BPE: pairs of tokens that are joined, the first ones first.
        scores: Unigram: token and score, in the order of the ids.
        charsmap: Unigram: compiled table of the normalization.
        unknown_id: Unigram from a SentencePiece file: id of the token for unknown text.
        added: Tokens of a SentencePiece file that no text is split into → whether special.
    """

    ids: dict[str, int] = field(default_factory=dict)
    merges: list[tuple[str, str]] = field(default_factory=list)
    scores: list[tuple[str, float]] = field(default_factory=list)
    charsmap: bytes | None = None
    unknown_id: int | None = None
    added: Mapping[str, bool] = field(default_factory=dict)


def model_kind(described: Mapping[str, Any]) -> str:
    """Returns the kind of model that a tokenizer.json describes; old files do not name it."""
    model = described["model"]
    if "type" in model:
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"


def read_described(described: Mapping[str, Any]) -> Vocabulary:
    """Returns the vocabulary in a parsed tokenizer.json."""
    model = described["model"]
    if model_kind(described) == "Unigram":
        scores = [(piece, score) for piece, score in model["vocab"]]
        return Vocabulary(scores=scores, charsmap=_charsmap(described.get("normalizer")))
    # Older files have "a b" for a merge, newer ones a list.
    merges = [_merge(entry) for entry in model.get("merges") or []]
    return Vocabulary(ids=model["vocab"], merges=merges)


def abridge(vocabulary: Vocabulary, needed: Collection[str]) -> Vocabulary:
    """Replaces long Unigram pieces by placeholders; the ids and the short pieces stay.

    The library builds a tree of all pieces: 0.8 s for the 250,000 of XLM-R, 0.1 s for these.

    Args:
        vocabulary: Of any kind; other kinds are returned as they are.
        needed: Pieces that stay, such as special tokens.
    """
    if not 0 < len(vocabulary.scores) <= len(_PLACEHOLDERS):
        return vocabulary
    scores = [
        entry if len(entry[0]) <= _SHORT_PIECE or entry[0] in needed else (chr(place), entry[1])
        for place, entry in zip(_PLACEHOLDERS, vocabulary.scores, strict=False)
    ]
    return replace(vocabulary, scores=scores)


def _merge(entry: Any) -> tuple[str, str]:
    first, second = entry.split(" ") if isinstance(entry, str) else entry
    return first, second


def _charsmap(normalizer: Mapping[str, Any] | None) -> bytes | None:
    """SentencePiece's normalization table in a described normalizer; None if it has none."""
    if not normalizer:
        return None
    parts = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    for part in parts:
        if part.get("type") == "Precompiled" and "precompiled_charsmap" in part:
            return base64.b64decode(part["precompiled_charsmap"])
    return None


def read_class_files(
    files: TokenizerFiles, names: Sequence[str], special: Mapping[str, str], class_name: str
) -> Vocabulary:
    """Returns the vocabulary of a folder without tokenizer.json.

    Args:
        files: The tokenizer's files.
        names: Files that its class reads.
        special: Special tokens by name, some of which a class puts into the vocabulary.
        class_name: The class.
    Raises:
        ModelError: A file is missing, or cannot be read.
    """
    from tokenizers import models

    folder = files.folder
    if names[0].endswith(".model"):
        path = folder / names[0]
        if not path.is_file() and (folder / _ANY_SENTENCEPIECE).is_file():
            path = folder / _ANY_SENTENCEPIECE
        _require(files, [path.name], class_name)
        return _from_sentencepiece(files, path.name, special, class_name)
    _require(files, names, class_name)
    paths = [str(folder / name) for name in names]
    if len(paths) == 1:
        return Vocabulary(ids=models.WordPiece.read_file(paths[0]))
    ids, merges = models.BPE.read_file(*paths)
    return Vocabulary(ids=ids, merges=merges)


def _require(files: TokenizerFiles, names: Sequence[str], class_name: str) -> None:
    missing = [name for name in names if not (files.folder / name).is_file()]
    if missing:
        raise ModelError(
            f"the {class_name} in {files.folder} has neither tokenizer.json nor "
            f"{' and '.join(missing)}",
            hint=RESAVE_HINT,
        )


def _from_sentencepiece(
    files: TokenizerFiles, name: str, special: Mapping[str, str], class_name: str
) -> Vocabulary:
    model = read_sentencepiece(files.folder / name)
    scores = model.pieces
    # Both classes have the vocabulary of fairseq, whose special tokens are not in the file.
    if class_name == "XLMRobertaTokenizer":
        first = ("bos_token", "pad_token", "eos_token", "unk_token")
        scores = [(special[kind], 0.0) for kind in first] + scores[3:]
        scores = [*scores, (special["mask_token"], 0.0)]
    elif class_name == "CamembertTokenizer":
        first_pieces = [
            ("<s>NOTUSED", 0.0),
            (special["pad_token"], 0.0),
            ("</s>NOTUSED", 0.0),
            (special["unk_token"], 0.0),
            # A low score, so that no text is split into this piece.
            ("<unk>NOTUSED", -100.0),
        ]
        scores = [*first_pieces, *scores[1:], (special["mask_token"], 0.0)]
    return Vocabulary(
        scores=scores,
        charsmap=model.charsmap,
        unknown_id=model.unknown_id,
        added=model.added,
    )

"""Reads vocabulary and normalization of a SentencePiece model file.

The file is a protocol buffer of three messages, of which a few fields decide the ids. They are read
here, because the libraries that read all of them (sentencepiece, protobuf) are not needed otherwise
and transformers cannot be imported everywhere. Reasons:
docs/decisions.md#tokenizers-of-every-kind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core.errors import ModelError
from edgedistil.core.regular_file import read_regular

# The largest vocabularies (a million pieces of many languages) take 20 MB.
_LARGEST_BYTES = 256 * 2**20
# Numbers of fields and values in sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_KIND = 1, 2, 3
_MODEL_KIND, _UNKNOWN_ID = 3, 40
_CHARSMAP = 2
_UNIGRAM = 1
_MODEL_KINDS = {1: "Unigram", 2: "BPE", 3: "words", 4: "characters"}
_CONTROL, _USER_DEFINED = 3, 4
# Types of fields: an integer, 8 bytes, bytes with their length, 4 bytes.
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# Bits of an integer are stored in groups of seven; no field has more than 64 bits.
_MOST_GROUPS = 10

_Value = int | bytes


@dataclass(frozen=True)
class SentencePieceModel:
    """What a SentencePiece file says about its vocabulary.

    Attributes:
        pieces: Text and score of each piece, in the order of the ids.
        added: Text of each piece that no text is split into → whether it is a special token.
        unknown_id: Id of the piece for unknown text.
        charsmap: Compiled table of the normalization; None without one.
    """

    pieces: list[tuple[str, float]]
    added: dict[str, bool]
    unknown_id: int
    charsmap: bytes | None


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Reads a SentencePiece file with a Unigram model.

    Raises:
        ModelError: The file cannot be read, is not a SentencePiece model, or has a model of another
            kind.
    """
    try:
        data = read_regular(path, limit_bytes=_LARGEST_BYTES)
        model = _parse(data)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError(
            f"{path} is not a SentencePiece model, or is truncated",
            hint="copy or download it again",
        ) from error
    kind, parsed = model
    if kind != _UNIGRAM:
        raise ModelError(
            f"{path} has a SentencePiece model of {_MODEL_KINDS.get(kind, 'an unknown kind')}; "
            "supported: Unigram",
            hint="save the tokenizer with transformers: it then writes tokenizer.json",
        )
    return parsed


def _parse(data: bytes) -> tuple[int, SentencePieceModel]:
    """Returns the kind of the model, and the model."""
    pieces: list[tuple[str, float]] = []
    added: dict[str, bool] = {}
    kind, unknown_id, charsmap = _UNIGRAM, 0, None
    for number, value in _fields(data):
        if number == _PIECES:
            fields = dict(_fields(_as_bytes(value)))
            text = _as_bytes(fields.get(_PIECE_TEXT, b"")).decode("utf-8")
            score = _as_bytes(fields.get(_PIECE_SCORE, bytes(4)))
            pieces.append((text, struct.unpack("<f", score)[0]))
            if fields.get(_PIECE_KIND) in (_CONTROL, _USER_DEFINED):
                added[text] = fields[_PIECE_KIND] == _CONTROL
        elif number == _TRAINER:
            trainer = dict(_fields(_as_bytes(value)))
            kind = _as_int(trainer.get(_MODEL_KIND, _UNIGRAM))
            unknown_id = _as_int(trainer.get(_UNKNOWN_ID, 0))
        elif number == _NORMALIZER:
            charsmap = _as_bytes(dict(_fields(_as_bytes(value))).get(_CHARSMAP, b"")) or None
    if not pieces:
        raise ValueError("no pieces")
    return kind, SentencePieceModel(pieces, added, unknown_id, charsmap)


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """Yields number and value of each field of a message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _varint(data, position)
        elif kind in (_FOUR, _EIGHT):
            size = 4 if kind == _FOUR else 8
        else:
            raise ValueError(f"unknown type of field {kind}")
        if position + size > len(data):
            raise ValueError("truncated")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns an integer and the position behind it."""
    value = 0
    for group in range(_MOST_GROUPS):
        byte = data[position + group]
        value |= (byte & 0x7F) << (7 * group)
        if byte < 0x80:
            return value, position + group + 1
    raise ValueError("an integer of more than 64 bits")


def _as_bytes(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("an integer where bytes are expected")
    return value


def _as_int(value: _Value) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where an integer is expected")
    return value

"""SentencePiece files are read as sentencepiece reads them; damaged ones are refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sentencepiece

from edgedistil.core.errors import ModelError
from edgedistil.core.sentencepiece_file import read_sentencepiece
from tests.fixtures.tokenizer_folders import our_text


def test_pieces_are_those_of_the_library(sentencepiece_models: dict[str, Path]) -> None:
    for path in sentencepiece_models.values():
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        ours = read_sentencepiece(path)
        expected = [(theirs.id_to_piece(i), theirs.get_score(i)) for i in range(len(theirs))]
        assert ours.pieces == expected
        assert ours.unknown_id == theirs.unk_id()
        assert ours.charsmap is not None and len(ours.charsmap) > 100_000
        control = {theirs.id_to_piece(i) for i in range(len(theirs)) if theirs.is_control(i)}
        assert {piece for piece, special in ours.added.items() if special} == control
    assert read_sentencepiece(sentencepiece_models["deberta-v2"]).added["[MASK]"] is False


def test_a_model_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bpe.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(our_text()),
            model_writer=file,
            model_type="bpe",
            vocab_size=1200,
            minloglevel=2,
        )
    with pytest.raises(ModelError, match=r"SentencePiece model of BPE; supported: Unigram"):
        read_sentencepiece(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"{}", b"\x0a\xff\xff\xff\x7f", b"\xff" * 40])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not a SentencePiece model, or is truncated"):
        read_sentencepiece(path)


def test_damage_is_an_error_of_ours_or_another_vocabulary(
    sentencepiece_models: dict[str, Path], tmp_path: Path
) -> None:
    data = sentencepiece_models["albert"].read_bytes()
    rng = random.Random(7)
    path = tmp_path / "spiece.model"
    refused = 0
    for _ in range(200):
        changed = bytearray(data[: rng.randrange(1, len(data))])
        changed[rng.randrange(min(len(changed), 3000))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            read_sentencepiece(path)
        except ModelError:
            refused += 1
    assert refused > 100

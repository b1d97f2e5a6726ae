"""Small models of every family in folders, with tokenizers of their kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edgedistil.core.task import Task
from tests.export.families.conftest import CASES, copy_tokenizer, make_model
from tests.fixtures.tokenizer_folders import BERT_SPECIAL, field_text

ModelFolder = Callable[..., Path]


@pytest.fixture
def model_folder(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> ModelFolder:
    """Saves a random model of a family with a tokenizer of its kind."""

    def save(name: str, task: Task = "fill-mask", **changes: object) -> Path:
        folder = tmp_path / f"{name}-{task}"
        make_model(CASES[name], task, **changes).save_pretrained(folder)
        copy_tokenizer(tokenizer_folders[CASES[name].tokenizer], folder)
        return folder

    return save


def english_text() -> list[str]:
    return [line for line in field_text() if line.isascii()]


@pytest.fixture(scope="session")
def english(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of vocabulary → a folder with 1,500 tokens of English text."""
    common = {"vocab_size": 1500, "special_tokens": BERT_SPECIAL, "show_progress": False}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cases = {
        "WordPiece": (
            models.WordPiece(unk_token="[UNK]"),
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
            trainers.WordPieceTrainer(**common),
        ),
        "BPE": (
            models.BPE(),
            byte_level,
            decoders.ByteLevel(),
            trainers.BpeTrainer(**common, initial_alphabet=byte_level.alphabet()),
        ),
        "Unigram": (
            models.Unigram(),
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
            trainers.UnigramTrainer(**common, unk_token="[UNK]"),
        ),
    }
    folders = {}
    for name, (model, pre_tokenizer, decoder, trainer) in cases.items():
        backend = Tokenizer(model)
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoder
        backend.train_from_iterator(english_text(), trainer)
        folders[name] = tmp_path_factory.mktemp(name)
        backend.save(str(folders[name] / "tokenizer.json"))
    return folders

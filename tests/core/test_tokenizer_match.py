"""A tokenizer of another model is refused or doubted; an unusual one of its own model is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.inspection import inspect_model, show_inspection
from edgedistil.models.tokenizer import warn_if_read_otherwise
from tests.fixtures.tokenizer_folders import LAYOUTS

TOKENS = 900


def configure(folder: Path, model_type: str, **values: Any) -> Path:
    """Replaces config.json."""
    described = {"model_type": model_type, "vocab_size": TOKENS, **values}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder))


@pytest.mark.parametrize("name", LAYOUTS)
def test_tokenizers_of_their_own_models_are_not_doubted(
    tmp_path: Path, tokenizer_folders: dict[str, Path], name: str
) -> None:
    """Also with a matrix that is padded."""
    folder = copy(tokenizer_folders[name], tmp_path / "m")
    own = read_tokenizer(folder)
    configure(folder, LAYOUTS[name].model_type, vocab_size=own.size + 64, pad_token_id=own.pad_id)
    assert read_tokenizer(folder).doubts == ()


@pytest.mark.parametrize(
    ("name", "model_type", "values"),
    [
        # Multilingual E5: XLM-R's tokenizer, a matrix of 250,037 rows for 250,002 tokens.
        ("e5", "bert", {"pad_token_id": 0, "tokenizer_class": "XLMRobertaTokenizer"}),
        # Multilingual MiniLM of sentence-transformers: the same, and nothing names a class.
        ("xlm-roberta", "bert", {"pad_token_id": 0}),
        ("unigram", "bert", {"pad_token_id": 0}),
        ("bert", "nomic_bert", {"pad_token_id": 0}),
        ("bert", "ernie", {"pad_token_id": 0}),
        ("bert", "modernbert", {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}),
        # Ids that are left from the configuration of the family.
        ("bert", "modernbert", {"pad_token_id": 50283, "cls_token_id": 50281}),
        # HerBERT: a BERT with byte pairs, whose ids config.json has.
        ("roberta", "bert", {"pad_token_id": 1}),
    ],
)
def test_unusual_pairs_of_trained_models_are_not_doubted(
    tmp_path: Path,
    tokenizer_folders: dict[str, Path],
    name: str,
    model_type: str,
    values: dict[str, Any],
) -> None:
    folder = copy(tokenizer_folders[name], tmp_path / "m")
    configure(folder, model_type, **{"vocab_size": read_tokenizer(folder).size, **values})
    assert read_tokenizer(folder).doubts == ()


def test_a_tokenizer_json_that_has_no_token_of_its_settings_is_refused(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    """RoBERTa's file in a folder of a BERT, whose matrix has a row for each of its ids."""
    folder = configure(copy(tokenizer_folders["bert"], tmp_path / "m"), "bert", pad_token_id=0)
    shutil.copyfile(tokenizer_folders["roberta"] / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(
        ModelError, match=r"does not belong to its model: tokenizer_config\.json"
    ) as e:
        read_tokenizer(folder)
    assert "[SEP], [UNK], and tokenizer.json has none of them" in e.value.message
    assert e.value.hint == "take tokenizer and model from the same source"


@pytest.mark.parametrize("files", ["all", "tokenizer.json"])
def test_another_kind_with_other_ids_and_too_many_rows_is_refused(
    tmp_path: Path, tokenizer_folders: dict[str, Path], files: str
) -> None:
    folder = copy(tokenizer_folders["roberta"], tmp_path / "m")
    if files != "all":
        (folder / "tokenizer_config.json").unlink()
    configure(folder, "bert", vocab_size=30_522, pad_token_id=0)
    with pytest.raises(ModelError, match="does not belong to its model") as e:
        read_tokenizer(folder)
    assert "pad_token_id = 0, and '<pad>' has 1" in e.value.message
    assert "the model has 30,522 word-embedding rows, the tokenizer 900 ids" in e.value.message


def test_a_bert_tokenizer_in_a_modernbert_is_refused(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    folder = copy(tokenizer_folders["bert"], tmp_path / "m")
    ids = {"pad_token_id": 83, "cls_token_id": 81, "sep_token_id": 82}
    configure(folder, "modernbert", vocab_size=1_100, **ids)
    with pytest.raises(
        ModelError, match=r"config\.json has pad_token_id = 83, and '\[PAD\]' has 0"
    ):
        read_tokenizer(folder)


def test_two_signs_are_a_warning(
    tmp_path: Path, tokenizer_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte pairs in a BERT that pads with another id: no trained model is known, but possible."""
    folder = copy(tokenizer_folders["roberta"], tmp_path / "m")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = BertConfig(vocab_size=TOKENS, pad_token_id=0, num_hidden_layers=1, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer = read_tokenizer(folder)
    warn_if_read_otherwise(tokenizer)
    printed = " ".join(capsys.readouterr().err.split())
    assert "may be another model's" in printed
    assert "is of the kind BPE, expected WordPiece; config.json has pad_token_id = 0" in printed
    show_inspection(inspect_model(str(folder)))
    assert "may be another model's" in " ".join(capsys.readouterr().err.split())

"""Trimmed models of every family, and the proof that they compute the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from edgedistil.core.errors import GateError, ModelError
from edgedistil.core.model_folder import read_model_folder
from edgedistil.core.sentence_vector import Step, read_sentence_vector
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_trim import read_vocabulary, required_ids
from edgedistil.core.trim_records import TrimRecord
from edgedistil.trimming import folder as trimming
from edgedistil.trimming.folder import CountedText, check_trimmable, trim_package
from edgedistil.trimming.selection import Selection, VocabularyRequest, count_tokens, select_tokens
from tests.export.families.conftest import CASES
from tests.fixtures.tokenizer_folders import our_text
from tests.trimming.conftest import ModelFolder


def trim(package: Path, target: Path) -> tuple[TrimRecord, Selection]:
    """Removes half of the tokens that may go."""
    tokenizer = read_tokenizer(package)
    counts_V = count_tokens(tokenizer, our_text()[::2])
    vocabulary = read_vocabulary(tokenizer)
    least, present = len(required_ids(tokenizer, vocabulary)), len(vocabulary.ids)
    size = (least + present) // 2
    selection = select_tokens(tokenizer, counts_V, VocabularyRequest(size=size))
    # Words: nearly every line has a token that goes.
    words = [word for line in our_text()[1::2] for word in line.split()]
    text = CountedText("ours", counts_V, words, "the other half", {})
    return trim_package(package, target, name="tiny", selection=selection, text=text), selection


@pytest.mark.parametrize("name", CASES)
def test_a_trimmed_model_of_every_family_gives_the_same_logits(
    name: str, model_folder: ModelFolder, tmp_path: Path
) -> None:
    package = model_folder(name)
    record, selection = trim(package, tmp_path / "out")
    assert record.proof.max_abs <= record.proof.tolerance
    assert record.proof.texts > 3
    assert "logits" in record.proof.outputs
    assert record.vocabulary_after == len(selection.rows) < record.vocabulary_before
    assert record.parameters_after < record.parameters_before
    assert record.heldout.tokens_after >= record.heldout.tokens_before

    # The proof again, by transformers' own loading, in one text.
    before = AutoModelForMaskedLM.from_pretrained(package).eval()
    after = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert after.config.vocab_size == len(selection.rows)
    old_ids = torch.tensor([selection.rows[5:25]])
    new_ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        expected_BLV = before(input_ids=old_ids).logits[..., selection.rows]
        torch.testing.assert_close(after(input_ids=new_ids).logits, expected_BLV)


def test_the_head_of_a_classifier_stays(model_folder: ModelFolder, tmp_path: Path) -> None:
    package = model_folder("bert", "text-classification", num_labels=3)
    record, _ = trim(package, tmp_path / "out")
    assert record.proof.outputs == ["logits"]
    before = AutoModelForSequenceClassification.from_pretrained(package)
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(before.classifier.weight, after.classifier.weight)
    assert after.config.id2label == before.config.id2label


def test_an_untied_head_loses_the_same_rows(model_folder: ModelFolder, tmp_path: Path) -> None:
    package = model_folder("bert", tie_word_embeddings=False)
    _, selection = trim(package, tmp_path / "out")
    name = "cls.predictions.decoder.weight"
    before = load_file(package / "model.safetensors")[name]
    after = load_file(tmp_path / "out" / "model.safetensors")[name]
    assert torch.equal(after, before[selection.rows])


def test_a_wrong_row_is_found_and_nothing_is_written(
    model_folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = model_folder("bert")
    write = trimming.write_trimmed

    def write_with_two_rows_exchanged(source, tokenizer, rows, target):  # type: ignore[no-untyped-def]
        write(source, tokenizer, [*rows[:50], rows[51], rows[50], *rows[52:]], target)

    monkeypatch.setattr(trimming, "write_trimmed", write_with_two_rows_exchanged)
    with pytest.raises(GateError, match="does not compute what the model before computes"):
        trim(package, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_bias_of_the_head_is_found(
    model_folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = model_folder("bert")
    write = trimming.write_trimmed

    def write_with_another_bias(source, tokenizer, rows, target):  # type: ignore[no-untyped-def]
        write(source, tokenizer, rows, target)
        tensors = load_file(target / "model.safetensors")
        tensors["cls.predictions.bias"][9] += 1e-2
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(trimming, "write_trimmed", write_with_another_bias)
    with pytest.raises(GateError, match=r"an output differs by 0\.01"):
        trim(package, tmp_path / "out")


def test_modules_of_sentence_transformers_come_along(
    model_folder: ModelFolder, tmp_path: Path
) -> None:
    package = model_folder("bert", "feature-extraction")
    # Packages and git drop the empty folder of a normalization.
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"name": kind, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for kind, path in kinds.items()
    ]
    (package / "modules.json").write_text(json.dumps(modules))
    (package / "1_Pooling").mkdir()
    (package / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (package / "model.onnx").write_bytes(b"a graph with all rows")
    record, _ = trim(package, tmp_path / "out")
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    assert record.left_out == ["model.onnx"]
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert read_sentence_vector(tmp_path / "out", hidden=44).steps == (Step("normalize"),)
    shutil.rmtree(package / "1_Pooling")
    with pytest.raises(ModelError, match=r"names the folder '1_Pooling', which .* lacks"):
        trim(package, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["SpladePooling", "BoW"])
def test_vectors_with_a_number_per_token_are_refused(kind: str, model_folder: ModelFolder) -> None:
    package = model_folder("bert")
    entry = {"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.models.{kind}"}
    (package / "modules.json").write_text(json.dumps([entry]))
    with pytest.raises(ModelError, match="a number for each token of the vocabulary"):
        check_trimmable(package)


def test_labels_that_are_tokens_are_refused(model_folder: ModelFolder) -> None:
    package = model_folder("bert", "text-classification")
    config = json.loads((package / "config.json").read_text())
    config["id2label"] = {str(n): f"LABEL_{n}" for n in range(config["vocab_size"])}
    (package / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has a label for each of its 1,031 tokens"):
        check_trimmable(package)


def test_a_model_without_a_head_is_compared_by_its_states(
    model_folder: ModelFolder, tmp_path: Path
) -> None:
    package = model_folder("distilbert", "feature-extraction")
    record, _ = trim(package, tmp_path / "out")
    assert record.proof.outputs == ["last_hidden_state"]
    assert read_model_folder(tmp_path / "out").config["vocab_size"] == record.vocabulary_after

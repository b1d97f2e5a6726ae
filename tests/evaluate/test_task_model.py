"""Models with a head for a task: built, saved, loaded and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedModel,
)

from edgedistil.core.errors import ModelError
from edgedistil.core.records import read_record
from edgedistil.evaluate import task_model
from edgedistil.evaluate.cells import KEY_FILE, WeightsStamp
from edgedistil.evaluate.encode import Encoded, open_tokenizer
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.kinds import KINDS
from edgedistil.evaluate.scoring import all_logits

CLASSIFICATION = KINDS["classification"]
TEXTS = [Example((text,)) for text in ("a good film", "the story is very dull , not long", "it")]


def build(folder: Path, seed: int = 1, *, random_weights: bool = False) -> PreTrainedModel:
    return task_model.build_task_model(
        folder, CLASSIFICATION, classes=("a", "b"), seed=seed, random_weights=random_weights
    )


def test_seed_decides_the_head(tiny_models: Path) -> None:
    heads = [build(tiny_models / "student", seed).classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_random_weights_share_nothing_with_the_folder(tiny_models: Path) -> None:
    folder = tiny_models / "student"
    random, loaded = build(folder, random_weights=True), build(folder)
    name = "distilbert.transformer.layer.0.ffn.lin1.weight"
    assert not torch.equal(random.state_dict()[name], loaded.state_dict()[name])
    assert [p.shape for p in random.parameters()] == [p.shape for p in loaded.parameters()]


def test_saved_model_has_the_same_outputs(tiny_models: Path, tmp_path: Path) -> None:
    source, folder = tiny_models / "teacher", tmp_path / "saved"
    model = build(source)
    task_model.save_task_model(model, source, folder, key="k")
    stamp = read_record(folder / KEY_FILE, WeightsStamp)
    assert stamp.key == "k"
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(stamp.files)
    loaded = task_model.load_task_model(folder, CLASSIFICATION)

    rows = CLASSIFICATION.training_rows(open_tokenizer(folder), TEXTS, 23)
    sequences = [row.encoded for row in rows]
    for one, other in zip(
        all_logits(task_model.torch_forward(model, CLASSIFICATION), sequences, 0),
        all_logits(task_model.torch_forward(loaded, CLASSIFICATION), sequences, 0),
        strict=True,
    ):
        np.testing.assert_array_equal(one[0], other[0])


def test_padding_does_not_change_outputs(tiny_models: Path) -> None:
    forward = task_model.torch_forward(build(tiny_models / "teacher"), CLASSIFICATION)
    tokenizer = open_tokenizer(tiny_models / "teacher")
    sequences = CLASSIFICATION.first_sequences(tokenizer, TEXTS, 23)
    together = all_logits(forward, sequences, 0)
    alone = [all_logits(forward, [sequence], 0)[0] for sequence in sequences]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)


def test_teacher_with_another_vocabulary_is_an_error(tiny_models: Path, tmp_path: Path) -> None:
    text = (tiny_models / "teacher" / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace('"dull"', '"dreary"'))
    tokenizer = open_tokenizer(tiny_models / "student")
    with pytest.raises(ModelError, match=r"vocabulary of the teacher .* differs"):
        task_model.teacher_logits(tmp_path, [], CLASSIFICATION, tokenizer)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (Encoded([1] * 132, [0] * 132), "needs 132 positions, and the model has 131"),
        (Encoded([1, 999], [0, 0]), "needs 1,000 token ids, and the model has 45"),
        (Encoded([1, 2], [0, 2]), "needs 3 token types, and the model has 2"),
    ],
)
def test_sequence_that_does_not_fit_the_tables_is_an_error(
    tiny_models: Path, sequence: Encoded, message: str
) -> None:
    model = build(tiny_models / "teacher")
    task_model.check_fits(model, [Encoded([1] * 131, [1] * 131)])
    with pytest.raises(ModelError, match=message):
        task_model.check_fits(model, [Encoded([1], [0]), sequence])
    # DistilBERT has no token types.
    if "types" in message:
        task_model.check_fits(build(tiny_models / "student"), [sequence])


def test_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a model folder"):
        build(tmp_path)


@pytest.mark.parametrize("labels", [2, 5])
def test_a_checkpoint_with_a_head_gets_a_fresh_one(
    tiny_models: Path, tmp_path: Path, labels: int
) -> None:
    """Of the same shape or another: it was trained for other labels."""
    config = DistilBertConfig.from_pretrained(tiny_models / "student", num_labels=labels)
    checkpoint = DistilBertForTokenClassification(config)
    checkpoint.save_pretrained(tmp_path)
    first, again, other = (build(tmp_path, seed) for seed in (1, 1, 2))
    assert first.classifier.weight.shape == (2, 22)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    if labels == 2:
        assert not torch.equal(first.classifier.weight, checkpoint.classifier.weight)
    # The encoder is the checkpoint's.
    name = "transformer.layer.0.ffn.lin1.weight"
    expected = checkpoint.distilbert.state_dict()[name]
    assert torch.equal(first.distilbert.state_dict()[name], expected)


def test_an_encoder_that_lacks_a_weight(tiny_models: Path, tmp_path: Path) -> None:
    config = DistilBertConfig.from_pretrained(tiny_models / "student")
    DistilBertModel(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["transformer.layer.0.ffn.lin2.bias"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lack distilbert\.transformer\.layer\.0\.ffn\.lin2\.bias"
    ):
        build(tmp_path)


def test_a_model_with_one_segment_gets_no_token_types(tiny_models: Path, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(tiny_models / "teacher", type_vocab_size=1)
    BertModel(config).save_pretrained(tmp_path)
    model = build(tmp_path)
    assert "token_type_ids" not in task_model.accepted_inputs(model)
    assert "token_type_ids" in task_model.accepted_inputs(build(tiny_models / "teacher"))

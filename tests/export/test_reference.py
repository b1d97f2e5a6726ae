from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from edgedistil.core.errors import CorpusError, ModelError
from edgedistil.export.reference import (
    LONGEST,
    MASK_SHARE,
    boundary_names,
    make_probes,
    plan_calls,
    sizes,
)
from edgedistil.models.facts import weights_sha256
from edgedistil.parity.compare import compare
from edgedistil.parity.probes import Probes

CLASSES = {
    "fill-mask": ("DistilBertForMaskedLM", "BertForMaskedLM"),
    "feature-extraction": ("DistilBertModel", "BertModel"),
    "text-classification": ("DistilBertForSequenceClassification", "BertForSequenceClassification"),
    "token-classification": ("BertForTokenClassification",),
    "question-answering": ("BertForQuestionAnswering",),
}
PAIRS = [(task, name) for task, names in CLASSES.items() for name in names]


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_the_model_itself_agrees_with_its_probes(
    task: str, name: str, model, tokenizer, text
) -> None:
    source = model(name)
    probes = make_probes(source, tokenizer, task, text, seed=5)
    assert probes.sequences >= 64
    assert len(probes.lengths) >= 5
    assert probes.lengths[-1] == LONGEST
    assert any(batch.sequences > 1 and (batch.attention_mask_BL == 0).any() for batch in probes)

    def answer(batch):
        with torch.inference_mode():
            return source(**{key: torch.from_numpy(array) for key, array in batch.feeds().items()})

    outputs = [{key: array.numpy() for key, array in answer(batch).items()} for batch in probes]
    figures = compare(probes, outputs).overall
    assert figures.max_abs == 0
    assert figures.agreement == 1 or task == "feature-extraction"


@pytest.fixture
def probes(model, tokenizer, text) -> Probes:
    return make_probes(model("DistilBertForMaskedLM"), tokenizer, "fill-mask", text, seed=5)


def test_every_padded_batch_has_one_full_row_and_shorter_ones(probes: Probes) -> None:
    for batch in probes:
        lengths = batch.attention_mask_BL.sum(axis=1)
        assert lengths.max() == batch.length
        if batch.sequences > 1:
            assert lengths.min() < batch.length


def test_masks_cover_their_share_of_the_words_and_nothing_else(probes: Probes, tokenizer) -> None:
    masked = sum(len(batch.masked_M2) for batch in probes)
    words = sum(int(batch.attention_mask_BL.sum()) - 2 * batch.sequences for batch in probes)
    assert masked / words == pytest.approx(MASK_SHARE, abs=0.02)
    for batch in probes:
        at_masks = batch.input_ids_BL[batch.masked_M2[:, 0], batch.masked_M2[:, 1]]
        assert (at_masks == tokenizer.mask_token_id).all()
        assert (batch.input_ids_BL == tokenizer.mask_token_id).sum() == len(at_masks)
        assert (batch.input_ids_BL[:, 0] == tokenizer.cls_token_id).all()
        assert len(batch.choices_M) == len(batch.margins_M) == len(at_masks)
        assert (batch.margins_M >= 0).all()


def test_the_whole_vocabulary_is_kept_at_a_bounded_number_of_positions(probes: Probes) -> None:
    rows = sum(len(batch.rows_N2) for batch in probes)
    assert 200 <= rows <= 300
    for batch in probes:
        attended = batch.attention_mask_BL[batch.rows_N2[:, 0], batch.rows_N2[:, 1]]
        assert (attended == 1).all()
        assert len(np.unique(batch.rows_N2, axis=0)) == len(batch.rows_N2)


def test_hidden_states_are_those_of_the_layers(model, tokenizer, text) -> None:
    source = model("BertModel")
    probes = make_probes(source, tokenizer, "feature-extraction", text, seed=5)
    assert probes.boundaries == boundary_names(2, found=5)
    [batch] = [each for each in probes if each.full_hidden_KBLD is not None]
    assert batch.sequences > 1
    with torch.inference_mode():
        feeds = {key: torch.from_numpy(array) for key, array in batch.feeds().items()}
        expected = source(**feeds, output_hidden_states=True).hidden_states
    for layer, index in enumerate((0, 2, 4)):  # the embeddings, then each layer's feed-forward half
        np.testing.assert_array_equal(batch.full_hidden_KBLD[index], expected[layer].numpy())
        rows = batch.hidden_rows_R2
        np.testing.assert_array_equal(
            batch.hidden_KRD[index], expected[layer].numpy()[rows[:, 0], rows[:, 1]]
        )


def test_the_seed_decides(model, tokenizer, text, tmp_path) -> None:
    source = model("DistilBertForMaskedLM")
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        make_probes(source, tokenizer, "fill-mask", text, seed=seed).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_pairs_carry_token_types(model, tokenizer, text) -> None:
    probes = make_probes(
        model("BertForQuestionAnswering"), tokenizer, "question-answering", text, seed=5
    )
    for batch in probes:
        assert batch.token_type_ids_BL is not None
        assert (batch.token_type_ids_BL.max(axis=1) == 1).all()
        separators = (batch.input_ids_BL == tokenizer.sep_token_id).sum(axis=1)
        assert (separators == 2).all()
        assert (batch.token_type_ids_BL[batch.attention_mask_BL == 0] == 0).all()


def test_a_model_in_training_or_in_bfloat16_is_asked_in_float32_and_left_as_it_was(
    model, tokenizer, text
) -> None:
    source = model("DistilBertForMaskedLM")
    expected = make_probes(source, tokenizer, "fill-mask", text, seed=5)
    training = copy.deepcopy(source).train()
    got = make_probes(training, tokenizer, "fill-mask", text, seed=5)
    assert training.training
    np.testing.assert_array_equal(
        got.batches[0].outputs["logits"], expected.batches[0].outputs["logits"]
    )
    half = copy.deepcopy(source).to(torch.bfloat16)
    probes = make_probes(half, tokenizer, "fill-mask", text, seed=5)
    assert probes.batches[0].outputs["logits"].dtype == np.float32
    assert next(half.parameters()).dtype == torch.bfloat16
    assert probes.source_sha256 == weights_sha256(half) != expected.source_sha256


def test_little_text_is_used_again_and_none_is_refused(model, tokenizer) -> None:
    source = model("DistilBertForMaskedLM")
    assert make_probes(source, tokenizer, "fill-mask", ["ban cer"], seed=5).lengths[-1] == LONGEST
    for nothing in ([], ["", "  "]):
        with pytest.raises(CorpusError, match="holds no words"):
            make_probes(source, tokenizer, "fill-mask", nothing, seed=5)


def test_what_cannot_be_probed_is_told(model, tokenizer, text) -> None:
    with pytest.raises(
        ModelError, match="no probes for the task 'translation'; there are: fill-mask"
    ):
        make_probes(model("BertModel"), tokenizer, "translation", text, seed=5)
    blind = copy.deepcopy(tokenizer)
    blind.mask_token = None
    with pytest.raises(ModelError, match=r"the tokenizer has no \[MASK\] token"):
        make_probes(model("DistilBertForMaskedLM"), blind, "fill-mask", text, seed=5)


@pytest.mark.parametrize("positions", [64, 67, 128, 512, 514])
def test_every_model_gets_enough_sequences_and_lengths(positions: int) -> None:
    calls = plan_calls(positions)
    lengths = [length for length, _ in calls]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 5
    assert max(lengths) == min(positions, LONGEST)
    assert sum(count for _, count in calls) >= 64
    assert all(count != length for length, count in calls), "B = L would hide a swapped axis"


def test_sizes_go_down_from_the_full_length() -> None:
    assert sizes(16, 1) == [16]
    assert sizes(64, 3) == [64, 44, 25]
    assert sizes(8, 5) == [8, 7, 6, 6, 5]


def test_boundaries_are_named_in_order() -> None:
    assert boundary_names(1, found=4) == (
        "embeddings",
        "layer 0 attention",
        "layer 0 feed-forward",
        "head",
    )
    with pytest.raises(ModelError, match="found 7 LayerNorms, expected 3"):
        boundary_names(1, found=7)

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from edgedistil.core.errors import CorpusError, ModelError
from edgedistil.core.task import Task
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.export.probe_inputs import LONGEST, MASK_SHARE
from edgedistil.export.reference import make_probes
from edgedistil.models.facts import weights_sha256
from edgedistil.parity.compare import compare
from edgedistil.parity.probes import ProbeBatch, Probes

if TYPE_CHECKING:
    from tests.export.conftest import Make

CASES: list[tuple[Task, str]] = [
    ("fill-mask", "DistilBertForMaskedLM"),
    ("fill-mask", "BertForMaskedLM"),
    ("feature-extraction", "DistilBertModel"),
    ("feature-extraction", "BertModel"),
    ("text-classification", "DistilBertForSequenceClassification"),
    ("text-classification", "BertForSequenceClassification"),
    ("token-classification", "BertForTokenClassification"),
    ("question-answering", "BertForQuestionAnswering"),
]


def run_pytorch(model: PreTrainedModel, batch: ProbeBatch) -> dict[str, NDArray[np.float32]]:
    feeds = {name: torch.from_numpy(array) for name, array in batch.feeds().items()}
    with torch.inference_mode():
        outputs = model(**feeds)
    return {name: tensor.numpy() for name, tensor in outputs.items()}


@pytest.fixture
def probes(model: Make, tokenizer: TextTokenizer, text: list[str]) -> Probes:
    return make_probes(model("DistilBertForMaskedLM"), tokenizer, "fill-mask", text, seed=5)


@pytest.mark.parametrize(("task", "name"), CASES)
def test_the_model_itself_agrees_with_its_probes(
    task: Task, name: str, model: Make, tokenizer: TextTokenizer, text: list[str]
) -> None:
    source = model(name)
    probes = make_probes(source, tokenizer, task, text, seed=5)
    assert probes.sequences >= 64
    assert len(probes.lengths) >= 5
    assert probes.lengths[-1] == LONGEST
    assert any(batch.sequences > 1 and (batch.attention_mask_BL == 0).any() for batch in probes)
    figures = compare(probes, [run_pytorch(source, batch) for batch in probes]).overall
    assert figures.max_abs == 0
    assert figures.agreement == 1 or task == "feature-extraction"


def test_probes_of_a_multi_label_model_decide_every_label(
    model: Make, tokenizer: TextTokenizer, text: list[str]
) -> None:
    source = model("BertForSequenceClassification")
    source.config.problem_type = "multi_label_classification"
    probes = make_probes(source, tokenizer, "text-classification", text, seed=5)
    assert probes.problem_type == "multi_label_classification"
    figures = compare(probes, [run_pytorch(source, batch) for batch in probes]).overall
    assert figures.agreement == 1
    assert figures.decisions > probes.sequences


def test_every_padded_batch_has_one_full_row_and_shorter_ones(probes: Probes) -> None:
    for batch in probes:
        lengths = batch.attention_mask_BL.sum(axis=1)
        assert lengths.max() == batch.length
        if batch.sequences > 1:
            assert lengths.min() < batch.length


def test_masks_cover_their_share_of_the_tokens_and_nothing_else(
    probes: Probes, tokenizer: TextTokenizer
) -> None:
    masked = sum(len(batch.masked_M2) for batch in probes)
    tokens = sum(int(batch.attention_mask_BL.sum()) - 2 * batch.sequences for batch in probes)
    assert masked / tokens == pytest.approx(MASK_SHARE, abs=0.02)
    for batch in probes:
        at_masks = batch.input_ids_BL[batch.masked_M2[:, 0], batch.masked_M2[:, 1]]
        assert (at_masks == tokenizer.require("mask")).all()
        assert (batch.input_ids_BL == tokenizer.require("mask")).sum() == len(at_masks)
        assert (batch.input_ids_BL[:, 0] == tokenizer.require("cls")).all()
        assert len(batch.choices_M) == len(batch.margins_M) == len(at_masks)
        assert (batch.margins_M >= 0).all()


def test_the_complete_vocabulary_is_stored_at_a_bounded_number_of_positions(
    probes: Probes,
) -> None:
    rows = sum(len(batch.rows_N2) for batch in probes)
    assert 200 <= rows <= 300
    for batch in probes:
        attended = batch.attention_mask_BL[batch.rows_N2[:, 0], batch.rows_N2[:, 1]]
        assert (attended == 1).all()
        assert len(np.unique(batch.rows_N2, axis=0)) == len(batch.rows_N2)


def test_hidden_states_are_those_of_the_layers(
    model: Make, tokenizer: TextTokenizer, text: list[str]
) -> None:
    source = model("BertModel")
    probes = make_probes(source, tokenizer, "feature-extraction", text, seed=5)
    assert probes.boundaries == (
        "embeddings",
        "layer 0 attention",
        "layer 0 feed-forward",
        "layer 1 attention",
        "layer 1 feed-forward",
    )
    batches = [batch for batch in probes if batch.full_hidden_KBLD is not None]
    # A padded one, those of odd lengths, and the longest.
    assert [batch.length for batch in batches] == [5, 7, 13, 16, 37, 61, 127, 333, 512]
    batch = max(batches, key=lambda batch: batch.sequences)
    assert batch.sequences > 1
    feeds = {name: torch.from_numpy(array) for name, array in batch.feeds().items()}
    with torch.inference_mode():
        expected = source(**feeds, output_hidden_states=True).hidden_states
    rows = batch.hidden_rows_R2
    # The embeddings, then the feed-forward half of each layer.
    for layer, boundary in enumerate((0, 2, 4)):
        hidden_BLD = expected[layer].numpy()
        np.testing.assert_array_equal(batch.full_hidden_KBLD[boundary], hidden_BLD)
        np.testing.assert_array_equal(
            batch.hidden_KRD[boundary], hidden_BLD[rows[:, 0], rows[:, 1]]
        )


def test_the_seed_decides(
    model: Make, tokenizer: TextTokenizer, text: list[str], tmp_path: Path
) -> None:
    source = model("DistilBertForMaskedLM")
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        make_probes(source, tokenizer, "fill-mask", text, seed=seed).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_pairs_carry_token_types(model: Make, tokenizer: TextTokenizer, text: list[str]) -> None:
    source = model("BertForQuestionAnswering")
    for batch in make_probes(source, tokenizer, "question-answering", text, seed=5):
        assert batch.token_type_ids_BL is not None
        assert (batch.token_type_ids_BL.max(axis=1) == 1).all()
        separators = (batch.input_ids_BL == tokenizer.require("sep")).sum(axis=1)
        assert (separators == 2).all()
        assert (batch.token_type_ids_BL[batch.attention_mask_BL == 0] == 0).all()


def test_a_model_in_training_or_in_bfloat16_runs_in_float32_and_is_not_changed(
    model: Make, tokenizer: TextTokenizer, text: list[str]
) -> None:
    source = model("DistilBertForMaskedLM")
    expected = make_probes(source, tokenizer, "fill-mask", text, seed=5)
    training = copy.deepcopy(source).train()
    actual = make_probes(training, tokenizer, "fill-mask", text, seed=5)
    assert training.training
    np.testing.assert_array_equal(
        actual.batches[0].outputs["logits"], expected.batches[0].outputs["logits"]
    )
    half = copy.deepcopy(source).to(torch.bfloat16)
    probes = make_probes(half, tokenizer, "fill-mask", text, seed=5)
    assert probes.batches[0].outputs["logits"].dtype == np.float32
    assert next(half.parameters()).dtype == torch.bfloat16
    assert probes.source_sha256 == weights_sha256(half) != expected.source_sha256


def test_a_short_text_is_used_repeatedly_and_an_empty_one_is_refused(
    model: Make, tokenizer: TextTokenizer
) -> None:
    source = model("DistilBertForMaskedLM")
    assert make_probes(source, tokenizer, "fill-mask", ["ban cer"], seed=5).lengths[-1] == LONGEST
    for empty in ([], ["", "  "]):
        with pytest.raises(CorpusError, match="has no tokens"):
            make_probes(source, tokenizer, "fill-mask", empty, seed=5)


def test_an_unknown_task_and_an_unfit_tokenizer_are_refused(
    model: Make, tokenizer: TextTokenizer, text: list[str]
) -> None:
    task: Any = "translation"
    with pytest.raises(
        ModelError, match="no probes for the task 'translation'; expected one of: fill-mask"
    ):
        make_probes(model("BertModel"), tokenizer, task, text, seed=5)
    names = {name: token for name, token in tokenizer.roles.items() if name != "mask_token"}
    without_mask = replace(tokenizer, roles=names)
    with pytest.raises(ModelError, match="has no mask_token"):
        make_probes(model("DistilBertForMaskedLM"), without_mask, "fill-mask", text, seed=5)


def test_a_model_that_gives_nan_itself(
    model: Make, tokenizer: TextTokenizer, text: list[str]
) -> None:
    """Its artefact would be blamed for what PyTorch computes, too."""
    source = model("DistilBertForMaskedLM")
    source.vocab_projector.bias[7] = float("nan")
    with pytest.raises(
        ModelError, match=r"itself gives NaN .* in PyTorch: 5 of 265 values of 'log"
    ):
        make_probes(source, tokenizer, "fill-mask", text, seed=5)

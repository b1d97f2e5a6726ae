"""The layers that a student is built from, and where every weight is copied to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core.errors import ModelError
from edgedistil.core.places import cache_root
from edgedistil.models.student import StudentOptions, alternate_layers, load_student, make_student
from edgedistil.models.teacher import load_teacher


def _teacher(layers: int = 4) -> BertForMaskedLM:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=53,
        hidden_size=22,
        num_attention_heads=2,
        intermediate_size=31,
        num_hidden_layers=layers,
        max_position_embeddings=13,
    )
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def _student(teacher: BertForMaskedLM, **changes: Any) -> DistilBertForMaskedLM:
    layer_map = changes.pop("layer_map", [0, 2])
    options = StudentOptions(**{"seed": 7, **changes})
    return make_student(teacher, layer_map=layer_map, options=options)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (12, 6, [0, 2, 4, 7, 9, 11]),
        (12, None, [0, 2, 4, 7, 9, 11]),
        (6, 3, [0, 2, 5]),
        (4, 4, [0, 1, 2, 3]),
        (5, 1, [0]),
        (1, None, [0]),
        (24, 6, [0, 5, 9, 14, 18, 23]),
    ],
)
def test_alternate_layers(teacher: int, student: int | None, expected: list[int]) -> None:
    assert alternate_layers(teacher, student) == expected


@settings(deadline=None)
@given(st.integers(1, 48).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_alternate_layers_spreads_over_any_pair(depths: tuple[int, int]) -> None:
    teacher, student = depths
    layers = alternate_layers(teacher, student)
    gaps = {b - a for a, b in itertools.pairwise(layers)}
    assert len(layers) == student and layers[0] == 0
    assert student == 1 or layers[-1] == teacher - 1
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@pytest.mark.parametrize(("teacher", "student"), [(3, 4), (3, 0), (0, None)])
def test_alternate_layers_refuses(teacher: int, student: int | None) -> None:
    with pytest.raises(ModelError, match="cannot take"):
        alternate_layers(teacher, student)


def test_identity_map_with_folded_segment_equals_the_real_teacher() -> None:
    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    student = _student(teacher.model, layer_map=range(6)).eval()
    sentences = [
        "The student reads what its teacher reads.",
        "Quantities of [MASK] were found, in 1923, near the river bank.",
    ]
    rows = teacher.tokenizer.encode_framed(sentences, 64)
    ids = [torch.tensor(row_ids) for row_ids, _ in rows]
    ids_BL = torch.nn.utils.rnn.pad_sequence(ids, True, teacher.tokenizer.pad_id)
    mask_BL = (ids_BL != teacher.tokenizer.pad_id).long()
    inputs = {"input_ids": ids_BL, "attention_mask": mask_BL}
    with torch.no_grad():
        theirs = teacher.model(**inputs).logits
        ours = student(**inputs).logits
        unfolded = _student(teacher.model, layer_map=range(6), fold_segment=False).eval()
        off = unfolded(**inputs).logits
    attended = mask_BL.bool()
    assert (theirs - ours)[attended].abs().max() < 1e-4
    assert (theirs - off)[attended].abs().max() > 1e-2  # so the line above could have failed


def test_each_layer_comes_from_the_layer_that_the_map_names() -> None:
    teacher = _teacher()
    student = _student(teacher, layer_map=[3, 1, 1])
    for ours, source in zip(student.distilbert.transformer.layer, (3, 1, 1), strict=True):
        assert torch.equal(
            ours.ffn.lin1.weight, teacher.bert.encoder.layer[source].intermediate.dense.weight
        )
        assert torch.equal(
            ours.attention.v_lin.bias, teacher.bert.encoder.layer[source].attention.self.value.bias
        )


def test_switches() -> None:
    teacher = _teacher()
    positions = teacher.bert.embeddings.position_embeddings.weight
    assert torch.equal(
        _student(teacher, fold_segment=False).distilbert.embeddings.position_embeddings.weight,
        positions,
    )
    transform = teacher.cls.predictions.transform.dense.weight
    assert torch.equal(_student(teacher).vocab_transform.weight, transform)
    plain = _student(teacher, copy_head_transform=False)
    assert not torch.equal(plain.vocab_transform.weight, transform)
    assert torch.equal(plain.vocab_projector.bias, teacher.cls.predictions.decoder.bias)
    assert plain.vocab_projector.weight is plain.distilbert.embeddings.word_embeddings.weight


def test_frozen_positions_are_not_trained_and_stay_in_place_on_disk(tmp_path: Path) -> None:
    student = _student(_teacher(), freeze_positions=True)
    still = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert still == ["distilbert.embeddings.position_embeddings.weight"]
    student.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = DistilBertForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.sinusoidal_pos_embds is False
    for (name, ours), theirs in zip(student.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_random_initialisation_takes_nothing_and_follows_the_seed() -> None:
    teacher = _teacher()
    first, again, other = (_student(teacher, init="random", seed=seed) for seed in (1, 1, 2))
    words = "distilbert.embeddings.word_embeddings.weight"
    assert torch.equal(first.state_dict()[words], again.state_dict()[words])
    assert not torch.equal(first.state_dict()[words], other.state_dict()[words])
    assert not torch.equal(
        first.state_dict()[words], teacher.bert.embeddings.word_embeddings.weight
    )


def test_making_a_student_leaves_the_global_generator_alone() -> None:
    teacher = _teacher()
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    _student(teacher)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [([0, 4], "no layer 4"), ([-1], "no layer -1"), ([], "the layer map is empty")],
)
def test_layer_map_out_of_range(layer_map: list[int], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        _student(_teacher(), layer_map=layer_map)
    assert "layers are 0 to 3" in str(caught.value)


def test_a_student_is_distilled_further_from_where_it_was(tmp_path: Path) -> None:
    teacher = _teacher()
    before = _student(teacher, seed=11, init="random")
    before.save_pretrained(tmp_path)
    after = load_student(tmp_path, teacher, layers=2, dropout=0.3)
    assert after.training and after.config.dropout == after.config.attention_dropout == 0.3
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layers", "saved", "message"),
    [
        (3, "student", "has layers 2, expected 3"),
        (2, None, "has no config.json"),
        (2, "bert", "is a bert, not a distilbert"),
    ],
)
def test_a_student_that_does_not_match_is_refused(
    layers: int, saved: str | None, message: str, tmp_path: Path
) -> None:
    teacher = _teacher()
    if saved == "bert":
        teacher.save_pretrained(tmp_path)
    elif saved == "student":
        _student(teacher).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_student(tmp_path, teacher, layers=layers, dropout=0.1)


def test_a_student_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    teacher = _teacher()
    _student(teacher).save_pretrained(tmp_path)
    teacher.config.vocab_size = 59
    with pytest.raises(ModelError, match="has vocabulary 53, expected 59"):
        load_student(tmp_path, teacher, layers=2, dropout=0.1)

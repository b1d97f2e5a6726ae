"""Students of every family: the teacher's own class with fewer layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES as ALL_FAMILIES
from edgedistil.models.fast.encoder import encode, encode_with_head, fits, why_plain
from edgedistil.models.mlm_head import mlm_head
from edgedistil.models.student import StudentOptions, make_student
from tests.export.families.conftest import CASES, VOCABULARY, make_model

FAMILIES = [name for name in ALL_FAMILIES if name != "bert"]
LAYERS = 4
FAST = {"distilbert", "ernie", "roberta", "xlm-roberta", "camembert", "electra"}


def make_teacher(name: str, **changes: Any) -> PreTrainedModel:
    return make_model(CASES[name], "fill-mask", num_hidden_layers=LAYERS, **changes)


def logits_of(model: PreTrainedModel) -> Tensor:
    ids_BL, mask_BL = inputs()
    with torch.no_grad():
        logits_BLV: Tensor = model.eval()(input_ids=ids_BL, attention_mask=mask_BL).logits
    return logits_BLV[mask_BL == 1]


def inputs() -> tuple[Tensor, Tensor]:
    ids_BL = torch.from_numpy(np.random.default_rng(3).integers(5, VOCABULARY, (3, 23)))
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[0, 11:] = 0
    return ids_BL, mask_BL


@pytest.fixture(params=FAMILIES)
def teacher(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_teacher(request.param)


def test_a_student_of_all_layers_gives_its_teachers_logits(teacher: PreTrainedModel) -> None:
    student = make_student(teacher, layer_map=range(LAYERS), options=StudentOptions())
    assert type(student) is type(teacher)
    assert student is not teacher
    torch.testing.assert_close(logits_of(student), logits_of(teacher), atol=1e-4, rtol=0)


def test_a_student_of_some_layers_has_the_weights_of_those(teacher: PreTrainedModel) -> None:
    student = make_student(teacher, layer_map=[0, 3], options=StudentOptions(dropout=0.3))
    assert student.config.num_hidden_layers == 2
    saved = dict(student.named_parameters())
    own, theirs = (
        sum(p.numel() for p in saved.values()),
        sum(p.numel() for p in teacher.parameters()),
    )
    if teacher.config.model_type == "albert":
        # Its layers share their weights.
        assert own == theirs
    else:
        assert own < theirs
        # What the last layer computes is the teacher's last layer's weight.
        layers = f".{ALL_FAMILIES[teacher.config.model_type].names.layers}."
        last = [name for name in saved if f"{layers}1." in name]
        assert last
        weights = teacher.state_dict()
        for name in last:
            theirs_name = name.replace(f"{layers}1.", f"{layers}3.")
            assert torch.equal(saved[name], weights[theirs_name])
    kinds = getattr(teacher.config, "layer_types", None)
    if kinds is not None:
        assert student.config.layer_types == [kinds[0], kinds[3]]
    config = student.config.to_dict()
    assert 0.3 in (config.get("hidden_dropout_prob"), config.get("attention_dropout"))


def test_weights_that_are_drawn_differ_from_the_teachers(teacher: PreTrainedModel) -> None:
    options = StudentOptions(init="random", seed=5)
    student = make_student(teacher, layer_map=[0, 3], options=options)
    again = make_student(teacher, layer_map=[0, 3], options=options)
    assert torch.equal(logits_of(student), logits_of(again))
    assert not torch.allclose(logits_of(student), logits_of(teacher), atol=1e-2)


def test_encoder_and_head_give_the_models_logits(teacher: PreTrainedModel) -> None:
    ids_BL, mask_BL = inputs()
    assert fits(teacher) == (teacher.config.model_type in FAST)
    with torch.no_grad():
        states_BLD = encode(teacher, ids_BL, mask_BL)
        head = mlm_head(teacher)
        logits_BLV = head.transform(states_BLD) @ head.weight_VD.T + head.bias_V
    torch.testing.assert_close(logits_BLV[mask_BL == 1], logits_of(teacher), atol=1e-4, rtol=0)


def test_every_family_has_a_reason_for_its_engine(teacher: PreTrainedModel) -> None:
    reasons = {
        "albert": "its layers share their weights",
        "mobilebert": "its layers are not of BERT's modules",
        "mpnet": "its attention has a bias for each distance",
        "deberta": "its attention has products with distances",
        "deberta-v2": "its attention has products with distances",
    }
    rotary = dict.fromkeys(
        ("modernbert", "nomic_bert", "eurobert"), "its attention has rotary positions"
    )
    assert why_plain(teacher) == (reasons | rotary).get(teacher.config.model_type)


def test_an_ernie_with_tasks_has_another_engine() -> None:
    model = make_teacher("ernie", use_task_id=True, task_type_vocab_size=3)
    assert why_plain(model) == "its embeddings add vectors of tasks"


def test_gradients_of_encoder_and_head_are_autograds(teacher: PreTrainedModel) -> None:
    ids_BL, mask_BL = inputs()
    plain = make_student(teacher, layer_map=range(LAYERS), options=StudentOptions(dropout=0.0))
    split = make_student(teacher, layer_map=range(LAYERS), options=StudentOptions(dropout=0.0))
    (plain(input_ids=ids_BL, attention_mask=mask_BL).logits[mask_BL == 1] ** 2).mean().backward()
    states_BLD, head = encode_with_head(split, ids_BL, mask_BL)
    logits_NV = head.transform(states_BLD[mask_BL == 1]) @ head.weight_VD.T + head.bias_V
    (logits_NV**2).mean().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in split.named_parameters():
        expected = theirs[name].grad
        if expected is None or parameter.grad is None:
            assert expected is None or not expected.any(), name
            continue
        # A bias of the key changes nothing: its gradient is rounding.
        scale = float(expected.abs().max()) + 1e-3
        torch.testing.assert_close(
            parameter.grad / scale, expected / scale, atol=2e-4, rtol=0, msg=name
        )


@pytest.mark.parametrize("layer_map", [[1, 2], [0, 0]])
def test_modernberts_first_layer_can_only_be_the_first(layer_map: list[int]) -> None:
    with pytest.raises(ModelError, match="can only be the first"):
        make_student(make_teacher("modernbert"), layer_map=layer_map, options=StudentOptions())


def test_positions_can_be_frozen_where_there_are_any() -> None:
    student = make_student(
        make_teacher("roberta"), layer_map=[0], options=StudentOptions(freeze_positions=True)
    )
    assert not student.roberta.embeddings.position_embeddings.weight.requires_grad
    with pytest.raises(ModelError, match="a modernbert has no position embeddings to freeze"):
        make_student(
            make_teacher("modernbert"), layer_map=[0], options=StudentOptions(freeze_positions=True)
        )


def test_deberta_with_its_other_head_is_copied_too() -> None:
    teacher = make_teacher("deberta-v2", legacy=False)
    student = make_student(teacher, layer_map=range(LAYERS), options=StudentOptions())
    torch.testing.assert_close(logits_of(student), logits_of(teacher), atol=1e-4, rtol=0)
    ids_BL, mask_BL = inputs()
    head = mlm_head(teacher)
    logits_BLV = head.transform(encode(teacher, ids_BL, mask_BL)) @ head.weight_VD.T + head.bias_V
    torch.testing.assert_close(logits_BLV[mask_BL == 1], logits_of(teacher), atol=1e-4, rtol=0)

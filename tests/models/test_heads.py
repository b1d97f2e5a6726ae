"""Attention heads that are removed by importance, in every family that allows it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.model_folder import read_model_folder
from edgedistil.models.fast.encoder import encode
from edgedistil.models.heads import head_importance, prune_heads, text_importance
from edgedistil.models.loading import load_config, load_weights
from edgedistil.models.reduced import class_for
from edgedistil.models.student import StudentOptions, make_student
from tests.export.families.conftest import CASES, HEADS, HIDDEN, VOCABULARY, make_model

PRUNABLE = [name for name in CASES if FAMILIES[name].names.attention is not None]
WIDTH = HIDDEN // HEADS
IDS_BL = torch.randint(5, VOCABULARY, (3, 23), generator=torch.Generator().manual_seed(7))


def states(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        output_BLD: torch.Tensor = model.eval().base_model(input_ids=IDS_BL).last_hidden_state
    return output_BLD


def silence(model: PreTrainedModel, heads: list[list[int]]) -> PreTrainedModel:
    """A copy in which some heads of each layer write nothing."""
    silent = copy.deepcopy(model)
    names = FAMILIES[model.config.model_type].names
    assert names.attention is not None
    layers = silent.base_model.get_submodule(names.layers)
    for layer, removed in zip(layers, heads, strict=True):
        output = layer.get_submodule(names.attention[3])
        with torch.no_grad():
            for head in removed:
                output.weight[:, head * WIDTH : (head + 1) * WIDTH] = 0
    return silent


def test_families_with_bert_layers_and_no_others_can_lose_heads() -> None:
    assert set(PRUNABLE) == {
        "bert", "ernie", "distilbert", "electra", "roberta", "xlm-roberta", "camembert",
    }  # fmt: skip


@pytest.mark.parametrize("name", PRUNABLE)
def test_heads_that_write_nothing_go_first(name: str) -> None:
    model = silence(make_model(CASES[name], "fill-mask"), [[1], [0, 3]])
    # Layers lose the same number of heads: of the first one a head that writes goes too.
    pruned = prune_heads(model, HEADS - 2)
    removed = pruned.config.pruned_heads
    assert removed["1"] == [0, 3]
    assert 1 in removed["0"]
    silent = silence(model, [removed["0"], removed["1"]])
    torch.testing.assert_close(states(pruned), states(silent))
    assert pruned.num_parameters() < model.num_parameters()
    assert (states(pruned) - states(model)).abs().max() > 1e-4


def test_heads_that_all_write_nothing_change_nothing() -> None:
    model = silence(make_model(CASES["distilbert"], "fill-mask"), [[0, 2], [1, 2]])
    torch.testing.assert_close(states(prune_heads(model, HEADS - 2)), states(model))


def test_pruning_twice_names_the_heads_of_the_complete_model() -> None:
    model = silence(make_model(CASES["bert"], "fill-mask"), [[1], [3]])
    once = prune_heads(model, HEADS - 1)
    assert once.config.pruned_heads == {"0": [1], "1": [3]}
    twice = prune_heads(once, 1)
    at_once = prune_heads(model, 1)
    assert twice.config.pruned_heads == at_once.config.pruned_heads
    torch.testing.assert_close(states(twice), states(at_once))


def test_importance_does_not_depend_on_the_basis_inside_a_head() -> None:
    generator = torch.Generator().manual_seed(3)
    value, output = torch.nn.Linear(7, 15), torch.nn.Linear(15, 7)
    before_H = head_importance(value, output, 3)
    basis = torch.randn(5, 5, generator=generator) + 3 * torch.eye(5)
    with torch.no_grad():
        value.weight[5:10] = basis @ value.weight[5:10]
        output.weight[:, 5:10] = output.weight[:, 5:10] @ basis.inverse()
    torch.testing.assert_close(head_importance(value, output, 3), before_H, rtol=1e-4, atol=0)
    expected = torch.linalg.matrix_norm(output.weight[:, 5:10] @ value.weight[5:10]).double()
    torch.testing.assert_close(before_H[1], expected.detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", PRUNABLE)
def test_on_texts_heads_that_write_little_go_first(name: str) -> None:
    model = make_model(CASES[name], "fill-mask").train()
    names = FAMILIES[name].names
    assert names.attention is not None
    # Large weights of the value, and an output that is nearly silent.
    for layer in model.base_model.get_submodule(names.layers):
        with torch.no_grad():
            layer.get_submodule(names.attention[3]).weight[:, WIDTH : 2 * WIDTH] *= 1e-4
    rows = IDS_BL.tolist()
    importance = text_importance(model, rows, HEADS)
    assert [int(values_H.argmin()) for values_H in importance] == [1, 1]
    pruned = prune_heads(model, HEADS - 1, rows=rows)
    assert pruned.config.pruned_heads == {"0": [1], "1": [1]}
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_importance_on_texts_is_the_norm_of_what_a_head_writes() -> None:
    model = make_model(CASES["bert"], "fill-mask")
    rows = [[7, 11, 13], [17, 19]]
    (first, _) = text_importance(model, rows, HEADS)
    expected_H = torch.zeros(HEADS, dtype=torch.float64)
    attention = model.bert.encoder.layer[0].attention
    for row in rows:
        hidden_BLD = model.bert.embeddings(input_ids=torch.tensor([row]))
        context_BLD = attention.self(hidden_BLD)[0]
        for head in range(HEADS):
            silent_BLD = torch.zeros_like(context_BLD)
            columns = slice(head * WIDTH, (head + 1) * WIDTH)
            silent_BLD[..., columns] = context_BLD[..., columns]
            written = silent_BLD @ attention.output.dense.weight.T
            expected_H[head] += written.norm(dim=-1).sum().item()
    torch.testing.assert_close(first, expected_H / 5, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", PRUNABLE)
def test_the_fast_engine_computes_fewer_heads(name: str) -> None:
    student = prune_heads(make_model(CASES[name], "fill-mask"), 3).eval()
    with torch.no_grad():
        torch.testing.assert_close(encode(student, IDS_BL, None), states(student))


def test_gradients_of_the_fast_engine_are_those_of_the_plain_path() -> None:
    teacher = make_model(CASES["bert"], "fill-mask").requires_grad_(True)
    options = StudentOptions(dropout=0.0, heads=3)
    student = make_student(teacher, layer_map=[0, 1], options=options)
    target_BLD = torch.randn(3, 23, HIDDEN, generator=torch.Generator().manual_seed(5))
    gradients = []
    for hidden_BLD in (
        encode(student, IDS_BL, None),
        student.base_model(input_ids=IDS_BL).last_hidden_state,
    ):
        student.zero_grad()
        (hidden_BLD * target_BLD).sum().backward()
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-4)


def test_a_bert_without_heads_has_a_distilbert_with_the_same_heads() -> None:
    teacher = prune_heads(make_model(CASES["bert"], "fill-mask"), 3)
    options = StudentOptions(dropout=0.0)
    student = make_student(teacher, layer_map=[1, 0, 1], options=options)
    removed = teacher.config.pruned_heads
    assert student.config.pruned_heads == {"0": removed["1"], "1": removed["0"], "2": removed["1"]}
    whole = make_student(teacher, layer_map=[0, 1], options=options)
    torch.testing.assert_close(states(whole), states(teacher))


def test_drawn_weights_have_the_spread_of_the_others() -> None:
    teacher = make_model(CASES["bert"], "fill-mask")
    student = make_student(
        teacher, layer_map=[0, 1], options=StudentOptions(init="random", heads=2)
    )
    query = student.base_model.transformer.layer[0].attention.q_lin
    up = student.base_model.transformer.layer[0].ffn.lin1
    assert query.weight.shape == (2 * WIDTH, HIDDEN)
    assert query.weight.std().item() == pytest.approx(up.weight.std().item(), rel=0.2)


def test_a_saved_student_is_loaded_again(tmp_path: Path) -> None:
    student = prune_heads(make_model(CASES["distilbert"], "fill-mask"), 3)
    student.save_pretrained(tmp_path)
    source = read_model_folder(tmp_path)
    assert source.architectures == ["DistilBertForMaskedLM"]
    config = load_config(source)
    assert class_for(AutoModelForMaskedLM, config).__name__ == "DistilBertForMaskedLM"
    loaded = load_weights(AutoModelForMaskedLM, source, config)
    assert not loaded.missing
    torch.testing.assert_close(states(loaded.model), states(student))
    # transformers 5 alone refuses the folder: it never draws the missing rows in silence.
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("heads", [HEADS, HEADS + 1])
def test_a_number_that_removes_nothing_is_refused(heads: int) -> None:
    with pytest.raises(ModelError, match=f"student.heads is {heads}; expected 1 to 3"):
        prune_heads(make_model(CASES["bert"], "fill-mask"), heads)


def test_a_family_with_other_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="heads of a mpnet cannot be removed"):
        prune_heads(make_model(CASES["mpnet"], "fill-mask"), 2)

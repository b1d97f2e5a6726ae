"""The fast path equals the forward pass of transformers, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedModel,
)

from edgedistil.models.fast.encoder import (
    encode,
    encode_with_head,
    freeze_teacher,
)
from edgedistil.models.mlm_head import mlm_head

B, L, D, F, V = 3, 7, 22, 31, 53


def _model(kind: str) -> PreTrainedModel:
    torch.manual_seed(2)
    if kind == "bert":
        of = {
            "hidden_size": D,
            "num_attention_heads": 2,
            "intermediate_size": F,
            "num_hidden_layers": 2,
        }
        model: PreTrainedModel = BertForMaskedLM(
            BertConfig(vocab_size=V, max_position_embeddings=11, **of)
        )
    else:
        of = {"dim": D, "n_heads": 2, "hidden_dim": F, "n_layers": 2}
        model = DistilBertForMaskedLM(
            DistilBertConfig(vocab_size=V, max_position_embeddings=11, **of)
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # so that every bias and gain matters
    return model


def _ids() -> tuple[Tensor, Tensor]:
    mask_BL = torch.ones(B, L, dtype=torch.long)
    mask_BL[1, -3:] = 0
    return torch.randint(V, (B, L), generator=torch.Generator().manual_seed(3)), mask_BL


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("padded", [False, True])
def test_encode_equals_the_models_own_forward_and_backward(kind: str, padded: bool) -> None:
    model = _model(kind).eval()
    ids_BL, mask_BL = _ids()
    attended = mask_BL.bool() if padded else torch.ones(B, L, dtype=torch.bool)
    weights = torch.randn(int(attended.sum()), D, generator=torch.Generator().manual_seed(4))

    def run(hidden_BLD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        (hidden_BLD[attended] * weights).sum().backward()
        return hidden_BLD[attended].detach(), {
            n: p.grad for n, p in model.base_model.named_parameters() if p.grad is not None
        }

    own, own_gradients = run(
        model.base_model(input_ids=ids_BL, attention_mask=mask_BL if padded else None)[0]
    )
    fast, fast_gradients = run(encode(model, ids_BL, mask_BL if padded else None))
    assert (own - fast).abs().max() < 1e-5
    assert own_gradients.keys() == fast_gradients.keys()
    for name, gradient in own_gradients.items():
        if name == "embeddings.token_type_embeddings.weight":
            gradient, fast_gradients[name] = gradient[0], fast_gradients[name][0]
        assert (gradient - fast_gradients[name]).abs().max() < 1e-4, name


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_head_in_two_parts_equals_the_models_logits(kind: str) -> None:
    model = _model(kind).eval()
    ids_BL, _ = _ids()
    head = mlm_head(model)
    with torch.no_grad():
        logits_BLV = head.transform(encode(model, ids_BL, None)) @ head.weight_VD.T + head.bias_V
        assert (logits_BLV - model(ids_BL).logits).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("uses", ["both", "hidden states", "projection"])
def test_a_table_of_two_uses_gets_the_gradient_of_both(kind: str, uses: str) -> None:
    model = _model(kind).eval()
    ids_BL, _ = _ids()
    ids_BL[0, :2] = model.config.pad_token_id  # whose row an embedding never changes
    table = model.base_model.embeddings.word_embeddings.weight

    def gradient(hidden_BLD: Tensor, weight_VD: Tensor) -> Tensor:
        if uses == "both":
            total = (hidden_BLD @ weight_VD.T).square().sum()
        else:
            total = (
                hidden_BLD.square().sum() if uses == "hidden states" else weight_VD.square().sum()
            )
        (table_gradient,) = torch.autograd.grad(total, [table])
        return table_gradient

    apart = gradient(encode(model, ids_BL, None), table)
    hidden_BLD, head = encode_with_head(model, ids_BL, None)
    assert torch.allclose(
        gradient(hidden_BLD, head.weight_VD), apart, rtol=1e-4, atol=1e-4 * float(apart.abs().max())
    )


def test_dropout_acts_in_training_mode_only_and_follows_torchs_seed() -> None:
    model = _model("distilbert")
    ids_BL, _ = _ids()

    def hidden(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return encode(model, ids_BL, None).detach()

    model.train()
    assert torch.equal(hidden(1), hidden(1))
    assert not torch.equal(hidden(1), hidden(2))
    model.eval()
    assert torch.equal(hidden(1), hidden(2))


def test_autocast_decides_the_dtype() -> None:
    model = _model("distilbert").eval()
    ids_BL, mask_BL = _ids()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = encode(model, ids_BL, mask_BL)
    assert narrow.dtype == torch.bfloat16
    exact = encode(model, ids_BL, mask_BL)
    assert exact.dtype == torch.float32
    assert (narrow.float() - exact)[mask_BL.bool()].abs().mean() < 0.02


def test_a_frozen_teacher_has_no_gradient_and_no_second_copy() -> None:
    model = _model("bert")
    assert isinstance(model, BertForMaskedLM)
    teacher = freeze_teacher(model, dtype=torch.bfloat16)
    assert teacher is model and teacher.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert (
        not teacher.training
        and teacher.cls.predictions.decoder.weight is mlm_head(teacher).weight_VD
    )
    assert (
        teacher.bert.embeddings.word_embeddings.weight is mlm_head(teacher).weight_VD
    )  # still tied

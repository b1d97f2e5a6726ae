"""FLOPs and memory from shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    EuroBertConfig,
    MobileBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
)

from edgedistil.core.family import FAMILIES
from edgedistil.core.recipe import Loss
from edgedistil.distill.plan.flops import ModelShape, flops_per_token, gpu_memory_bytes
from edgedistil.models.fast import projection

aten = torch.ops.aten
SMALL = ModelShape(
    layers=3,
    hidden=28,
    embedding=28,
    intermediate=44,
    layer_weights=4 * 28**2 + 2 * 28 * 44,
    attention=28,
    vocabulary=97,
    parameters=1,
)


def test_encoder_flops_equal_torchs_count() -> None:
    config = BertConfig(
        vocab_size=97,
        hidden_size=28,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=44,
    )
    model = BertForMaskedLM(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.bert(torch.ones(5, 23, dtype=torch.long))
    attention = 3 * 4 * 23 * 28  # scaled-dot-product attention on a CPU is not in torch's table
    without = SMALL.encoder_flops(23) - attention
    assert counter.get_total_flops() in (
        pytest.approx(5 * 23 * without),
        pytest.approx(5 * 23 * SMALL.encoder_flops(23)),
    )


SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 44,
}


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES),
        AlbertConfig(**SIZES, embedding_size=12),
        MobileBertConfig(**SIZES, embedding_size=12, intra_bottleneck_size=16),
        EuroBertConfig(**SIZES, num_key_value_heads=1, pad_token_id=0),
        ModernBertConfig(**SIZES, pad_token_id=0),
    ],
    ids=lambda config: config.model_type,
)
def test_products_of_every_kind_of_layer_are_those_that_torch_counts(
    config: PreTrainedConfig,
) -> None:
    model = AutoModel.from_config(config).eval()
    with FlopCounterMode(display=False, depth=None) as counter, torch.no_grad():
        model(torch.ones(5, 23, dtype=torch.long))
    counts = counter.get_flop_counts()["Global"]
    # Linear layers only: a machine's kernels decide how the products of attention are counted.
    products = sum(counts.get(operator, 0) for operator in (aten.mm, aten.addmm))

    expected = 5 * 23 * ModelShape.of(model).encoder_flops(0)
    names = FAMILIES[config.model_type].names
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith(names.layers.split(".0.")[0]):
            # The pooler reads a token of each text; the others widen every embedding.
            expected += 2 * module.weight.numel() * (5 if "pooler" in name else 5 * 23)
    assert products == expected


def test_masked_positions_and_missing_losses_save_the_head() -> None:
    def flops(loss: Loss) -> float:
        return flops_per_token(SMALL, SMALL, length=23, masked_share=0.15, loss=loss)

    all_positions = flops(Loss(positions="all"))
    masked = flops(Loss(positions="masked"))
    assert all_positions - masked == pytest.approx(0.85 * 4 * SMALL.head_flops)
    mlm_only = flops(Loss(positions="all", soft_target=0.0, cosine=0.0))
    assert mlm_only == pytest.approx(3 * (SMALL.encoder_flops(23) + 0.15 * SMALL.head_flops))


def test_a_copy_with_a_head_is_encoded_for_soft_targets_alone() -> None:
    def flops(**weights: float) -> float:
        loss = Loss(positions="all", **weights)
        return flops_per_token(
            SMALL, SMALL, length=23, masked_share=0.15, loss=loss, has_original=True
        )

    heads = 0.15 * 3 * SMALL.head_flops
    original_alone = flops(soft_target=0.0)
    assert original_alone == pytest.approx(4 * SMALL.encoder_flops(23) + heads)
    assert flops() == pytest.approx(5 * SMALL.encoder_flops(23) + 4 * SMALL.head_flops)


def test_without_a_head_there_are_no_logits() -> None:
    sizes = [
        gpu_memory_bytes(SMALL, SMALL, micro_batch=2, length=128, has_head=has_head)
        for has_head in (True, False)
    ]
    logits = projection.CHUNK_ROWS * SMALL.vocabulary * 4 * 6
    assert sizes[0] - sizes[1] == logits + SMALL.vocabulary * SMALL.hidden * 4


def test_memory_grows_with_the_micro_batch() -> None:
    sizes = [gpu_memory_bytes(SMALL, SMALL, micro_batch=rows, length=128) for rows in (1, 2, 3)]
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] > 0


def test_memory_has_the_chunk_of_logits_that_the_loss_projects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan had a chunk size of its own, 512 rows, after the loss had changed to 768."""

    def memory() -> int:
        return gpu_memory_bytes(SMALL, SMALL, micro_batch=2, length=128)

    before = memory()
    monkeypatch.setattr(projection, "CHUNK_ROWS", projection.CHUNK_ROWS + 100)
    assert memory() - before == 100 * SMALL.vocabulary * 4 * 6

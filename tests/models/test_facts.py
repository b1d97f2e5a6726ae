"""Type, size and digest of a model, counted on the model."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from edgedistil.models.facts import model_facts, weights_sha256

D, F, V, P, T = 22, 31, 53, 13, 2  # hidden, feed-forward, vocabulary, positions, token types


def _config() -> BertConfig:
    return BertConfig(
        vocab_size=V,
        hidden_size=D,
        num_attention_heads=2,
        intermediate_size=F,
        num_hidden_layers=3,
        max_position_embeddings=P,
    )


def test_parameters_by_hand() -> None:
    layer = 4 * (D * D + D) + 2 * (2 * D) + (D * F + F) + (F * D + D)
    encoder = (V + P + T) * D + 2 * D + 3 * layer
    head = D * D + D + 2 * D + V  # its projection is tied to the word embeddings
    facts = model_facts(BertForMaskedLM(_config()), name="tiny")
    assert facts.parameters == encoder + head
    assert facts.encoder_parameters == encoder
    assert (facts.name, facts.model_type, facts.architecture) == ("tiny", "bert", "BertForMaskedLM")
    assert (facts.layers, facts.hidden, facts.vocabulary) == (3, D, V)


def test_a_pooler_does_not_count_as_encoder() -> None:
    with_pooler = model_facts(BertModel(_config()), name="p")
    assert with_pooler.parameters - with_pooler.encoder_parameters == D * D + D


def test_digest_sees_values_and_nothing_else() -> None:
    torch.manual_seed(1)
    model = BertForMaskedLM(_config())
    same = BertForMaskedLM(_config())
    same.load_state_dict(model.state_dict())
    assert weights_sha256(model) == weights_sha256(same)
    with torch.no_grad():
        same.bert.embeddings.LayerNorm.bias[0] += 1e-3
    assert weights_sha256(model) != weights_sha256(same)

"""Parameter counts of published models: complete, with sources, read from the package."""

from __future__ import annotations

import re

import pytest

from edgedistil.report.language_models import language_model_table, language_models


def test_every_model_has_a_year_a_count_and_a_source() -> None:
    models = language_models()
    assert len(models) >= 10
    assert len({model.name for model in models}) == len(models)
    for model in models:
        assert 2018 <= model.year <= 2026
        assert model.parameters > 0
        assert re.match(r"[A-Z]\w+ et al\. \d{4}[;,] .", model.source), (
            "the paper, then what confirmed the count"
        )


def test_the_models_of_the_paper_are_listed() -> None:
    counts = {model.name: model.parameters for model in language_models()}
    assert (counts["BERT-base"], counts["DistilBERT"]) == (110, 66)


def test_table_is_smallest_first() -> None:
    rows = language_model_table(language_models()).rows
    assert rows[0][0] == "ALBERT-base"
    assert rows[-1][:3] == ["GPT-3", "2020", "175,000"]


def test_counts_marked_as_counted_match_transformers() -> None:
    import torch
    from transformers import AlbertConfig, BertConfig, GPT2Config, MobileBertConfig, OpenAIGPTConfig
    from transformers.models.auto.modeling_auto import AutoModel

    narrow = BertConfig(
        hidden_size=312, num_hidden_layers=4, num_attention_heads=12, intermediate_size=1200
    )
    shapes = {
        "ALBERT-base": AlbertConfig(
            hidden_size=768, num_attention_heads=12, intermediate_size=3072
        ),
        "GPT": OpenAIGPTConfig(),
        "GPT-2": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
        "MobileBERT": MobileBertConfig(),
        "TinyBERT-4": narrow,
    }
    listed = {model.name: model.parameters for model in language_models()}
    assert {m.name for m in language_models() if "counted" in m.source} <= set(shapes)
    for name, shape in shapes.items():
        with torch.device("meta"):
            weights = sum(p.numel() for p in AutoModel.from_config(shape).parameters())
        assert weights / 1e6 == pytest.approx(
            listed[name], abs=0.5 if listed[name] > 1000 else 0.06
        ), name

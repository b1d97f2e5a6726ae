"""Parameter counts of published models: complete, sourced, read from the package, drawn without names that collide."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistil.report.language_models import LanguageModel, language_model_table, language_models
from edgedistil.report.plots import parameter_counts, spread


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


def test_the_papers_pair_is_there() -> None:
    counts = {model.name: model.parameters for model in language_models()}
    assert (counts["BERT-base"], counts["DistilBERT"]) == (110, 66)


def test_table_is_smallest_first() -> None:
    rows = language_model_table(language_models()).rows
    assert rows[0][0] == "ALBERT-base"
    assert rows[-1][:3] == ["GPT-3", "2020", "175,000"]


def test_no_two_names_of_a_year_overlap() -> None:
    crowd = [LanguageModel(f"model {i}", 2019, 110 + i / 7, "x") for i in range(7)]
    giant = LanguageModel(
        "giant", 2020, 175_000, "x"
    )  # what makes the scale as long as the real list's
    picture = parameter_counts([*crowd, giant], teacher=110_000_000, student=66_000_000)
    heights = [_height_of(picture, model.name) for model in crowd]
    assert all(lower - upper >= 9.5 for lower, upper in pairwise(heights)), heights


def _height_of(picture: str, name: str) -> float:
    """From the top, in points: a line of these names is 9.5 high."""
    text = re.search(rf'<text [^>]*?(?:translate\([\d.]+ |y=")([\d.]+)[^>]*>{name}</text>', picture)
    assert text, name
    return float(text.group(1))


@given(st.lists(st.floats(0, 3), min_size=1, max_size=11), st.floats(0.05, 0.4))
def test_spread_keeps_the_order_and_the_distance(values: list[float], apart: float) -> None:
    placed = spread(sorted(values), apart=apart)
    assert all(b - a >= apart - 1e-9 for a, b in pairwise(placed))
    assert sum(placed) == pytest.approx(sum(values), abs=1e-6)


def test_spread_leaves_alone_what_is_far_apart() -> None:
    assert spread([1.0, 2.0, 5.0], apart=0.5) == [1.0, 2.0, 5.0]


def test_counts_that_say_counted_are_counted() -> None:
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

"""Shapes of well-known teachers have the published numbers of parameters."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel

from edgedistil.core.family import FAMILIES
from edgedistil.distill.plan.presets import known_teacher
from edgedistil.models.reduced import build_from_config

# Millions of parameters, from the model's card or the sizes of its weights.
PUBLISHED = {
    "bert-base-uncased": 110,
    "bert-large-uncased": 335,
    "roberta-base": 125,
    "FacebookAI/roberta-large": 355,
    "xlm-roberta-base": 278,
    "BAAI/bge-small-en-v1.5": 33.4,
    "BAAI/bge-base-en-v1.5": 109,
    "intfloat/e5-large-v2": 335,
    "intfloat/multilingual-e5-small": 118,
    "intfloat/multilingual-e5-base": 278,
    "thenlper/gte-base": 109,
    "Alibaba-NLP/gte-modernbert-base": 149,
}


@pytest.mark.parametrize("source", sorted(PUBLISHED))
def test_parameters_are_the_published_ones(source: str) -> None:
    known = known_teacher(source)
    assert known is not None
    config = known.config()
    assert config.model_type in FAMILIES
    with torch.device("meta"):
        model = build_from_config(AutoModel, config)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[source], rel=0.01)


def test_sentence_encoders_have_their_pooling_and_others_none() -> None:
    poolings = {}
    for source in ("BAAI/bge-base-en-v1.5", "intfloat/e5-base-v2", "roberta-base"):
        known = known_teacher(source)
        assert known is not None
        vector = known.vector()
        poolings[source] = None if vector is None else (vector.pooling, vector.is_normalized)
    assert poolings == {
        "BAAI/bge-base-en-v1.5": (("cls",), True),
        "intfloat/e5-base-v2": (("mean",), True),
        "roberta-base": None,
    }


def test_another_teacher_is_unknown() -> None:
    assert known_teacher("no-owner/no-model") is None

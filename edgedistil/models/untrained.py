"""Students with random weights: their sizes and times are those of trained ones."""

from __future__ import annotations

import copy

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import EMBEDDING_RANK
from edgedistil.models.heads import set_pruned_heads
from edgedistil.models.reduced import build_from_config, class_for
from edgedistil.models.student import alternate_layers, distilbert_config


def untrained_student(
    teacher: PreTrainedConfig,
    *,
    layers: int,
    intermediate: int,
    heads: int,
    vocabulary: int,
    embedding: int | None = None,
) -> PreTrainedModel:
    """Builds the encoder of a student of these sizes, with random weights.

    Args:
        teacher: Config of the teacher.
        layers: Depth.
        intermediate: Units of the feed-forward.
        heads: Attention heads of a layer.
        vocabulary: Rows of the word-embedding matrix.
        embedding: Width of factorised word embeddings; None: as the teacher's.
    """
    config = _student_config(teacher, alternate_layers(teacher.num_hidden_layers, layers))
    keys = FAMILIES[config.model_type].keys
    config.vocab_size = vocabulary
    setattr(config, keys.intermediate, intermediate)
    present = getattr(config, keys.heads)
    # Which heads are missing makes no difference to sizes and times.
    if heads < present:
        set_pruned_heads(config, {str(i): list(range(heads, present)) for i in range(layers)})
    if embedding is not None:
        setattr(config, EMBEDDING_RANK, embedding)
    model_class = class_for(AutoModel, config)
    # The caller's random state is left as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_from_config(model_class, config)
    return model.eval().requires_grad_(False)


def _student_config(teacher: PreTrainedConfig, layer_map: list[int]) -> PreTrainedConfig:
    if teacher.model_type == "bert":
        return distilbert_config(teacher, layer_map, 0.0)
    config = copy.deepcopy(teacher)
    config.num_hidden_layers = len(layer_map)
    return config

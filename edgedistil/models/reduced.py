"""Classes for models that transformers has none for: fewer heads, factorised word embeddings."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _get_model_class

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import EMBEDDING_RANK, PRUNED_HEADS


def class_for(model_class: Any, config: PreTrainedConfig) -> Any:
    """Returns a class, or auto class, that builds models with the parts that a config reduces.

    transformers 5 ignores `pruned_heads` and `embedding_rank`: its class would ask for the complete
    weights.

    Args:
        model_class: The class; itself is returned for a config that reduces nothing.
        config: The model's config.
    """
    if not any(getattr(config, key, None) for key in (PRUNED_HEADS, EMBEDDING_RANK)):
        return model_class
    # An auto class chooses by the config.
    if hasattr(model_class, "_model_mapping"):
        model_class = _get_model_class(config, model_class._model_mapping)
    return model_class if hasattr(model_class, "builds_reduced") else _subclass(model_class)


def build_from_config(
    model_class: Any, config: PreTrainedConfig, **settings: Any
) -> PreTrainedModel:
    """Returns a model of a class, or auto class, whose weights are drawn.

    Args:
        model_class: The class.
        config: The model's config.
        settings: Passed on, for example `dtype`.
    Raises:
        ValueError: The auto class has no class for this family.
    """
    # An auto class has the public method only.
    make = getattr(model_class, "from_config", None) or model_class._from_config
    model: PreTrainedModel = make(config, **settings)
    return model


@cache
def _subclass(model_class: Any) -> Any:
    """A class of the same name, which becomes the config's architecture, with reduced parts."""

    def build(self: Any, config: PreTrainedConfig, *arguments: Any, **settings: Any) -> None:
        # The modules are replaced behind transformers' own, so that no family needs code.
        model_class.__init__(self, config, *arguments, **settings)
        if getattr(config, PRUNED_HEADS, None):
            _shrink_attentions(self)
        if getattr(config, EMBEDDING_RANK, None):
            _factorise(self)

    # transformers reads the source of the module that a class says it is from.
    names = {"__module__": model_class.__module__, "__qualname__": model_class.__qualname__}
    return type(model_class)(
        model_class.__name__,
        (model_class,),
        {**names, "__init__": build, "builds_reduced": True},
    )


# --- attention -----------------------------------------------------------------------------------


def attentions(model: PreTrainedModel) -> list[list[Any]]:
    """Returns query, key, value and output projection of each layer."""
    names = FAMILIES[model.config.model_type].names
    layers: Any = model.base_model.get_submodule(names.layers)
    assert names.attention is not None
    return [[layer.get_submodule(name) for name in names.attention] for layer in layers]


def _shrink_attentions(model: PreTrainedModel) -> None:
    """Replaces the projections of every attention by drawn ones with fewer heads."""
    config = model.config
    family = FAMILIES[config.model_type]
    width = family.heads(config.to_dict()) * family.head_width(config.to_dict())
    for query, key, value, output in attentions(model):
        for linear in (query, key, value):
            _resize(model, linear, linear.in_features, width)
        _resize(model, output, width, output.out_features)


def _resize(model: PreTrainedModel, linear: nn.Linear, inputs: int, outputs: int) -> None:
    # In place: the module keeps its name in its parent.
    linear.__init__(inputs, outputs)  # type: ignore[misc]
    model._init_weights(linear)


# --- word embeddings -----------------------------------------------------------------------------


class FactorisedEmbedding(nn.Embedding):
    """Word embeddings of a low rank: rows of E numbers, and a projection to D.

    One lookup and one matrix multiplication. `embedding_dim` is E.
    """

    def __init__(self, vocabulary: int, rank: int, hidden: int, padding_id: int | None) -> None:
        """Draws both matrices.

        Args:
            vocabulary: Rows, V.
            rank: Numbers of a row, E.
            hidden: Width of the states, D.
            padding_id: Row that receives no gradient; None for none.
        """
        super().__init__(vocabulary, rank, padding_idx=padding_id)
        self.projection = nn.Linear(rank, hidden, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the vectors of tokens, (B, L) → (B, L, D)."""
        vectors_BLD: Tensor = self.projection(super().forward(input))
        return vectors_BLD


def _factorise(model: PreTrainedModel) -> None:
    """Replaces the word embeddings by drawn ones of the config's rank."""
    if model.get_output_embeddings() is not None:
        raise ModelError(
            "factorised word embeddings are not supported under an MLM head",
            hint="they are for encoders and for task heads",
        )
    embeddings: Any = model.get_input_embeddings()
    rank = getattr(model.config, EMBEDDING_RANK)
    factors = FactorisedEmbedding(
        embeddings.num_embeddings, rank, embeddings.embedding_dim, embeddings.padding_idx
    )
    for module in (factors, factors.projection):
        model._init_weights(module)
    model.set_input_embeddings(factors)

"""Students whose word embeddings are a product of two smaller matrices."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import EMBEDDING_RANK
from edgedistil.models.reduced import FactorisedEmbedding, class_for


def factorise_embeddings(encoder: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Returns the encoder with word embeddings of a rank: V × E and E × D instead of V × D.

        W ≈ A B,   A = U_E √S_E,  B = √S_E V_Eᵀ   of the singular value decomposition W = U S Vᵀ

    The nearest product of this rank; equal shares of the singular values let both factors have
    gradients and rounding errors of one size.

    Args:
        encoder: The encoder, without a head.
        rank: E, at most the rows and the width of the matrix.
    Raises:
        ModelError: The rank is not possible, or the family has factorised embeddings already.
    Source: Lan et al. 2020 (ALBERT, arXiv 1909.11942), §3.1; Eckart and Young 1936.
    Differs from: ALBERT's positions and segments are added before the projection, ours behind it,
        so that at full rank the outputs are those of the encoder.
    """
    words: Tensor = encoder.get_input_embeddings().weight
    _check_rank(
        encoder, rank, largest=min(words.shape), reason="the matrix itself has no higher rank"
    )
    # The encoder itself is not changed.
    config = copy.deepcopy(encoder.config)
    setattr(config, EMBEDDING_RANK, rank)
    # Its weights are replaced, and drawing them must not shift the caller's random state.
    with torch.random.fork_rng(devices=[]):
        factorised: PreTrainedModel = class_for(type(encoder), config)(config)
    rows_VE, columns_ED = _factors(words.detach(), rank)
    names = {id(module): name for name, module in factorised.named_modules()}
    # Every other weight is the encoder's own.
    name = names[id(factorised.get_input_embeddings())]
    weights = encoder.state_dict()
    weights[f"{name}.weight"] = rows_VE
    weights[f"{name}.projection.weight"] = columns_ED.T
    # A pooler that was removed from the encoder is not to be drawn.
    if getattr(encoder, "pooler", None) is None and hasattr(factorised, "pooler"):
        factorised.pooler = None
    factorised.load_state_dict(weights)
    return factorised.train(encoder.training)


def check_rank(model: PreTrainedModel, rank: int) -> None:
    """Raises ModelError unless a rank makes a model's word embeddings smaller."""
    family, config = FAMILIES[model.config.model_type], model.config.to_dict()
    rows, width = family.vocabulary(config), family.hidden(config)
    # V·E + E·D < V·D
    largest = (rows * width - 1) // (rows + width)
    _check_rank(
        model, rank, largest=largest, reason="above it two matrices are not smaller than one"
    )


def _check_rank(model: PreTrainedModel, rank: int, *, largest: int, reason: str) -> None:
    family, config = FAMILIES[model.config.model_type], model.config.to_dict()
    if family.mixes_neighbours or family.factorises(config):
        raise ModelError(
            f"student.embedding is {rank}, and this {family.model_type} has factorised word "
            "embeddings already",
            hint="leave the key out",
        )
    if not 1 <= rank <= largest:
        raise ModelError(
            f"student.embedding is {rank}; expected 1 to {largest:,}: {reason}",
            hint="leave the key out for embeddings as wide as the states",
        )


def _factors(words_VD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (V, E) and (E, D) whose product is nearest to a matrix."""
    # From the D × D products: V is large, and double precision leaves enough digits.
    values_D, vectors_DD = torch.linalg.eigh(words_VD.double().T @ words_VD.double())
    vectors_DE = vectors_DD.flip(1)[:, :rank]
    roots_E = values_D.flip(0)[:rank].clamp(min=0) ** 0.25
    # A direction without words has no share; dividing by its root would.
    inverse_E = torch.where(roots_E > 0, 1 / roots_E.clamp(min=1e-30), torch.zeros_like(roots_E))
    rows_VE = words_VD.double() @ vectors_DE * inverse_E
    columns_ED = roots_E[:, None] * vectors_DE.T
    return rows_VE.to(words_VD.dtype), columns_ED.to(words_VD.dtype)


def is_factorised(model: PreTrainedModel) -> bool:
    """Whether a model's word embeddings are a product of two matrices."""
    return isinstance(model.get_input_embeddings(), FactorisedEmbedding)

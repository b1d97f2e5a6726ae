"""DeBERTa as the tracer sees it: attention with vectors of distances as one node.

DeBERTa's attention adds two products to the scores: the query with a vector for the distance of the
key, and the key with a vector for the distance of the query. transformers computes the vectors and
the buckets of the distances in every layer of every call. Here both are constants, and an attention
is one node that `passes.disentangled` lowers to operators of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.deberta.modeling_deberta import DebertaLayerNorm
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from edgedistil.export.passes.attention import DOMAIN
from edgedistil.export.passes.disentangled import DISENTANGLED_ATTENTION
from edgedistil.export.traced_parts import Part, linear_of, sources_of, with_forward
from edgedistil.parity.formula import Formula, call

# Buffers that are added to the encoder for the time of a trace.
_DOWN, _UP = "rows_down", "rows_up"


@contextmanager
def disentangled_form(model: PreTrainedModel) -> Iterator[None]:
    """Replaces attention, embeddings and DeBERTa's own LayerNorm, until the end."""
    encoder: Any = model.base_model.encoder
    sources = sources_of(model)
    with ExitStack() as stack:
        if encoder.relative_attention:
            stack.enter_context(_distance_buffers(encoder, model.config))
        for layer in encoder.layer:
            attention = layer.attention.self
            stack.enter_context(_packed_projections(attention, sources))
            stack.enter_context(with_forward(attention, _attention_forward(attention, encoder)))
        for module in model.modules():
            if isinstance(module, DebertaLayerNorm):
                stack.enter_context(with_forward(module, _layer_norm_forward(module)))
        stack.enter_context(_unmasked_embeddings(model.base_model))
        yield


# --- distances -----------------------------------------------------------------------------------


@contextmanager
def _distance_buffers(encoder: Any, config: Any) -> Iterator[None]:
    """Adds the row of each distance's vector, for every distance that a text can have."""
    longest, span = config.max_position_embeddings, _span(encoder)
    # From query minus key = P - 1 down to -P, and from 1 - P up to P.
    down = torch.arange(longest - 1, -longest - 1, -1)
    up = torch.arange(1 - longest, longest + 1)
    largest_row = 2 * span - 1
    buffers = {
        _DOWN: (_bucket(down, encoder) + span).clamp(0, largest_row),
        # A key reads the distance from itself to the query, with the sign turned.
        _UP: (span - _bucket(-up, encoder)).clamp(0, largest_row),
    }
    for name, buffer in buffers.items():
        encoder.register_buffer(name, buffer)
    try:
        yield
    finally:
        for name in buffers:
            delattr(encoder, name)


def _span(encoder: Any) -> int:
    """Distances on each side that have a vector of their own."""
    buckets = getattr(encoder, "position_buckets", -1)
    return int(buckets if buckets > 0 else encoder.max_relative_positions)


def _bucket(distances: Tensor, encoder: Any) -> Tensor:
    """Distances as v2 and v3 group them: exact near the token, then ever coarser."""
    buckets = getattr(encoder, "position_buckets", -1)
    if buckets <= 0:
        return distances
    longest = encoder.max_relative_positions
    grouped: Tensor = make_log_bucket_position(distances, buckets, longest)
    return grouped.to(torch.int64)


# --- attention -----------------------------------------------------------------------------------


class _DisentangledAttention(torch.autograd.Function):
    """Attention with vectors of distances as one node: (B, L, H · D) three times → (B, L, H · D).

    `pos_key_RW` and `pos_query_RW` are the vectors of distances that query and key are multiplied
    with; None for a model without that product.
    """

    @staticmethod
    def forward(_ctx: Any, *values: Any) -> Tensor:
        """Computes the attention; the tests compare it with transformers'."""
        q, k, v, mask_B1LL, rows_down, rows_up, pos_key_RW, pos_query_RW, heads, scale = values
        L = q.shape[1]
        q_BHLD, k_BHLD, v_BHLD = (_split(states, heads) for states in (q, k, v))
        scores = q_BHLD @ k_BHLD.transpose(-1, -2)
        places = torch.arange(L)
        # Entry P - 1 - d of `rows_down` and P - 1 + d of `rows_up` is that of the distance d.
        distances = places[:, None] - places[None]
        if pos_key_RW is not None:
            rows = rows_down[len(rows_down) // 2 - 1 - distances]
            vectors = pos_key_RW[rows].unflatten(-1, (heads, -1))
            scores = scores + torch.einsum("bhid,ijhd->bhij", q_BHLD, vectors)
        if pos_query_RW is not None:
            rows = rows_up[len(rows_up) // 2 - 1 + distances]
            vectors = pos_query_RW[rows].unflatten(-1, (heads, -1))
            scores = scores + torch.einsum("bhjd,ijhd->bhij", k_BHLD, vectors)
        hidden = mask_B1LL == 0
        scores = (scores * scale).masked_fill(hidden, torch.finfo(scores.dtype).min)
        context: Tensor = (scores.softmax(-1) @ v_BHLD).transpose(1, 2).flatten(2)
        return context

    @staticmethod
    def symbolic(g: Any, *values: Any) -> Any:
        """Emits the node; the tracer calls it instead of tracing `forward`."""
        *tensors, heads, scale = values
        empty = g.op("Constant", value_t=torch.zeros(0))
        inputs = [empty if tensor is None else tensor for tensor in tensors]
        name = f"{DOMAIN}::{DISENTANGLED_ATTENTION}"
        return g.op(name, *inputs, heads_i=heads, scale_f=scale).setType(tensors[0].type())


def _split(states_BLW: Tensor, heads: int) -> Tensor:
    B, L, _ = states_BLW.shape
    return states_BLW.reshape(B, L, heads, -1).transpose(1, 2)


def _attention_forward(module: Any, encoder: Any) -> Any:
    """Forward pass of an attention, as one node."""
    heads = module.num_attention_heads
    scale = (module.attention_head_size * _terms(module)) ** -0.5

    def forward(
        hidden_BLD: Tensor,
        mask_B1LL: Tensor,
        *_unused: Any,
        rel_embeddings: Any,
        **_named: Any,
    ) -> Any:
        # First, so that their nodes have the names of their modules.
        q, k, v = (
            linear(hidden_BLD) for linear in (module.query_proj, module.key_proj, module.value_proj)
        )
        rows_down, rows_up, pos_key, pos_query = None, None, None, None
        if module.relative_attention:
            if "c2p" in module.pos_att_type:
                rows_down, pos_key = getattr(encoder, _DOWN), _pos_key(module)(rel_embeddings)
            if "p2c" in module.pos_att_type:
                rows_up, pos_query = getattr(encoder, _UP), _pos_query(module)(rel_embeddings)
        inputs = q, k, v, mask_B1LL, rows_down, rows_up, pos_key, pos_query
        context = _DisentangledAttention.apply(*inputs, heads, scale)  # type: ignore[no-untyped-call]
        return context, None

    return forward


def _terms(module: Any) -> int:
    """Number of products that the scores are a sum of."""
    return 1 + sum(kind in module.pos_att_type for kind in ("c2p", "p2c"))


def _pos_key(module: Any) -> nn.Module:
    """Linear layer that makes the vectors which queries are multiplied with."""
    if hasattr(module, "pos_proj"):
        linear: nn.Module = module.pos_proj
        return linear
    shared: nn.Module = module.key_proj if module.share_att_key else module.pos_key_proj
    return shared


def _pos_query(module: Any) -> nn.Module:
    """Linear layer that makes the vectors which keys are multiplied with."""
    if hasattr(module, "pos_q_proj"):
        linear: nn.Module = module.pos_q_proj
        return linear
    shared: nn.Module = module.query_proj if module.share_att_key else module.pos_query_proj
    return shared


@contextmanager
def _packed_projections(module: Any, sources: Mapping[int, Formula]) -> Iterator[None]:
    """Gives the first DeBERTa's attention a linear layer each for query, key and value.

    Its one weight has the rows of a head's query, key and value behind each other, so a layer of
    its own needs a copy of its rows.
    """
    if not hasattr(module, "in_proj"):
        yield
        return
    weights = _head_blocks(module, sources[id(module.in_proj.weight)])
    biases = [Part(module.q_bias, sources[id(module.q_bias)]), None]
    biases.append(Part(module.v_bias, sources[id(module.v_bias)]))
    names = ("query_proj", "key_proj", "value_proj")
    for name, weight, bias in zip(names, weights, biases, strict=True):
        module.add_module(name, linear_of(weight, bias))
    try:
        yield
    finally:
        for name in names:
            delattr(module, name)


def _head_blocks(module: Any, packed: Formula) -> list[Part]:
    """Rows of query, key and value in the one weight of the first DeBERTa."""
    weight_NK = module.in_proj.weight.detach()
    W, K = weight_NK.shape[0] // 3, weight_NK.shape[1]
    shape = [module.num_attention_heads, 3, -1, K]
    by_head = call("reshape", packed, str(shape))
    parts = []
    for index in range(3):
        rows = weight_NK.reshape(shape)[:, index].reshape(W, K).contiguous()
        taken = call("take", by_head, str(index), str(1))
        parts.append(Part(rows, call("reshape", taken, str([W, K]))))
    return parts


# --- other modules -------------------------------------------------------------------------------


def _layer_norm_forward(module: Any) -> Any:
    """Forward pass of the first DeBERTa's LayerNorm, as one operator."""

    def forward(hidden: Tensor) -> Tensor:
        shape = tuple(module.weight.shape)
        return F.layer_norm(hidden, shape, module.weight, module.bias, module.variance_epsilon)

    return forward


@contextmanager
def _unmasked_embeddings(encoder: Any) -> Iterator[None]:
    """Leaves the embeddings at padding as they are; no token attends to them."""

    def drop_mask(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "mask": None}

    hook = encoder.embeddings.register_forward_pre_hook(drop_mask, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()

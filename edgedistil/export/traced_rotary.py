"""Encoders with rotary positions as the tracer sees them: attention and RMSNorm as one node each.

ModernBERT, NomicBERT and EuroBERT rotate query and key by the token's place, and some layers attend
to a window around each token only. Transformers' own forward pass computes angles, masks and the
repeated heads in many small operators. Here an attention is one node with the tables of the angles
as inputs, which `passes.rotary` lowers to operators of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.eurobert.modeling_eurobert import EuroBertRMSNorm
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer

from edgedistil.export.passes.attention import DOMAIN
from edgedistil.export.passes.normalisation import RMS_NORM
from edgedistil.export.passes.rotary import ROTARY_ATTENTION
from edgedistil.export.traced_parts import Part, linear_of, sources_of, with_forward
from edgedistil.parity.formula import Formula, call


@contextmanager
def rotary_form(model: PreTrainedModel) -> Iterator[None]:
    """Replaces the forward passes of attention, gated feed-forward and RMSNorm, until the end."""
    encoder: Any = model.base_model
    rotary, sources = encoder.rotary_emb, sources_of(model)
    tables = _add_tables(rotary, model.config)
    with ExitStack() as stack:
        for layer in encoder.layers:
            if isinstance(layer, ModernBertEncoderLayer):
                angles = tables[layer.attention_type].of(rotary)
                stack.enter_context(_packed_attention(layer.attn, angles, sources))
                stack.enter_context(_packed_feed_forward(layer.mlp, sources))
            else:
                stack.enter_context(_attention(layer.self_attn, tables[None].of(rotary)))
        for module in encoder.modules():
            if isinstance(module, EuroBertRMSNorm):
                stack.enter_context(_rms_norm(module))
        try:
            yield
        finally:
            for table in tables.values():
                table.remove(rotary)


# --- angles --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """Names of the buffers with cosine and sine of each position, (P, D/2)."""

    cos: str
    sin: str

    def of(self, rotary: nn.Module) -> tuple[Tensor, Tensor]:
        """The two tensors."""
        return getattr(rotary, self.cos), getattr(rotary, self.sin)

    def remove(self, rotary: nn.Module) -> None:
        """Removes the buffers."""
        delattr(rotary, self.cos)
        delattr(rotary, self.sin)


def _add_tables(rotary: Any, config: Any) -> dict[str | None, _Table]:
    """Adds the angles of every position to the module that computes them: kind of layer → names."""
    positions = torch.arange(config.max_position_embeddings)[None]
    kinds: list[str | None] = [None]
    if isinstance(rotary.rope_type, dict):
        kinds = list(rotary.rope_type)
    tables = {}
    for kind in kinds:
        extra = () if kind is None else (kind,)
        # The module scales and rounds them as it does for a text.
        cos_1PD, sin_1PD = rotary(torch.zeros(1), positions, *extra)
        half = cos_1PD.shape[-1] // 2
        table = _Table(*(f"{name}_{kind}" if kind else name for name in ("cos", "sin")))
        # Both halves of a head have the same angles.
        rotary.register_buffer(table.cos, cos_1PD[0, :, :half].contiguous())
        rotary.register_buffer(table.sin, sin_1PD[0, :, :half].contiguous())
        tables[kind] = table
    return tables


# --- attention -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shape:
    """What an attention node computes.

    Attributes:
        heads: Heads of the query.
        kv_heads: Heads of key and value; each serves `heads // kv_heads` of the query's.
        scale: Factor of the scores.
        window: Distance up to which a token attends to others; -1: to all.
    """

    heads: int
    kv_heads: int
    scale: float
    window: int


class _RotaryAttention(torch.autograd.Function):
    """Attention with rotated query and key as one node: three times (B, L, W) → (B, L, W)."""

    @staticmethod
    def forward(
        _ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask_BL: Tensor,
        cos_PD: Tensor,
        sin_PD: Tensor,
        shape: _Shape,
    ) -> Tensor:
        """Computes the attention; the tests compare it with transformers'."""
        L = q.shape[1]
        angles = cos_PD[:L], sin_PD[:L]
        q_BHLD = _rotate(_split(q, shape.heads), *angles)
        k_BHLD = _rotate(_split(k, shape.kv_heads), *angles)
        repeats = shape.heads // shape.kv_heads
        k_BHLD = k_BHLD.repeat_interleave(repeats, dim=1)
        v_BHLD = _split(v, shape.kv_heads).repeat_interleave(repeats, dim=1)
        hidden = mask_BL[:, None, None, :] == 0
        if shape.window >= 0:
            places = torch.arange(L)
            hidden = hidden | ((places[:, None] - places[None]).abs() > shape.window)
        scores = q_BHLD @ k_BHLD.transpose(-1, -2) * shape.scale
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
        return (weights @ v_BHLD).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(
        g: Any, q: Any, k: Any, v: Any, mask_BL: Any, cos_PD: Any, sin_PD: Any, shape: _Shape
    ) -> Any:
        """Emits the node; the tracer calls it instead of tracing `forward`."""
        node = g.op(
            f"{DOMAIN}::{ROTARY_ATTENTION}",
            q,
            k,
            v,
            mask_BL,
            cos_PD,
            sin_PD,
            heads_i=shape.heads,
            kv_heads_i=shape.kv_heads,
            scale_f=shape.scale,
            window_i=shape.window,
        )
        return node.setType(q.type())


def _attend(*inputs: Any) -> Any:
    """Calls the node."""
    return _RotaryAttention.apply(*inputs)  # type: ignore[no-untyped-call]


def _split(states_BLW: Tensor, heads: int) -> Tensor:
    B, L, _ = states_BLW.shape
    return states_BLW.reshape(B, L, heads, -1).transpose(1, 2)


def _rotate(states_BHLD: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
    first, second = states_BHLD.chunk(2, dim=-1)
    return torch.cat([first * cos_LD - second * sin_LD, second * cos_LD + first * sin_LD], dim=-1)


def _packed_attention(
    module: Any, table: tuple[Tensor, Tensor], sources: Mapping[int, Formula]
) -> AbstractContextManager[None]:
    """ModernBERT's attention, whose query, key and value are rows of one weight."""
    added = dict(zip(("query", "key", "value"), _row_blocks(module.Wqkv, 3, sources), strict=True))
    config = module.config
    shape = _Shape(
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        scale=float(module.head_dim**-0.5),
        window=-1 if module.sliding_window is None else config.sliding_window,
    )

    def forward(hidden_BLD: Tensor, *, attention_mask: Tensor, **_unused: Any) -> Any:
        q, k, v = module.query(hidden_BLD), module.key(hidden_BLD), module.value(hidden_BLD)
        return module.Wo(_attend(q, k, v, attention_mask, *table, shape)), None

    return with_forward(module, forward, **added)


def _attention(module: Any, table: tuple[Tensor, Tensor]) -> AbstractContextManager[None]:
    """Attention of NomicBERT and EuroBERT."""
    config = module.config
    shape = _Shape(
        heads=config.num_attention_heads,
        # EuroBERT's heads of key and value are fewer; NomicBERT has no such setting.
        kv_heads=getattr(config, "num_key_value_heads", config.num_attention_heads),
        scale=float(module.scaling),
        window=-1,
    )

    def forward(hidden_states: Tensor, *, attention_mask: Tensor, **_unused: Any) -> Any:
        projections = module.q_proj, module.k_proj, module.v_proj
        states = [projection(hidden_states) for projection in projections]
        return module.o_proj(_attend(*states, attention_mask, *table, shape)), None

    return with_forward(module, forward)


# --- feed-forward --------------------------------------------------------------------------------


def _packed_feed_forward(
    module: Any, sources: Mapping[int, Formula]
) -> AbstractContextManager[None]:
    """ModernBERT's feed-forward, whose two input projections are rows of one weight."""
    added = dict(zip(("up", "gate"), _row_blocks(module.Wi, 2, sources), strict=True))

    def forward(hidden_BLD: Tensor) -> Any:
        return module.Wo(module.act(module.up(hidden_BLD)) * module.gate(hidden_BLD))

    return with_forward(module, forward, **added)


def _row_blocks(linear: nn.Linear, count: int, sources: Mapping[int, Formula]) -> list[nn.Linear]:
    """Linear layers of equal parts of another one's outputs, in the same memory.

    Two MatMuls that write two tensors save the copies that take one tensor apart.
    """
    weights = _chunks(linear.weight, count, sources)
    if linear.bias is None:
        return [linear_of(weight, None) for weight in weights]
    biases = _chunks(linear.bias, count, sources)
    return [linear_of(*block) for block in zip(weights, biases, strict=True)]


def _chunks(tensor: Tensor, count: int, sources: Mapping[int, Formula]) -> list[Part]:
    formula, rows = sources[id(tensor)], tensor.shape[0] // count
    parts = []
    for index, chunk in enumerate(tensor.chunk(count)):
        start = index * rows
        parts.append(Part(chunk, call("slice", formula, start=start, stop=start + rows)))
    return parts


# --- RMSNorm -------------------------------------------------------------------------------------


class _RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x²) + ε) · weight as one node."""

    @staticmethod
    def forward(_ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Computes the norm, so that the traced forward pass has correct values."""
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + epsilon) * weight

    @staticmethod
    def symbolic(g: Any, hidden: Any, weight: Any, epsilon: float) -> Any:
        """Emits the node; the tracer calls it instead of tracing `forward`."""
        node = g.op(f"{DOMAIN}::{RMS_NORM}", hidden, weight, epsilon_f=epsilon)
        return node.setType(hidden.type())


def _rms_norm(module: Any) -> AbstractContextManager[None]:
    epsilon = float(module.variance_epsilon)

    def forward(hidden_BLD: Tensor) -> Any:
        return _RmsNorm.apply(hidden_BLD, module.weight, epsilon)  # type: ignore[no-untyped-call]

    return with_forward(module, forward)

"""The fast path through BERT and DistilBERT: the encoder alone, and the MLM head taken apart.

How a training loop stays fast:

    teacher = freeze_teacher(model, dtype=torch.bfloat16)
    with freed_memory_kept():                                                   # around the whole loop, on a CPU
        student_BLD, head = encode_with_head(student, input_ids_BL, mask_BL)    # None as mask where nothing is padded
        with torch.no_grad():
            teacher_BLD = encode(teacher, input_ids_BL, mask_BL)
        loss = distillation_loss(student_BLD, teacher_BLD, …, head, mlm_head(teacher), …)

Calling a `…ForMaskedLM` itself projects every position onto the vocabulary, which costs more than the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.models.fast.dropout import attention, dropped
from edgedistil.models.fast.layer import LayerSettings, transformer_layer

EncoderWithHead: TypeAlias = BertForMaskedLM | DistilBertForMaskedLM


@dataclass(frozen=True)
class MlmHead:
    """An MLM head in its two parts: hidden states → `transform` → projection onto the vocabulary.

    Attributes:
        transform: Dense layer, activation and LayerNorm.
        weight_VD: Projection, tied to the word embeddings.
    """

    transform: nn.Module
    weight_VD: Tensor
    bias_V: Tensor


class _Tied(torch.autograd.Function):
    """Rows of a table, and the table itself for another use."""

    @staticmethod
    def forward(
        ctx: Any, table_VD: Tensor, ids_BL: Tensor, padding_id: int | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids_BL)
        ctx.shape, ctx.padding_id = table_VD.shape, padding_id
        ctx.set_materialize_grads(False)
        return F.embedding(ids_BL, table_VD), table_VD.view_as(table_VD)

    @staticmethod
    def backward(
        ctx: Any, grad_BLD: Tensor | None, grad_VD: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        if grad_BLD is None:
            return grad_VD, None, None
        (ids_BL,) = ctx.saved_tensors
        if grad_VD is None:
            grad_VD = torch.zeros(ctx.shape, dtype=grad_BLD.dtype, device=grad_BLD.device)
        if ctx.padding_id is not None:  # as an embedding does
            grad_BLD = grad_BLD.masked_fill((ids_BL == ctx.padding_id).unsqueeze(-1), 0)
        # In place: what comes from the projection was made for this, and nobody else reads it.
        own_VD = grad_VD if grad_VD.is_contiguous() else grad_VD.contiguous()
        return own_VD.index_add_(0, ids_BL.flatten(), grad_BLD.flatten(0, 1)), None, None


class _DistilBertTransform(nn.Module):
    def __init__(self, model: DistilBertForMaskedLM) -> None:
        super().__init__()
        self.dense, self.activation, self.norm = (
            model.vocab_transform,
            model.activation,
            model.vocab_layer_norm,
        )

    def forward(self, hidden_ND: Tensor) -> Tensor:
        out: Tensor = self.norm(self.activation(self.dense(hidden_ND)))
        return out


def mlm_head(model: EncoderWithHead) -> MlmHead:
    """The model's own head; its tensors are the model's parameters, not copies."""
    if isinstance(model, BertForMaskedLM):
        head = model.cls.predictions
        return MlmHead(head.transform, head.decoder.weight, head.decoder.bias)
    return MlmHead(
        _DistilBertTransform(model), model.vocab_projector.weight, model.vocab_projector.bias
    )


def freeze_teacher(model: BertForMaskedLM, *, dtype: torch.dtype) -> BertForMaskedLM:
    """The model made ready for teaching, in place: weights in `dtype` (cast once), eval mode, no gradients.

    In place, because the weights as they were would cost more memory than the cast ones, for nothing.
    """
    model.to(dtype)
    return model.eval().requires_grad_(False)


def encode_with_head(
    model: EncoderWithHead, input_ids_BL: Tensor, attention_mask_BL: Tensor | None
) -> tuple[Tensor, MlmHead]:
    """`encode` and `mlm_head`, for a loss that projects: the table that both use gets one gradient, not a sum of two.

    An embedding's own gradient is as large as the table, and 0 but for a few rows; here these rows are added to the
    gradient that comes from the projection.
    """
    head, table = mlm_head(model), model.base_model.embeddings.word_embeddings
    if head.weight_VD is not table.weight or not table.weight.requires_grad:
        return encode(model, input_ids_BL, attention_mask_BL), head
    words_BLD, weight_VD = _Tied.apply(table.weight, input_ids_BL, table.padding_idx)  # type: ignore[no-untyped-call]
    hidden_BLD = _encode(model, words_BLD, attention_mask_BL)
    return hidden_BLD, replace(head, weight_VD=weight_VD)


def encode(
    model: EncoderWithHead, input_ids_BL: Tensor, attention_mask_BL: Tensor | None
) -> Tensor:
    """Last hidden states (B, L, D), the same as the model's own `base_model(…).last_hidden_state`.

    Under autocast everything between the embeddings and the end is in autocast's dtype: transformers' own forward pass
    leaves the residual stream in float32 there and casts it anew for each of the matrix products. In training mode
    dropout costs a tenth of PyTorch's on a CPU (see dropout.py).

    Args:
        attention_mask_BL: 0 at padding. Give None where nothing is padded: attention is faster without.
    """
    return _encode(
        model, model.base_model.embeddings.word_embeddings(input_ids_BL), attention_mask_BL
    )


def _encode(model: EncoderWithHead, words_BLD: Tensor, attention_mask_BL: Tensor | None) -> Tensor:
    kind = words_BLD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    bias_B11L = None
    if attention_mask_BL is not None:
        zeros = torch.zeros(attention_mask_BL.shape, dtype=dtype, device=attention_mask_BL.device)
        bias_B11L = zeros.masked_fill_(attention_mask_BL == 0, torch.finfo(dtype).min)[
            :, None, None, :
        ]
    dropout = _Dropout.of(model)
    with torch.autocast(kind, enabled=False):
        hidden_BLD = dropped(_embed(model, words_BLD).to(dtype), dropout.hidden)
        for layer in _layers(model):
            hidden_BLD = _layer(layer, hidden_BLD, bias_B11L, dropout)
    return hidden_BLD


@dataclass(frozen=True)
class _Dropout:
    """Probabilities that are in force; 0 in eval mode. BERT drops a layer's attention output, DistilBERT does not."""

    hidden: float
    attention_output: float
    attention: float

    @classmethod
    def of(cls, model: EncoderWithHead) -> _Dropout:
        if not model.training:
            return cls(0.0, 0.0, 0.0)
        config = model.config
        if isinstance(model, BertForMaskedLM):
            return cls(
                config.hidden_dropout_prob,
                config.hidden_dropout_prob,
                config.attention_probs_dropout_prob,
            )
        return cls(config.dropout, 0.0, config.attention_dropout)


@dataclass(frozen=True)
class _Layer:
    """The parts of a transformer layer, whatever the model calls them."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear
    output_norm: nn.LayerNorm
    heads: int
    exact_gelu: bool

    def weights(self) -> list[Tensor]:
        """As `transformer_layer` takes them."""
        parts = (self.query, self.key, self.value, self.attention_output, self.attention_norm,
                 self.up, self.down, self.output_norm)  # fmt: skip
        return [tensor for part in parts for tensor in (part.weight, part.bias)]


def _layers(model: EncoderWithHead) -> Iterator[_Layer]:
    heads = model.config.num_attention_heads
    if isinstance(model, BertForMaskedLM):
        for layer in model.bert.encoder.layer:
            own, out = layer.attention.self, layer.attention.output
            up, down = layer.intermediate, layer.output
            yield _Layer(own.query, own.key, own.value, out.dense, out.LayerNorm,
                         up.dense, up.intermediate_act_fn, down.dense, down.LayerNorm, heads,
                         model.config.hidden_act == "gelu")  # fmt: skip
        return
    for layer in model.distilbert.transformer.layer:
        own, ffn = layer.attention, layer.ffn
        yield _Layer(own.q_lin, own.k_lin, own.v_lin, own.out_lin, layer.sa_layer_norm,
                     ffn.lin1, ffn.activation, ffn.lin2, layer.output_layer_norm, heads,
                     model.config.activation == "gelu")  # fmt: skip


def _embed(model: EncoderWithHead, words_BLD: Tensor) -> Tensor:
    parts = model.base_model.embeddings
    positions_LD = parts.position_embeddings.weight[: words_BLD.shape[1]]
    if isinstance(model, BertForMaskedLM):
        positions_LD = positions_LD + parts.token_type_embeddings.weight[0]
    out: Tensor = parts.LayerNorm(words_BLD + positions_LD)
    return out


def _layer(
    layer: _Layer, hidden_BLD: Tensor, bias_B11L: Tensor | None, dropout: _Dropout
) -> Tensor:
    if layer.exact_gelu and hidden_BLD.device.type == "cpu" and not torch.compiler.is_compiling():
        epsilons = layer.attention_norm.eps, layer.output_norm.eps
        shape = LayerSettings(
            layer.heads, dropout.attention, dropout.attention_output, dropout.hidden, epsilons
        )
        return transformer_layer(hidden_BLD, bias_B11L, shape, layer.weights())
    query, key, value = (
        _linear(part, hidden_BLD).view(*hidden_BLD.shape[:2], layer.heads, -1).transpose(1, 2)
        for part in (layer.query, layer.key, layer.value)
    )
    attended = attention(query, key, value, bias_B11L, dropout=dropout.attention)
    attended_BLD = _linear(layer.attention_output, attended.transpose(1, 2).flatten(2))
    hidden_BLD = _norm(
        layer.attention_norm, hidden_BLD + dropped(attended_BLD, dropout.attention_output)
    )
    fed_BLD = _linear(layer.down, layer.activation(_linear(layer.up, hidden_BLD)))
    return _norm(layer.output_norm, hidden_BLD + dropped(fed_BLD, dropout.hidden))


def _linear(layer: nn.Linear, values: Tensor) -> Tensor:
    return F.linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))


def _norm(norm: nn.LayerNorm, values: Tensor) -> Tensor:
    return F.layer_norm(values, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

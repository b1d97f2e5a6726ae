"""The fast path through BERT and DistilBERT: the encoder alone, and the MLM head taken apart.

How a training loop stays fast:

    student_BLD = encode(student, input_ids_BL, attention_mask_BL)      # no logits; None as mask when nothing is padded
    with torch.inference_mode():
        teacher_BLD = encode(teacher, input_ids_BL, attention_mask_BL)  # teacher = frozen(model, dtype=torch.bfloat16)
    loss = distillation_loss(student_BLD, teacher_BLD, …, mlm_head(student), mlm_head(teacher), …)

Calling a `…ForMaskedLM` itself projects every position onto the vocabulary, which costs more than the encoder.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM, DistilBertForMaskedLM

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


class _DistilBertTransform(nn.Module):
    def __init__(self, model: DistilBertForMaskedLM) -> None:
        super().__init__()
        self.dense, self.activation, self.norm = model.vocab_transform, model.activation, model.vocab_layer_norm

    def forward(self, hidden_ND: Tensor) -> Tensor:
        out: Tensor = self.norm(self.activation(self.dense(hidden_ND)))
        return out


def encode(model: EncoderWithHead, input_ids_BL: Tensor, attention_mask_BL: Tensor | None) -> Tensor:
    """Last hidden states (B, L, D). Give no mask where nothing is padded: attention is faster without."""
    out: Tensor = model.base_model(input_ids=input_ids_BL, attention_mask=attention_mask_BL).last_hidden_state
    return out


def mlm_head(model: EncoderWithHead) -> MlmHead:
    """The model's own head; its tensors are the model's parameters, not copies."""
    if isinstance(model, BertForMaskedLM):
        head = model.cls.predictions
        return MlmHead(head.transform, head.decoder.weight, head.decoder.bias)
    return MlmHead(_DistilBertTransform(model), model.vocab_projector.weight, model.vocab_projector.bias)


def frozen(model: BertForMaskedLM, *, dtype: torch.dtype) -> BertForMaskedLM:
    """A copy for teaching: weights held in `dtype` (cast once, not at every step), eval mode, no gradients."""
    return copy.deepcopy(model).to(dtype).eval().requires_grad_(False)

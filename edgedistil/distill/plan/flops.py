"""FLOPs and memory of a distillation step, from the shapes of the models.

For devices on which a plan cannot time steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.core.recipe import Loss
from edgedistil.models.fast import projection

# Memory of the CUDA context and the libraries, about.
_CONTEXT_BYTES = 1 << 30
# Bytes per parameter of the student: float32 weight and gradient, two moments, 16-bit copy.
_STUDENT_BYTES = 4 + 4 + 8 + 2
# The teacher has 16-bit weights alone.
_TEACHER_BYTES = 2
# Float32 buffers of a chunk of logits: logits, probabilities and gradient of both sides.
_LOGITS_BUFFERS = 6


@dataclass(frozen=True)
class ModelShape:
    """Shape of an encoder with its MLM head.

    Attributes:
        layers: Number of layers.
        hidden: Width of the hidden states.
        embedding: Width of the word embeddings, which the MLM head projects with.
        intermediate: Width of the feed-forward layers.
        layer_weights: Weights of a layer's linear projections, which multiply every token.
        attention: Width of a layer's attention, all heads together.
        vocabulary: Number of tokens in the vocabulary.
        parameters: Parameters of the model, tied ones once.
    """

    layers: int
    hidden: int
    embedding: int
    intermediate: int
    layer_weights: int
    attention: int
    vocabulary: int
    parameters: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelShape:
        """Returns the shape of a model."""
        config, family = model.config, FAMILIES[model.config.model_type]
        # Counted on the modules: a layer of MobileBERT is narrower than its states, EuroBERT's keys
        # and values have fewer heads, and ALBERT's layers share one.
        stored = model.base_model.get_submodule(family.names.layers)
        linears = [part for part in stored.modules() if isinstance(part, nn.Linear)]
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            embedding=family.embedding(config.to_dict()),
            intermediate=getattr(config, family.keys.intermediate),
            layer_weights=sum(linear.weight.numel() for linear in linears) // len(stored),
            attention=_attention_width(family, config.to_dict()),
            vocabulary=config.vocab_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )

    def encoder_flops(self, length: int) -> float:
        """Returns the FLOPs of one token in a forward pass of the encoder.

        Two for each weight that multiplies it, and attention over `length` tokens.
        """
        return self.layers * (2.0 * self.layer_weights + 4.0 * length * self.attention)

    @property
    def head_flops(self) -> float:
        """FLOPs of one projected token in a forward pass of the MLM head."""
        return 2.0 * self.embedding * (self.hidden + self.vocabulary)


def _attention_width(family: FamilyInfo, config: Mapping[str, Any]) -> int:
    # MobileBERT's key for the width inside a layer.
    inside = config.get("true_hidden_size")
    return int(inside) if inside else family.heads(config) * family.head_width(config)


def flops_per_token(
    teacher: ModelShape,
    student: ModelShape,
    *,
    length: int,
    masked_share: float,
    loss: Loss | None,
    teacher_share: float = 1.0,
    has_original: bool = False,
) -> float:
    """Returns the useful FLOPs of a step per attended token.

    Args:
        teacher: Shape of the teacher.
        student: Shape of the student.
        length: Tokens of a sequence.
        masked_share: Share of masked tokens.
        loss: Recipe section [loss], of which a loss of weight 0 costs nothing; None for an
            objective without MLM heads.
        teacher_share: Share of the micro-batches that the teacher computes, without MLM heads.
        has_original: Whether the cosine loss reads another copy of the teacher.
    """
    if loss is None:
        return 3 * student.encoder_flops(length) + teacher_share * teacher.encoder_flops(length)
    projected, student_share = _projected_shares(loss, masked_share)
    # A backward pass costs two forward passes.
    flops = 3 * (student.encoder_flops(length) + student_share * student.head_flops)
    # The fitted copy gives the soft targets, the original the states.
    if has_original:
        passes = (loss.soft_target > 0) + (loss.cosine > 0)
    else:
        passes = int(loss.soft_target > 0 or loss.cosine > 0)
    return flops + passes * teacher.encoder_flops(length) + projected * teacher.head_flops


def _projected_shares(loss: Loss, masked_share: float) -> tuple[float, float]:
    """Shares of the tokens that teacher and student project onto the vocabulary."""
    if loss.soft_target > 0:
        share = 1.0 if loss.positions == "all" else masked_share
        return share, share
    return 0.0, masked_share if loss.mlm > 0 else 0.0


def gpu_memory_bytes(
    teacher: ModelShape,
    student: ModelShape,
    *,
    micro_batch: int,
    length: int,
    teachers: int = 1,
    has_head: bool = True,
) -> int:
    """Estimates the peak memory of a step on a GPU that computes in 16 bits.

    Args:
        teacher: Shape of the teacher.
        student: Shape of the student.
        micro_batch: Sequences of a forward pass.
        length: Tokens of a sequence.
        teachers: Copies of the teacher.
        has_head: Whether the student has an MLM head.
    """
    tokens = micro_batch * length
    weights = student.parameters * _STUDENT_BYTES + teachers * teacher.parameters * _TEACHER_BYTES
    # Kept for the backward pass, per layer: the 16-bit inputs of six MatMuls, of two LayerNorms
    # and of the activation, and two dropout masks.
    activations = student.layers * tokens * (22 * student.hidden + 6 * student.intermediate)
    # One layer of the teacher at a time.
    transient = tokens * (8 * teacher.hidden + 4 * teacher.intermediate)
    head = 0
    if has_head:
        logits = projection.CHUNK_ROWS * student.vocabulary * 4 * _LOGITS_BUFFERS
        head = logits + student.vocabulary * student.hidden * 4
    return int(weights + activations + transient + head + _CONTEXT_BYTES)

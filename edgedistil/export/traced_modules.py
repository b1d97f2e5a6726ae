"""Modules as the tracer sees them: attention as one node, marks, and layers without sharing.

Everything here is in place for the time of a trace only (`traced_form`), and leaves the model as it
was. So no pass has to recognise attention, the end of the encoder, or the layer that a node
belongs to.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import GELUActivation, SiLUActivation
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.eurobert.modeling_eurobert import EuroBertMLP, EuroBertRMSNorm
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertMLP,
    ModernBertPredictionHead,
)
from transformers.models.nomic_bert.modeling_nomic_bert import NomicBertMLP

from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.export.boundaries import at_boundaries
from edgedistil.export.passes.attention import DOMAIN
from edgedistil.export.passes.boundaries import BOUNDARY
from edgedistil.export.passes.layout import EMBEDDINGS, LAST_HIDDEN_STATE
from edgedistil.export.traced_disentangled import disentangled_form
from edgedistil.export.traced_rotary import rotary_form

# Name of our attention in transformers' registry.
TRACED = "edgedistil_traced"


@contextmanager
def traced_form(model: PreTrainedModel) -> Iterator[Counter[str]]:
    """Puts a model into the form that is traced.

    Yields:
        Calls of the modules that become operators of their own, which the traced forward pass
        counts. The passes compare them with the nodes that they find.
    """
    family = FAMILIES[model.config.model_type]
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for replace in _REPLACEMENTS.get(family.model_type, ()):
            stack.enter_context(replace(model))
        stack.enter_context(_attention_as_one_node(model))
        stack.enter_context(at_boundaries(model, partial(_mark_boundary, calls)))
        stack.enter_context(_marked(model.base_model, family))
        stack.enter_context(_counted(calls))
        yield calls


# --- attention as one node -----------------------------------------------------------------------


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ · scale + mask) v as one node: (B, H, L, D) three times → (B, L, H, D).

    `bias_1HLL` is added to the scores; None for a family without one.
    """

    @staticmethod
    def forward(
        _ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask_BL: Tensor,
        bias_1HLL: Tensor | None,
        _heads: int,
        scale: float,
    ) -> Tensor:
        """Computes the attention, so that the traced forward pass has correct shapes."""
        is_padding = mask_BL[:, None, None, :] == 0
        scores = q @ k.transpose(-1, -2) * scale
        if bias_1HLL is not None:
            scores = scores + bias_1HLL
        scores = scores.masked_fill(is_padding, float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2)

    @staticmethod
    def symbolic(
        g: Any, q: Any, k: Any, v: Any, mask_BL: Any, bias_1HLL: Any, heads: int, scale: float
    ) -> Any:
        """Emits the node; the tracer calls it instead of tracing `forward`."""
        inputs = [q, k, v, mask_BL]
        if bias_1HLL is not None:
            inputs.append(bias_1HLL)
        node = g.op(f"{DOMAIN}::Attention", *inputs, heads_i=heads, scale_f=scale)
        return node.setType(q.type().with_sizes([None, None, None, None]))


def _attention(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask_BL: Tensor,
    *,
    scaling: float,
    **_unused: Any,
) -> tuple[Tensor, None]:
    config: Any = module.config
    heads = FAMILIES[config.model_type].heads(config.to_dict())
    return _attend(q, k, v, mask_BL, None, heads, scaling), None


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask_BL: Tensor,
    bias_1HLL: Tensor | None,
    heads: int,
    scale: float,
) -> Tensor:
    """Returns the context, (B, L, H, D)."""
    context: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        q, k, v, mask_BL, bias_1HLL, heads, float(scale)
    )
    return context


def _unchanged_mask(*, attention_mask: Tensor, **_unused: Any) -> Tensor:
    return attention_mask


AttentionInterface.register(TRACED, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(TRACED, _unchanged_mask)


@contextmanager
def _attention_as_one_node(model: PreTrainedModel) -> Iterator[None]:
    """Lets a model use our attention functions."""
    implementation = model.config._attn_implementation
    # Not `set_attn_implementation`, which refuses MPNet, whose mask asks the config all the same.
    model.config._attn_implementation = TRACED
    try:
        yield
    finally:
        model.config._attn_implementation = implementation


# --- marks ---------------------------------------------------------------------------------------


class _Mark(torch.autograd.Function):
    """A tensor unchanged, as one node with the name of what it is."""

    @staticmethod
    def forward(_ctx: Any, states: Tensor, _operator: str, _part: str) -> Tensor:
        """Copies the tensor: the tracer would take the same tensor for the same value."""
        return states.clone()

    @staticmethod
    def symbolic(g: Any, states: Any, operator: str, part: str) -> Any:
        """Emits the node; the tracer calls it instead of tracing `forward`."""
        return g.op(f"{DOMAIN}::{operator}", states, part_s=part).setType(states.type())


def _mark(states: Tensor, operator: str, part: str = "") -> Tensor:
    marked: Tensor = _Mark.apply(states, operator, part)  # type: ignore[no-untyped-call]
    return marked


def _mark_boundary(calls: Counter[str], part: str, states: Tensor) -> Tensor:
    calls["boundary"] += 1
    return _mark(states, BOUNDARY, part)


@contextmanager
def _marked(encoder: nn.Module, family: FamilyInfo) -> Iterator[None]:
    """Marks where the passes change the order of batch and length."""
    marks = {family.names.output: LAST_HIDDEN_STATE}
    if family.mixes_neighbours:
        marks[family.names.embeddings] = EMBEDDINGS
    hooks = []
    for name, operator in marks.items():
        module = encoder.get_submodule(name)
        # A list is not called: the output is that of its last layer.
        if isinstance(module, nn.ModuleList):
            module = module[-1]
        hooks.append(module.register_forward_hook(_marking_hook(operator)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _marking_hook(operator: str) -> Callable[[Any, Any, Any], Any]:
    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return _mark(output, operator)
        if isinstance(output, tuple):
            return (_mark(output[0], operator), *output[1:])
        output.last_hidden_state = _mark(output.last_hidden_state, operator)
        return output

    return hook


def _is_exact_gelu(module: nn.Module) -> bool:
    if isinstance(module, nn.GELU):
        return module.approximate == "none"
    # transformers also has one that spells the function out, which is traced as it is.
    return isinstance(module, GELUActivation) and module.act is nn.functional.gelu


def _has_unbiased_gelu(module: nn.Module) -> bool:
    """Whether a module applies the exact GELU to the output of a linear layer without a bias."""
    linear = _LINEAR_BEFORE_ACTIVATION.get(type(module))
    if linear is None or getattr(module, linear).bias is not None:
        return False
    activation = module.act_fn if hasattr(module, "act_fn") else module.act
    return isinstance(activation, nn.Module) and _is_exact_gelu(activation)


# Modules whose linear layer in front of the activation may have no bias.
_LINEAR_BEFORE_ACTIVATION: dict[type[nn.Module], str] = {
    ModernBertMLP: "Wi",
    ModernBertPredictionHead: "dense",
    NomicBertMLP: "gate_proj",
    EuroBertMLP: "gate_proj",
}


@contextmanager
def _counted(calls: Counter[str]) -> Iterator[None]:
    """Counts the modules that run and become operators of their own."""

    def count(module: nn.Module, _inputs: Any, output: Any) -> None:
        if _is_exact_gelu(module):
            calls["gelu"] += 1
            calls["gelu of tokens"] += output.ndim == 3
        elif isinstance(module, nn.SiLU | SiLUActivation):
            calls["silu"] += 1
        elif isinstance(module, EuroBertRMSNorm):
            calls["rms-norm"] += 1
        elif isinstance(module, nn.LayerNorm):
            calls["layer-norm without bias"] += module.bias is None
        if _has_unbiased_gelu(module) and output.ndim == 3:
            calls["gelu without bias"] += 1

    # For all modules: some heads call an activation that is not among their own.
    hook = nn.modules.module.register_module_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()


# --- MPNet ---------------------------------------------------------------------------------------


def _mpnet_attention(
    self: Any, hidden_BLD: Tensor, attention_mask: Tensor, position_bias: Tensor, **_unused: Any
) -> tuple[Tensor]:
    """MPNetSelfAttention.forward with the attention as one node."""
    B, L = hidden_BLD.shape[:2]
    heads = self.num_attention_heads
    q, k, v = (
        project(hidden_BLD).view(B, L, heads, -1).transpose(1, 2)
        for project in (self.q, self.k, self.v)
    )
    scale = self.attention_head_size**-0.5
    context = _attend(q, k, v, attention_mask, position_bias, heads, scale)
    return (self.o(context.reshape(B, L, -1)),)


def _mpnet_encoder(
    self: Any, hidden_BLD: Tensor, attention_mask: Tensor, **_unused: Any
) -> BaseModelOutput:
    """MPNetEncoder.forward with the buckets of all distances as a constant."""
    longest = self.config.max_position_embeddings
    buckets = self.relative_position_bucket(torch.arange(1 - longest, longest))
    # The mask's length, because the layout of the hidden states changes.
    positions_L = torch.arange(attention_mask.shape[1])
    distances_LL = positions_L[None, :] - positions_L[:, None] + (longest - 1)
    bias_LLH = self.relative_attention_bias(buckets[distances_LL])
    bias_1HLL = bias_LLH.permute(2, 0, 1).unsqueeze(0)
    for layer in self.layer:
        hidden_BLD = layer(hidden_BLD, attention_mask, bias_1HLL)[0]
    return BaseModelOutput(last_hidden_state=hidden_BLD)


@contextmanager
def _mpnet_modules(model: PreTrainedModel) -> Iterator[None]:
    """Replaces MPNet's attention, which does not ask transformers' registry for a function."""
    encoder: Any = model.base_model.encoder
    with ExitStack() as stack:
        stack.enter_context(_forward(encoder, _mpnet_encoder))
        for layer in encoder.layer:
            stack.enter_context(_forward(layer.attention.attn, _mpnet_attention))
        yield


@contextmanager
def _forward(module: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Replaces the forward pass of one module."""
    module.forward = MethodType(function, module)
    try:
        yield
    finally:
        # The class's own method is behind the attribute.
        del module.forward


# --- MobileBERT ----------------------------------------------------------------------------------


def _mobilebert_predictions(self: Any, hidden_BLD: Tensor) -> Tensor:
    """MobileBertLMPredictionHead.forward without joining its two matrices into one."""
    hidden_BLD = self.transform(hidden_BLD)
    width = self.decoder.in_features
    tied_BLV = hidden_BLD[..., :width] @ self.decoder.weight.t()
    own_BLV = hidden_BLD[..., width:] @ self.dense.weight
    logits_BLV: Tensor = tied_BLV + own_BLV + self.decoder.bias
    return logits_BLV


@contextmanager
def _mobilebert_head(model: PreTrainedModel) -> Iterator[None]:
    """Replaces the projection of a masked-LM head; other heads have none."""
    predictions = getattr(getattr(model, "cls", None), "predictions", None)
    if predictions is None:
        yield
        return
    with _forward(predictions, _mobilebert_predictions):
        yield


# --- layers without sharing ----------------------------------------------------------------------


class _UnrolledEncoder(nn.Module):
    """ALBERT's encoder with a module for each layer, so that each has names of its own."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        config = encoder.config
        self.embedding_hidden_mapping_in = encoder.embedding_hidden_mapping_in
        layers = []
        for index in range(config.num_hidden_layers):
            group = index * config.num_hidden_groups // config.num_hidden_layers
            layers += encoder.albert_layer_groups[group].albert_layers
        self.layer = nn.ModuleList([_with_same_weights(layer, config) for layer in layers])

    def forward(self, hidden_BLD: Tensor, attention_mask: Tensor, **_unused: Any) -> tuple[Tensor]:
        """Runs the layers one after the other."""
        hidden_BLD = self.embedding_hidden_mapping_in(hidden_BLD)
        for layer in self.layer:
            hidden_BLD = layer(hidden_BLD, attention_mask)
        return (hidden_BLD,)


def _with_same_weights(layer: nn.Module, config: Any) -> nn.Module:
    """Returns a copy of a layer that shares its parameters and its config."""
    shared = {id(parameter): parameter for parameter in layer.parameters()}
    return copy.deepcopy(layer, {**shared, id(config): config})


@contextmanager
def _unrolled(model: PreTrainedModel) -> Iterator[None]:
    """Replaces an encoder that calls one layer repeatedly."""
    encoder: Any = model.base_model
    shared = encoder.encoder
    encoder.encoder = _UnrolledEncoder(shared)
    try:
        yield
    finally:
        encoder.encoder = shared


# Families whose modules are replaced.
_REPLACEMENTS: dict[str, tuple[Callable[[PreTrainedModel], Any], ...]] = {
    "albert": (_unrolled,),
    "mpnet": (_mpnet_modules,),
    "mobilebert": (_mobilebert_head,),
    "modernbert": (rotary_form,),
    "nomic_bert": (rotary_form,),
    "eurobert": (rotary_form,),
    "deberta": (disentangled_form,),
    "deberta-v2": (disentangled_form,),
}

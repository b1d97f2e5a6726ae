"""Fast path through the encoders and MLM heads of BERT and DistilBERT.

In a training loop:

    teacher = freeze_teacher(model, dtype=torch.bfloat16)
    student_BLD, head = encode_with_head(student, input_ids_BL, mask_BL)
    with torch.no_grad():
        teacher_BLD = encode(teacher, input_ids_BL, mask_BL)
    loss = distillation_loss(student_BLD, teacher_BLD, …, head, mlm_head(teacher), …)

Pass None instead of a mask where nothing is padded. Calling a `…ForMaskedLM` itself would project
every position onto the vocabulary, which costs more than the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.models.fast.dropout import apply_dropout, attention
from edgedistil.models.fast.layer import LayerSettings, LayerWeights, transformer_layer
from edgedistil.models.mlm_head import MlmHead, mlm_head

_POSITIONS_IN_WORDS = {
    "relative-bias": "a bias for each distance",
    "rotary": "rotary positions",
    "disentangled": "products with distances",
}
# DistilBERT, and the families whose layers consist of BERT's modules.
_FAST_FAMILIES = ("distilbert", "bert", "ernie", "roberta", "xlm-roberta", "camembert", "electra")


def fits(model: PreTrainedModel) -> bool:
    """Whether a model's encoder is one that the fast path computes."""
    return why_plain(model) is None


def why_plain(model: PreTrainedModel) -> str | None:
    """Returns why the fast path does not compute a model's encoder; None if it does."""
    # ERNIE may add vectors of tasks, which no other family has.
    if model.config.model_type == "ernie" and model.config.use_task_id:
        return "its embeddings add vectors of tasks"
    return why_family_is_plain(FAMILIES[model.config.model_type])


def why_family_is_plain(family: FamilyInfo) -> str | None:
    """Returns why the fast path computes no encoder of a family; None if it does."""
    if family.model_type in _FAST_FAMILIES:
        return None
    if family.positions != "absolute":
        return f"its attention has {_POSITIONS_IN_WORDS[family.positions]}"
    if family.shares_layers:
        return "its layers share their weights"
    return "its layers are not of BERT's modules"


def freeze_teacher(model: PreTrainedModel, *, dtype: torch.dtype) -> PreTrainedModel:
    """Casts a teacher in place, switch to eval mode and disable its gradients.

    In place, because the original weights would only cost memory
    (docs/decisions.md#the-teacher-is-cast-in-place).
    """
    model.to(dtype)
    return model.eval().requires_grad_(False)


# --- the encoder ---------------------------------------------------------------------------------


def encode(
    model: PreTrainedModel, input_ids_BL: Tensor, attention_mask_BL: Tensor | None
) -> Tensor:
    """Returns the last hidden states, as `base_model(…).last_hidden_state` of the model does.

    Under autocast everything between the embeddings and the end is in autocast's dtype:
    transformers' forward pass leaves the residual stream in float32 there and casts it again for
    each MatMul (docs/log.md#forward-pass-in-one-dtype). In training mode on a CPU, dropout costs a
    tenth of PyTorch's (`dropout`).

    Args:
        model: A model with an MLM head.
        input_ids_BL: Token ids, int64.
        attention_mask_BL: 0 at padding; None where nothing is padded, which is faster.
    Returns:
        Hidden states, shape (B, L, D).
    """
    # Other encoders compute as transformers wrote them.
    if not fits(model):
        return _plain_states(model, input_ids_BL, attention_mask_BL, all_layers=False)[-1]
    words_BLE = model.get_input_embeddings()(input_ids_BL)
    return _encode(model, words_BLE, attention_mask_BL)


def encode_layers(
    model: PreTrainedModel,
    input_ids_BL: Tensor,
    attention_mask_BL: Tensor | None,
    last: int | None = None,
) -> list[Tensor]:
    """Returns the embeddings and the states of all layers, or of the first ones.

    Args:
        model: An encoder, with or without a head.
        input_ids_BL, attention_mask_BL: As for `encode`.
        last: Number of the last layer that is needed, 0 for the embeddings; None: all.
    """
    count = None if last is None else last + 1
    # transformers' forward pass has no end before the last layer.
    if not fits(model):
        return _plain_states(model, input_ids_BL, attention_mask_BL, all_layers=True)[:count]
    words_BLE = model.get_input_embeddings()(input_ids_BL)
    return list(islice(_states(model, words_BLE, attention_mask_BL), count))


def last_projections(model: PreTrainedModel, states_BLD: Tensor) -> list[Tensor]:
    """Returns queries, keys and values of the last layer, (B, L, A) each.

    Args:
        model: A model that the fast path computes (`fits`).
        states_BLD: Input of its last layer.
    Raises:
        ModelError: The model's layers are of other modules.
    """
    check_projections(model)
    *_, layer = _layers(model)
    with torch.autocast(states_BLD.device.type, enabled=False):
        return [_linear(linear, states_BLD) for linear in (layer.query, layer.key, layer.value)]


def check_projections(model: PreTrainedModel) -> None:
    """Raises ModelError if `last_projections` cannot read the layers of a model."""
    if not fits(model):
        raise ModelError(
            "relations of queries, keys and values are not supported for the family "
            f"{model.config.model_type}: {why_plain(model)}",
            hint="set objective.relations = 0",
        )


def encode_with_head(
    model: PreTrainedModel, input_ids_BL: Tensor, attention_mask_BL: Tensor | None
) -> tuple[Tensor, MlmHead]:
    """Returns `encode` and `mlm_head`, with one gradient for the tied word-embedding matrix.

    An embedding's own gradient is as large as the matrix and 0 except for a few rows. Here these
    rows are added to the gradient of the projection instead of summing two matrices
    (docs/log.md#one-gradient-for-the-tied-embedding). The arguments are those of `encode`.

    Returns:
        Hidden states, and the head for a loss that projects them.
    """
    head = mlm_head(model)
    embedding = model.get_input_embeddings()
    is_shared = head.weight_VD is embedding.weight and embedding.weight.requires_grad
    # Nothing to share where the two are not tied or not trained, or transformers looks tokens up.
    if not is_shared or not fits(model):
        return encode(model, input_ids_BL, attention_mask_BL), head
    # The loss must use the returned matrix, not the parameter, for the gradients to meet.
    words_BLE, weight_VD = _TiedEmbedding.apply(  # type: ignore[no-untyped-call]
        embedding.weight, input_ids_BL, embedding.padding_idx
    )
    hidden_BLD = _encode(model, words_BLE, attention_mask_BL)
    return hidden_BLD, replace(head, weight_VD=weight_VD)


class _TiedEmbedding(torch.autograd.Function):
    """Looked-up rows of a matrix, and the matrix itself for the projection."""

    @staticmethod
    def forward(
        ctx: Any, weight_VD: Tensor, ids_BL: Tensor, padding_id: int | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids_BL)
        ctx.shape, ctx.padding_id = weight_VD.shape, padding_id
        # Nothing but the ids is stored: the backward pass writes rows, it does not read them.
        # A gradient that is not needed stays None instead of a matrix of zeros.
        ctx.set_materialize_grads(False)
        return F.embedding(ids_BL, weight_VD), weight_VD.view_as(weight_VD)

    @staticmethod
    def backward(
        ctx: Any, grad_BLD: Tensor | None, grad_VD: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        if grad_BLD is None:
            return grad_VD, None, None
        (ids_BL,) = ctx.saved_tensors
        if grad_VD is None:
            grad_VD = torch.zeros(ctx.shape, dtype=grad_BLD.dtype, device=grad_BLD.device)
        # As in nn.Embedding, the row of the padding id receives no gradient from the lookup.
        if ctx.padding_id is not None:
            is_padding_BL1 = (ids_BL == ctx.padding_id).unsqueeze(-1)
            grad_BLD = grad_BLD.masked_fill(is_padding_BL1, 0)
        # Adding in place is safe: the projection computed this gradient for us alone.
        total_VD = grad_VD.contiguous()
        return total_VD.index_add_(0, ids_BL.flatten(), grad_BLD.flatten(0, 1)), None, None


def _plain_states(
    model: PreTrainedModel,
    input_ids_BL: Tensor,
    attention_mask_BL: Tensor | None,
    *,
    all_layers: bool,
) -> list[Tensor]:
    """States as transformers computes them; the last ones are always among them."""
    # Under autocast DeBERTa fills scores in 16 bits with float32's lowest number, which overflows:
    # it computes in the dtype of its weights.
    is_deberta = FAMILIES[model.config.model_type].positions == "disentangled"
    device_type = input_ids_BL.device.type
    autocast = torch.is_autocast_enabled(device_type) and not is_deberta
    dtype = torch.get_autocast_dtype(device_type)
    with torch.autocast(device_type, dtype=dtype, enabled=autocast):
        outputs = model.base_model(
            input_ids=input_ids_BL,
            attention_mask=attention_mask_BL,
            output_hidden_states=all_layers,
        )
    # The last of `hidden_states` may lack the final norm.
    below = outputs.hidden_states[:-1] if all_layers else ()
    return [*below, outputs.last_hidden_state]


def _encode(model: PreTrainedModel, words_BLE: Tensor, attention_mask_BL: Tensor | None) -> Tensor:
    # One layer at a time: a teacher's states need not all be in memory.
    for states_BLD in _states(model, words_BLE, attention_mask_BL):
        last_BLD = states_BLD
    return last_BLD


def _states(
    model: PreTrainedModel, words_BLE: Tensor, attention_mask_BL: Tensor | None
) -> Iterator[Tensor]:
    """Yields the embeddings and the states of each layer, (B, L, D)."""
    device_type = words_BLE.device.type
    dtype = model.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    bias_B11L = None
    if attention_mask_BL is not None:
        bias_B11L = _attention_bias(attention_mask_BL, dtype)
    rates = _DropoutRates.of(model)
    # The dtype is set once, here: with autocast on, operations would cast back and forth.
    with torch.autocast(device_type, enabled=False):
        embedded_BLE = apply_dropout(_embed(model, words_BLE).to(dtype), rates.hidden)
        hidden_BLD = _widen(model, embedded_BLE)
    yield hidden_BLD
    for layer in _layers(model):
        # Entered for each layer: between two of them the caller's code runs.
        with torch.autocast(device_type, enabled=False):
            hidden_BLD = _run_layer(layer, hidden_BLD, bias_B11L, rates)
        yield hidden_BLD


def _attention_bias(attention_mask_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """0 at tokens, the lowest finite number at padding; (B, 1, 1, L)."""
    bias_BL = torch.zeros(attention_mask_BL.shape, dtype=dtype, device=attention_mask_BL.device)
    # Finite, because −inf in all of a row would make its softmax NaN.
    bias_BL.masked_fill_(attention_mask_BL == 0, torch.finfo(dtype).min)
    return bias_BL[:, None, None, :]


def _embed(model: PreTrainedModel, words_BLE: Tensor) -> Tensor:
    """Embeddings after their LayerNorm; all tokens are in segment A."""
    embeddings: Any = model.base_model.embeddings
    # Rows are read from the start, so positions are a slice and need no lookup.
    first = FAMILIES[model.config.model_type].first_position(vars(model.config))
    positions_LE = embeddings.position_embeddings.weight[first : first + words_BLE.shape[1]]
    if hasattr(embeddings, "token_type_embeddings"):
        positions_LE = positions_LE + embeddings.token_type_embeddings.weight[0]
    out: Tensor = embeddings.LayerNorm(words_BLE + positions_LE)
    return out


def _widen(model: PreTrainedModel, embedded_BLE: Tensor) -> Tensor:
    """Embeddings as wide as the hidden states, which are wider in some ELECTRAs."""
    project = getattr(model.base_model, "embeddings_project", None)
    return embedded_BLE if project is None else _linear(project, embedded_BLE)


@dataclass(frozen=True)
class _DropoutRates:
    """Dropout probabilities in effect; all 0 in eval mode.

    DistilBERT has no dropout on a layer's attention output, BERT has.
    """

    hidden: float
    attention_output: float
    attention: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> _DropoutRates:
        """Reads the probabilities of a model's configuration."""
        if not model.training:
            return cls(0.0, 0.0, 0.0)
        config = model.config
        if config.model_type == "distilbert":
            return cls(config.dropout, 0.0, config.attention_dropout)
        hidden = config.hidden_dropout_prob
        return cls(hidden, hidden, config.attention_probs_dropout_prob)


# --- layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LayerModules:
    """The modules of a layer, under the same names for both models."""

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
    has_exact_gelu: bool

    def weights(self) -> LayerWeights:
        """Returns weight and bias of every module, in the order of `LayerWeights`."""
        attention_modules = (self.query, self.key, self.value, self.attention_output)
        others = (self.attention_norm, self.up, self.down, self.output_norm)
        tensors = []
        for module in (*attention_modules, *others):
            tensors += [module.weight, module.bias]
        return LayerWeights(*tensors)


def _layers(model: PreTrainedModel) -> Iterator[_LayerModules]:
    family, encoder = FAMILIES[model.config.model_type], model.base_model
    heads = family.heads(model.config.to_dict())
    is_exact = getattr(model.config, family.keys.activation) == "gelu"
    modules_of = _distilbert_modules if family.model_type == "distilbert" else _bert_modules
    layers: Any = encoder.get_submodule(family.names.layers)
    for layer in layers:
        yield modules_of(layer, heads, is_exact)


def _bert_modules(layer: Any, heads: int, has_exact_gelu: bool) -> _LayerModules:
    attention_in, attention_out = layer.attention.self, layer.attention.output
    return _LayerModules(
        query=attention_in.query,
        key=attention_in.key,
        value=attention_in.value,
        attention_output=attention_out.dense,
        attention_norm=attention_out.LayerNorm,
        up=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        down=layer.output.dense,
        output_norm=layer.output.LayerNorm,
        heads=heads,
        has_exact_gelu=has_exact_gelu,
    )


def _distilbert_modules(layer: Any, heads: int, has_exact_gelu: bool) -> _LayerModules:
    return _LayerModules(
        query=layer.attention.q_lin,
        key=layer.attention.k_lin,
        value=layer.attention.v_lin,
        attention_output=layer.attention.out_lin,
        attention_norm=layer.sa_layer_norm,
        up=layer.ffn.lin1,
        activation=layer.ffn.activation,
        down=layer.ffn.lin2,
        output_norm=layer.output_layer_norm,
        heads=heads,
        has_exact_gelu=has_exact_gelu,
    )


def _run_layer(
    layer: _LayerModules, hidden_BLD: Tensor, bias_B11L: Tensor | None, rates: _DropoutRates
) -> Tensor:
    # The hand-written layer is for CPUs and the exact GELU; torch.compile cannot look into it and
    # fuses the plain operations itself.
    is_cpu = hidden_BLD.device.type == "cpu"
    if layer.has_exact_gelu and is_cpu and not torch.compiler.is_compiling():
        settings = LayerSettings(
            heads=layer.heads,
            attention_dropout=rates.attention,
            attention_output_dropout=rates.attention_output,
            hidden_dropout=rates.hidden,
            epsilons=(layer.attention_norm.eps, layer.output_norm.eps),
        )
        return transformer_layer(hidden_BLD, bias_B11L, settings, layer.weights())

    # The same computation in plain operations.
    attended_BLD = _plain_attention(layer, hidden_BLD, bias_B11L, rates.attention)
    attended_BLD = apply_dropout(attended_BLD, rates.attention_output)
    hidden_BLD = layer.attention_norm(hidden_BLD + attended_BLD)
    down_BLD = _linear(layer.down, layer.activation(_linear(layer.up, hidden_BLD)))
    down_BLD = apply_dropout(down_BLD, rates.hidden)
    out: Tensor = layer.output_norm(hidden_BLD + down_BLD)
    return out


def _plain_attention(
    layer: _LayerModules, hidden_BLD: Tensor, bias_B11L: Tensor | None, dropout: float
) -> Tensor:
    """Multi-head attention with its output projection, (B, L, D)."""
    batch, length, _width = hidden_BLD.shape
    query, key, value = (
        _linear(linear, hidden_BLD).view(batch, length, layer.heads, -1).transpose(1, 2)
        for linear in (layer.query, layer.key, layer.value)
    )
    attended = attention(query, key, value, bias_B11L, dropout=dropout)
    return _linear(layer.attention_output, attended.transpose(1, 2).flatten(2))


def _linear(layer: nn.Linear, values: Tensor) -> Tensor:
    # Parameters stay in float32 for the optimizer and are cast where they are used.
    return F.linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))

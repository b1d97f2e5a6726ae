"""PyTorch model → ONNX graph, traced by torch, with the weights still in PyTorch's memory.

The tracer is TorchScript's: it keeps one node per module call, names every node after its module,
and needs one small forward pass. Two functions are registered with transformers for the time of the
trace: attention becomes one node (`edgedistil::Attention`), and the mask stays as the user passed
it. So no pattern has to be recognised afterwards, and no mask or head arithmetic has to be removed.
`passes` lowers that node to operators of onnxruntime. Reasons:
docs/decisions.md#traced-by-torchscript-with-attention-as-one-node.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS, Task
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.export.passes.attention import DOMAIN

# Name of our attention in transformers' registry.
TRACED = "edgedistil_traced"
# The first opset with LayerNormalization. What a younger opset adds for these models, our passes
# fuse (docs/decisions.md#opset-17-ir-8-onnxruntime--114).
TRACE_OPSET = 17
# The version that onnxruntime 1.14 and onnxruntime-web read.
IR_VERSION = 8


def input_names(*, token_types: bool) -> list[str]:
    """Names of a graph's inputs, in order."""
    names = ["input_ids", "attention_mask"]
    if token_types:
        names.append("token_type_ids")
    return names


def takes_token_types(model: PreTrainedModel, tokenizer: TextTokenizer) -> bool:
    """Whether a graph has token types as an input, for which clients read the tokenizer's.

    Without them every token is of the first type. With a single segment, a client that marks the
    second text would ask for a row too many.
    """
    segments = FAMILIES[model.config.model_type].segments(model.config.to_dict())
    return segments > 1 and tokenizer.gives_token_types


def trace_model(model: PreTrainedModel, *, task: Task, token_types: bool | None = None) -> ir.Model:
    """Traces a model; the initializers of the graph share memory with its parameters.

    Args:
        model: A model of a supported family, in eval mode, with the task's head; not changed.
        task: Selects the outputs.
        token_types: Whether the graph has token types as an input; None: if the model
            has vectors for several segments.
    """
    if token_types is None:
        token_types = FAMILIES[model.config.model_type].segments(model.config.to_dict()) > 1
    inputs = input_names(token_types=token_types)
    outputs = list(TASKS[task].outputs)
    axes = {name: _dynamic_axes(name, task) for name in [*inputs, *outputs]}
    data = io.BytesIO()
    # The tracer runs the model once, on a small example.
    with _attention_as_one_node(model), _quiet_tracer(), torch.no_grad():
        torch.onnx.export(
            _NamedOutputs(model, inputs, outputs).eval(),
            _example(model, inputs),
            data,  # type: ignore[arg-type]  # the tracer takes a buffer; its annotation forgot
            dynamo=False,
            opset_version=TRACE_OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            # The weights are attached below instead of being copied through a protobuf.
            export_params=False,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
            custom_opsets={DOMAIN: 1},
        )
    graph = ir.from_proto(onnx.load_model_from_string(data.getvalue()))
    tensors = dict(chain(model.named_parameters(), model.named_buffers()))
    _attach_weights(graph.graph, tensors, inputs)

    # No field depends on the machine or on the version of torch, so equal models give equal bytes.
    graph.graph.name = f"{model.config.model_type} {task}"
    graph.ir_version = IR_VERSION
    graph.producer_name, graph.producer_version, graph.doc_string = "edgedistil", "", ""
    return graph


class _NamedOutputs(nn.Module):
    """A model with positional inputs and only the named outputs, as the tracer requires."""

    def __init__(self, model: PreTrainedModel, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.model = model
        self._inputs, self._outputs = inputs, outputs
        family = FAMILIES[model.config.model_type]
        self._one_type = family.token_types and "token_type_ids" not in inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Runs the model; returns the outputs in the order of their names."""
        feeds = dict(zip(self._inputs, tensors, strict=True))
        if self._one_type:
            # One vector for all tokens, of every batch and length, instead of a row for each.
            feeds["token_type_ids"] = torch.zeros(1, 1, dtype=torch.int64)
        outputs = self.model(**feeds, return_dict=True)
        return tuple(outputs[name] for name in self._outputs)


# --- attention as one node -----------------------------------------------------------------------


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ · scale + mask) v as one node: (B, H, L, D) three times → (B, L, H, D)."""

    @staticmethod
    def forward(
        _ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask_BL: Tensor, _heads: int, scale: float
    ) -> Tensor:
        """Computes the attention, so that the traced forward pass has correct shapes."""
        is_padding = mask_BL[:, None, None, :] == 0
        scores = (q @ k.transpose(-1, -2) * scale).masked_fill(is_padding, float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2)

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, mask_BL: Any, heads: int, scale: float) -> Any:
        """Emits the node; the tracer calls it instead of tracing `forward`."""
        node = g.op(f"{DOMAIN}::Attention", q, k, v, mask_BL, heads_i=heads, scale_f=scale)
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
    heads = config.num_attention_heads
    scale = float(scaling)
    context = _Attention.apply(q, k, v, mask_BL, heads, scale)  # type: ignore[no-untyped-call]
    return context, None


def _unchanged_mask(*, attention_mask: Tensor, **_unused: Any) -> Tensor:
    return attention_mask


AttentionInterface.register(TRACED, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(TRACED, _unchanged_mask)


@contextmanager
def _attention_as_one_node(model: PreTrainedModel) -> Iterator[None]:
    """Lets a model use our attention functions."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation(TRACED)
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Silences the tracer's warnings.

    They say that the tracer is deprecated, and that Python values become constants, which we want.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        yield


# --- inputs, axes, weights -----------------------------------------------------------------------


def _example(model: PreTrainedModel, inputs: list[str]) -> tuple[Tensor, ...]:
    """Inputs of the traced forward pass: two sequences of seven tokens, one of them padded."""
    B, L = 2, min(7, model.config.max_position_embeddings)
    # Small ids, which every vocabulary has.
    ids = torch.arange(B * L).reshape(B, L) % min(13, model.config.vocab_size)
    mask = torch.ones(B, L, dtype=torch.int64)
    mask[1, 5:] = 0
    by_name = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(by_name[name] for name in inputs)


def _dynamic_axes(name: str, task: Task) -> dict[int, str]:
    """Names of the dynamic axes of an input or output."""
    if name in TASKS[task].outputs and TASKS[task].level == "sequence":
        return {0: "batch"}
    return {0: "batch", 1: "sequence"}


def _attach_weights(graph: ir.Graph, tensors: dict[str, Tensor], inputs: list[str]) -> None:
    """Turns the inputs that are weights into initializers in PyTorch's memory."""
    weights = [value for value in graph.inputs if value.name not in inputs]
    for value in weights:
        assert value.name is not None
        # The tracer's names start with the attribute of `_NamedOutputs`.
        name = value.name.removeprefix("model.")
        value.name = name
        value.const_value = ir.Tensor(tensors[name].detach().numpy(), name=name)
        graph.inputs.remove(value)
        # Parameters that the task does not use, such as a pooler, stay out of the graph.
        if value.uses():
            graph.register_initializer(value)

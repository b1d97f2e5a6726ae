"""PyTorch model → ONNX graph, traced by torch, with its weights still where PyTorch holds them.

The tracer is TorchScript's: it keeps one node per module call, names every node after its module, and needs one tiny
forward pass. Two things are told to it, through transformers' own registry of attention functions: attention is one
node (`edgedistil::Attention`), and the mask stays as the user gave it. So nothing has to be recognised afterwards, and
no mask or head arithmetic has to be removed. `passes` turns that node into operators that a runtime has.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from edgedistil.core.task import TASKS, Task

TRACED = "edgedistil_traced"
DOMAIN = "edgedistil"
TRACE_OPSET = 17  # the first with LayerNormalization; everything that a younger opset adds here is fused by us
IR_VERSION = 8  # what onnxruntime 1.14 and onnxruntime-web read


def trace(model: PreTrainedModel, *, task: Task, token_types: bool) -> ir.Model:
    """The graph of a model. Its initializers share memory with the model's parameters.

    Args:
        model: BERT or DistilBERT in eval mode; not changed.
        task: A task of `edgedistil.core.task`.
        token_types: Whether `token_type_ids` is an input.
    """
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    outputs = list(TASKS[task].outputs)
    traced = _Traced(model, inputs, outputs).eval()
    data = io.BytesIO()
    with _attention_as_one_node(model), _quiet_tracer(), torch.no_grad():
        torch.onnx.export(
            traced,
            _example(inputs),
            data,  # type: ignore[arg-type]  # the tracer takes a buffer; its annotation forgot
            dynamo=False,
            opset_version=TRACE_OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: _axes(name, task) for name in [*inputs, *outputs]},
            export_params=False,  # the weights are attached below, not copied through a protobuf
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
            custom_opsets={DOMAIN: 1},
        )
    graph = ir.from_proto(onnx.load_model_from_string(data.getvalue()))
    _attach_weights(graph, dict(_tensors(model)), inputs)
    graph.graph.name = f"{model.config.model_type} {task}"
    graph.ir_version = IR_VERSION
    graph.producer_name, graph.producer_version, graph.doc_string = "edgedistil", "", ""
    return graph


class _Traced(nn.Module):
    """Positional tensors in, the named outputs out."""

    def __init__(self, model: PreTrainedModel, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.model = model
        self._inputs, self._outputs = inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        answer = self.model(**dict(zip(self._inputs, tensors, strict=True)), return_dict=True)
        return tuple(answer[name] for name in self._outputs)


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ · scale + mask) v as one node; (B, H, L, D) three times in, (B, L, H, D) out."""

    @staticmethod
    def forward(
        _ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask_BL: Tensor, _heads: int, scale: float
    ) -> Tensor:
        scores = (q @ k.transpose(-1, -2) * scale).masked_fill(
            mask_BL[:, None, None, :] == 0, float("-inf")
        )
        return (scores.softmax(-1) @ v).transpose(1, 2)

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, mask_BL: Any, heads: int, scale: float) -> Any:
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
    return _Attention.apply(q, k, v, mask_BL, config.num_attention_heads, float(scaling)), None  # type: ignore[no-untyped-call]


def _mask_as_it_is(*, attention_mask: Tensor, **_unused: Any) -> Tensor:
    return attention_mask


AttentionInterface.register(TRACED, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(TRACED, _mask_as_it_is)


@contextmanager
def _attention_as_one_node(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(TRACED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Its warnings are about being deprecated, and about Python values that are constants for us on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        yield


def _example(inputs: list[str]) -> tuple[Tensor, ...]:
    B, L = 2, 7
    ids = torch.arange(B * L).reshape(B, L) % 13
    mask = torch.ones(B, L, dtype=torch.int64)
    mask[1, 5:] = 0
    of = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(of[name] for name in inputs)


def _axes(name: str, task: Task) -> dict[int, str]:
    """Names of the dynamic axes of an input or output."""
    if name in TASKS[task].outputs and TASKS[task].level == "sequence":
        return {0: "batch"}
    return {0: "batch", 1: "sequence"}


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _attach_weights(model: ir.Model, tensors: dict[str, Tensor], inputs: list[str]) -> None:
    """The tracer lists weights as inputs; make them initializers that point at PyTorch's memory."""
    graph = model.graph
    for value in [each for each in graph.inputs if each.name not in inputs]:
        assert value.name is not None
        name = value.name.removeprefix("model.")
        value.name = name
        value.const_value = ir.Tensor(tensors[name].detach().numpy(), name=name)
        graph.inputs.remove(value)
        if value.uses():
            graph.register_initializer(value)

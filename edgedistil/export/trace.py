"""PyTorch model → ONNX graph, traced by torch, with the weights still in PyTorch's memory.

The tracer is TorchScript's: it keeps one node per module call, names every node after its module,
and needs one small forward pass. For the time of the trace the model has another form
(`traced_modules`): attention is one node (`edgedistil::Attention`), and the mask stays as the user
passed it. So no pattern has to be recognised afterwards, and no mask or head arithmetic has to be
removed. `passes` lowers that node to operators of onnxruntime. Reasons:
docs/decisions.md#traced-by-torchscript-with-attention-as-one-node.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS, Task
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.export.passes import MODULE_CALLS
from edgedistil.export.passes.attention import DOMAIN
from edgedistil.export.passes.edit import record_attribute
from edgedistil.export.settings import epsilon_name
from edgedistil.export.target import TRACE_OPSET
from edgedistil.export.tensor_names import all_tensors, tensor_names
from edgedistil.export.traced_modules import traced_form
from edgedistil.export.traced_parts import FORMULA
from edgedistil.parity.formula import META, literal, parse, setting, source, source_names, traced

# The version that onnxruntime 1.14 and onnxruntime-web read.
IR_VERSION = 8


def example_shape(task: Task, length: int) -> tuple[int, ...]:
    """Shape of an example's inputs: two sequences, which are two choices where a task has them."""
    return (1, 2, length) if TASKS[task].has_choices else (2, length)


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
    # The traced form may have other names: the certificate looks weights up in the model itself.
    own_names = tensor_names(model)
    # The tracer runs the model once, on a small example.
    with traced_form(model) as calls, _quiet_tracer(), torch.no_grad():
        wrapper = _NamedOutputs(model, inputs, outputs).eval()
        weights = _weights_by_traced_name(wrapper, model)
        torch.onnx.export(
            wrapper,
            _example(model, task, inputs),
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
    _attach_weights(graph.graph, weights, inputs, own_names)
    graph.meta[MODULE_CALLS] = calls
    _record_attributes(graph.graph)

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


def _example(model: PreTrainedModel, task: Task, inputs: list[str]) -> tuple[Tensor, ...]:
    """Inputs of the traced forward pass: two sequences of seven tokens, one of them padded."""
    B, L = 2, min(7, model.config.max_position_embeddings)
    # Small ids, which every vocabulary has.
    ids = torch.arange(B * L).reshape(B, L) % min(13, model.config.vocab_size)
    mask = torch.ones(B, L, dtype=torch.int64)
    mask[1, 5:] = 0
    by_name = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    shape = example_shape(task, L)
    return tuple(by_name[name].reshape(shape) for name in inputs)


def _dynamic_axes(name: str, task: Task) -> dict[int, str]:
    """Names of the dynamic axes of an input or output."""
    is_output = name in TASKS[task].outputs
    if is_output and TASKS[task].level == "sequence":
        return {0: "batch"}
    if TASKS[task].has_choices:
        axes = {0: "batch", 1: "choices"}
        return axes if is_output else {**axes, 2: "sequence"}
    return {0: "batch", 1: "sequence"}


def _weights_by_traced_name(traced: nn.Module, model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Name in the traced form → name in the model, and the tensor.

    A weight that several modules share has one name in the model, so it is stored once.
    """
    names = tensor_names(model)
    return {
        name: (names.get(id(tensor), name), tensor) for name, tensor in all_tensors(traced).items()
    }


def _attach_weights(
    graph: ir.Graph,
    weights: dict[str, tuple[str, Tensor]],
    inputs: list[str],
    own_names: dict[int, str],
) -> None:
    """Turns the inputs that are weights into initializers in PyTorch's memory."""
    for value in [value for value in graph.inputs if value.name not in inputs]:
        assert value.name is not None
        name, tensor = weights[value.name]
        graph.inputs.remove(value)
        # Parameters that the task does not use, such as a pooler, stay out of the graph.
        if not value.uses():
            continue
        if name in graph.initializers:
            value.replace_all_uses_with(graph.initializers[name])
            continue
        value.name = name
        value.const_value = ir.Tensor(tensor.detach().numpy(), name=name)
        source_name = own_names.get(id(tensor))
        # A part of one of the model's weights, or a table of the traced form, such as MPNet's
        # distances.
        formula = getattr(tensor, FORMULA, None) or traced(value.const_value.numpy())
        value.meta[META] = source(source_name) if source_name else formula
        graph.register_initializer(value)


def _record_attributes(graph: ir.Graph) -> None:
    """Records the float attributes of traced nodes, those of normalizations by their module."""
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type != ir.AttributeType.FLOAT or node.domain == DOMAIN:
                continue
            formula = literal(np.array(attribute.as_float(), np.float32))
            if node.op_type == "LayerNormalization" and name == "epsilon":
                weight = node.inputs[1]
                assert weight is not None
                weight_name = next(iter(source_names(parse(weight.meta[META]))))
                formula = setting(epsilon_name(weight_name.removesuffix(".weight")))
            record_attribute(node, name, formula)

"""What a quantized artefact should compute: PyTorch with the same roundings.

An 8-bit artefact is far from the float32 model even if every node of it is right, so bounds on that
distance leave room for faults. Here PyTorch's own modules compute with the artefact's weights and
with inputs that are rounded as its operators round them. A right artefact differs from that by a
few roundings only, so a fault a tenth as large as the quantization's own error is seen.

The wiring is the model's own. Only which layers are quantized, and the ranges of calibrated inputs,
are read from the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.task import TASKS
from edgedistil.export.boundaries import at_boundaries
from edgedistil.export.passes.edit import constant_array, formula_of, produced_by
from edgedistil.parity.formula import Call, WeightSource, parse, source_names
from edgedistil.parity.part_check import FED_OUTPUT_PREFIX, reference_of_parts
from edgedistil.parity.probes import ProbeBatch, Probes, ReferenceOutputs
from edgedistil.parity.reference_error import compressed
from edgedistil.parity.tensor_rules import WEIGHT_FUNCTIONS, stored_values

Array = NDArray[Any]
RoundInput = Callable[[Tensor], Tensor]

# MatMulNBits rounds the inputs of each block to signed 8 bits.
_BLOCK_LARGEST = 127
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class QuantizedWeight:
    """A tensor of the model as an artefact stores it.

    Attributes:
        formula: Its formula, whose outermost function is the method.
        round_input: Rounds what a linear layer multiplies it with; None if it stays in float32.
    """

    formula: Call
    round_input: RoundInput | None


def reference_outputs(
    model: PreTrainedModel, graph: ir.Model, source: WeightSource, probes: Probes
) -> ReferenceOutputs | None:
    """Runs the model with an artefact's roundings on the probes.

    Args:
        model: The model, in float32; a copy is changed.
        graph: The artefact, with the formulas of its weights.
        source: The model's tensors.
        probes: The inputs.
    Returns:
        The outputs of each batch as `compressed` stores them; None if nothing is rounded.
    Raises:
        ModelError: A quantized weight is not one of a linear layer or an embedding.
    """
    weights = quantized_weights(graph)
    if not weights:
        return None
    rounded = rounded_model(model, weights, source)
    return tuple(_run_batch(rounded, probes, batch) for batch in probes)


def quantized_weights(graph: ir.Model) -> dict[str, QuantizedWeight]:
    """Name of a source's tensor → how a graph stores it and rounds what it is multiplied with."""
    weights: dict[str, QuantizedWeight] = {}
    for value in graph.graph.initializers.values():
        formula = formula_of(value)
        if formula is None:
            continue
        call = parse(formula)
        if call.function not in WEIGHT_FUNCTIONS:
            continue
        (name,) = source_names(call)
        # A tied weight may be stored once for its lookup and once for its product.
        round_input = _input_rounding(value)
        if name not in weights or round_input is not None:
            weights[name] = QuantizedWeight(call, round_input)
    return weights


def rounded_model(
    model: PreTrainedModel, weights: Mapping[str, QuantizedWeight], source: WeightSource
) -> PreTrainedModel:
    """Returns a copy of a model with an artefact's weights and roundings of inputs.

    Raises:
        ModelError: A weight whose inputs are rounded does not belong to a linear layer.
    """
    rounded = copy.deepcopy(model)
    parameters = dict(rounded.named_parameters())
    roundings: dict[int, RoundInput] = {}
    for name, weight in weights.items():
        values = stored_values(weight.formula, source)
        parameters[name].data.copy_(torch.from_numpy(values))
        if weight.round_input is not None:
            roundings[id(parameters[name])] = weight.round_input

    hooked = set()
    for module in rounded.modules():
        # Also a tied projection, whose weight is the embedding's own.
        if isinstance(module, nn.Linear) and id(module.weight) in roundings:
            module.register_forward_pre_hook(_rounding_hook(roundings[id(module.weight)]))
            hooked.add(id(module.weight))
    if roundings.keys() - hooked:
        raise ModelError("a quantized weight does not belong to a linear layer of PyTorch's model")
    return rounded


def _rounding_hook(round_input: RoundInput) -> Callable[[nn.Module, Any], Any]:
    return lambda _module, inputs: (round_input(inputs[0]), *inputs[1:])


def _run_batch(model: PreTrainedModel, probes: Probes, batch: ProbeBatch) -> dict[str, Array]:
    """Outputs of a batch; with its hidden states also what each part adds to exact inputs."""
    arrays = _run(model, probes, batch)
    if batch.full_hidden_KBLD is None:
        return arrays
    exact = dict(zip(probes.boundaries, batch.full_hidden_KBLD, strict=True))
    own: list[tuple[str, Array]] = []

    def feed_exact(part: str, computed: Tensor) -> Tensor:
        own.append((part, computed.numpy()))
        return torch.from_numpy(exact[part])

    with at_boundaries(model, feed_exact):
        outputs = _run(model, probes, batch)
    arrays |= {FED_OUTPUT_PREFIX + name: array for name, array in outputs.items()}
    return arrays | reference_of_parts(own, batch.attention_mask_BL == 1)


def _run(model: PreTrainedModel, probes: Probes, batch: ProbeBatch) -> dict[str, Array]:
    feeds = {name: torch.from_numpy(array) for name, array in batch.feeds().items()}
    with torch.inference_mode():
        outputs = model(**feeds)
    arrays = {}
    for name in TASKS[probes.task].outputs:
        array = getattr(outputs, name).numpy()
        if len(batch.rows_N2):
            array = array[batch.rows_N2[:, 0], batch.rows_N2[:, 1]]
        arrays[name] = compressed(array)
    return arrays


# --- roundings of inputs -------------------------------------------------------------------------


def _input_rounding(weight: ir.Value) -> RoundInput | None:
    """How the products of a stored weight round their inputs; None if they do not."""
    for use in weight.uses():
        node = use.node
        # A tied weight is transposed in front of its product.
        if node.op_type == "Transpose":
            return _input_rounding(node.outputs[0])
        if node.op_type == "DynamicQuantizeMatMul":
            return round_dynamic
        if node.op_type == "MatMulIntegerToFloat":
            return _rounding_of_producer(node.inputs[0])
        if node.op_type == "MatMulNBits":
            return round_blocks(node.attributes["block_size"].as_int())
    return None


def _rounding_of_producer(integers: ir.Value | None) -> RoundInput:
    fixed = produced_by(integers, "QuantizeLinear")
    if fixed is None:
        return round_dynamic
    scale, zero = (float(np.asarray(constant_array(value))) for value in fixed.inputs[1:3])
    return lambda x: _on_grid(x, scale, zero)


def round_dynamic(x: Tensor) -> Tensor:
    """Rounds to the 256 levels between the tensor's extremes and 0, as DynamicQuantizeLinear."""
    low = min(float(x.min()), 0.0)
    high = max(float(x.max()), 0.0)
    scale = max(float(np.float32(np.float32(high - low) / np.float32(255))), _TINY)
    zero = float(np.clip(np.rint(np.float32(-low) / np.float32(scale)), 0, 255))
    return _on_grid(x, scale, zero)


def _on_grid(x: Tensor, scale: float, zero: float) -> Tensor:
    steps = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return (steps - zero) * scale


def round_blocks(block: int) -> RoundInput:
    """Rounds each block of a row to signed 8 bits with a scale of its own."""

    def round_input(x: Tensor) -> Tensor:
        width = x.shape[-1]
        padded = nn.functional.pad(x, (0, -width % block))
        blocks = padded.reshape(*padded.shape[:-1], -1, block)
        scale = blocks.abs().amax(-1, keepdim=True) / _BLOCK_LARGEST
        steps = torch.round(blocks / scale.clamp(min=_TINY))
        rounded: Tensor = (steps * scale).flatten(-2)[..., :width]
        return rounded

    return round_input

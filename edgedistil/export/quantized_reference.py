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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.export.boundaries import at_boundaries
from edgedistil.export.passes.edit import constant_array, formula_of, produced_by
from edgedistil.export.passes.sentence_vector import HEAD
from edgedistil.export.reference import Reference
from edgedistil.export.tensor_names import all_tensors
from edgedistil.parity.compare import reduce_outputs
from edgedistil.parity.formula import Call, parse, powers, source_names
from edgedistil.parity.part_check import FED_OUTPUT_PREFIX, PART_PREFIX, reference_of_parts
from edgedistil.parity.probes import ProbeBatch, Probes, ReferenceOutputs
from edgedistil.parity.reference_error import compressed
from edgedistil.parity.tensor_rules import WEIGHT_FUNCTIONS, round_in_place, rounds_one_tensor

Array = NDArray[Any]
RoundInput = Callable[[Tensor], Tensor]

# MatMulNBits rounds the inputs of each block to signed 8 bits.
_BLOCK_LARGEST = 127
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class QuantizedWeight:
    """A tensor of the model as an artefact stores it.

    Attributes:
        formulas: Its formulas, whose outermost function is the method; several if the graph stores
            parts of it by themselves.
        round_inputs: How each product with it rounds its input, in the order of computation; empty
            if it is multiplied in float32.
    """

    formulas: tuple[Call, ...]
    round_inputs: tuple[RoundInput, ...]


def reference_outputs(
    reference: Reference, graph: ir.Model, probes: Probes
) -> ReferenceOutputs | None:
    """Runs the model with an artefact's roundings on the probes.

    Args:
        reference: The model and what makes sentence vectors, in float32; a copy is changed.
        graph: The artefact, with the formulas of its weights.
        probes: The inputs.
    Returns:
        The outputs of each batch as `compressed` stores them; None if nothing is rounded, or the
        rounded values do not fit the model's own modules.
    """
    weights = quantized_weights(graph)
    if not weights:
        return None
    if not all(map(_fits_modules, weights.values())):
        return None
    rounded = rounded_model(reference, weights)
    outputs = tuple(_run_batch(rounded, probes, batch) for batch in probes)
    if not rounded.is_complete():
        # MobileBERT's projection is not a call of its module, so its input cannot be rounded. The
        # layers can be compared, the outputs cannot.
        outputs = tuple(_parts_only(arrays) for arrays in outputs)
    return outputs


def _fits_modules(weight: QuantizedWeight) -> bool:
    """Whether a tensor of PyTorch's module can hold the rounded values."""
    # DeBERTa's int4 has a projection in 4 bits, and in 8 bits for the vectors of distances.
    methods = {call.function for call in weight.formulas}
    return len(methods) == 1 and all(map(rounds_one_tensor, weight.formulas))


def _parts_only(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if name.startswith(PART_PREFIX)}


def quantized_weights(graph: ir.Model) -> dict[str, QuantizedWeight]:
    """Name of a source's tensor → how a graph stores it and rounds what it is multiplied with."""
    formulas: dict[str, list[Call]] = defaultdict(list)
    for value in graph.graph.initializers.values():
        formula = formula_of(value)
        call = parse(formula) if formula is not None else None
        if call is not None and call.function in WEIGHT_FUNCTIONS:
            # A packed weight is stored in parts.
            for name in source_names(call):
                formulas[name].append(call)
    # A weight that layers share may have other ranges of its inputs in each.
    roundings: dict[str, list[RoundInput]] = {name: [] for name in formulas}
    for node in graph.graph:
        multiplied = _weight_name(node)
        if multiplied is not None:
            roundings[multiplied].append(_input_rounding(node))
    return {
        name: QuantizedWeight(tuple(calls), tuple(roundings[name]))
        for name, calls in formulas.items()
    }


@dataclass(frozen=True)
class RoundedModel:
    """A copy of a model with an artefact's weights and roundings of inputs.

    Attributes:
        reference: The copy.
        rounds: `id` of each weight whose inputs must be rounded.
        calls: `id` of each weight → its products in the last forward pass.
    """

    reference: Reference
    rounds: frozenset[int]
    calls: Counter[int]

    def is_complete(self) -> bool:
        """Whether the inputs of every weight were rounded, after a forward pass."""
        return self.rounds <= self.calls.keys()


def rounded_model(reference: Reference, weights: Mapping[str, QuantizedWeight]) -> RoundedModel:
    """Copies a model, rounds its weights, and rounds the inputs of linear layers when it runs."""
    # In one copy: the layers behind the pooling hold the model, too.
    rounded = copy.deepcopy(reference)
    modules = [*rounded.model.modules()]
    parameters = all_tensors(rounded.model)
    if rounded.sentence is not None:
        modules += rounded.sentence.head.modules()
        head = all_tensors(rounded.sentence.head)
        parameters |= {f"{HEAD}.{name}": tensor for name, tensor in head.items()}
    arrays = {name: tensor.detach().numpy() for name, tensor in parameters.items()}
    roundings: dict[int, tuple[RoundInput, ...]] = {}
    for name, weight in weights.items():
        for formula in weight.formulas:
            round_in_place(formula, arrays)
        if weight.round_inputs:
            roundings[id(parameters[name])] = weight.round_inputs

    calls: Counter[int] = Counter()

    def round_inputs(module: nn.Module, inputs: Any) -> Any:
        weight = id(module.weight)
        index = calls[weight]
        calls[weight] += 1
        # DeBERTa also projects its vectors of distances, which a session does in float32.
        if index >= len(roundings[weight]):
            return inputs
        return (roundings[weight][index](inputs[0]), *inputs[1:])

    for module in modules:
        # Also a tied projection, whose weight is the embedding's own.
        if isinstance(module, nn.Linear) and id(module.weight) in roundings:
            module.register_forward_pre_hook(round_inputs)
    return RoundedModel(rounded, frozenset(roundings), calls)


def _run_batch(rounded: RoundedModel, probes: Probes, batch: ProbeBatch) -> dict[str, Array]:
    """Outputs of a batch; with its hidden states also what each part adds to exact inputs."""
    arrays = _run(rounded, batch)
    family = FAMILIES[rounded.reference.model.config.model_type]
    # Values at padding are not the model's, but a range over all values includes them.
    other_padding = family.masks_queries and not batch.attention_mask_BL.all()
    if batch.full_hidden_KBLD is None or other_padding:
        return arrays
    exact = dict(zip(probes.boundaries, batch.full_hidden_KBLD, strict=True))
    own: list[tuple[str, Array]] = []

    def feed_exact(part: str, computed: Tensor) -> Tensor:
        own.append((part, computed.numpy()))
        return torch.from_numpy(exact[part])

    with at_boundaries(rounded.reference.model, feed_exact):
        outputs = _run(rounded, batch)
    arrays |= {FED_OUTPUT_PREFIX + name: array for name, array in outputs.items()}
    return arrays | reference_of_parts(own, batch.attention_mask_BL == 1)


def _run(rounded: RoundedModel, batch: ProbeBatch) -> dict[str, Array]:
    rounded.calls.clear()
    rows = reduce_outputs(batch, rounded.reference.run(batch.feeds()))
    return {name: compressed(rows[name]) for name in batch.outputs}


# --- roundings of inputs -------------------------------------------------------------------------


# Operators with an integer weight → the index of the weight among their inputs.
_WEIGHT_INPUTS = {"DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1, "MatMulNBits": 1}


def _weight_name(node: ir.Node) -> str | None:
    """Name of the source's tensor that a product reads; None for another operator."""
    index = _WEIGHT_INPUTS.get(node.op_type)
    weight = node.inputs[index] if index is not None else None
    # A tied weight is transposed in front of its product.
    transpose = produced_by(weight, "Transpose")
    if transpose is not None:
        weight = transpose.inputs[0]
    formula = formula_of(weight) if weight is not None else None
    if formula is None:
        return None
    (name,) = source_names(parse(formula))
    return name


def _input_rounding(node: ir.Node) -> RoundInput:
    """How a product of integers rounds its input."""
    if node.op_type == "MatMulIntegerToFloat":
        return _rounding_of_producer(node.inputs[0], _divisors(node.inputs[1]))
    if node.op_type == "MatMulNBits":
        return round_blocks(node.attributes["block_size"].as_int())
    return round_dynamic


def _divisors(weight: ir.Value | None) -> Tensor | None:
    """The powers of two that moved from an input into a weight; None if nothing moved."""
    formula = formula_of(weight) if weight is not None else None
    if formula is None:
        return None
    scaled = parse(formula).arguments[0]
    while scaled.function == "scale_columns":
        scaled = scaled.arguments[0]
    if scaled.function != "scale_rows":
        return None
    return torch.from_numpy(powers(scaled.arguments[1]))


def _rounding_of_producer(integers: ir.Value | None, divisors_K: Tensor | None) -> RoundInput:
    fixed = produced_by(integers, "QuantizeLinear")
    if fixed is None:
        return round_dynamic
    scale, zero = (constant_array(value) for value in fixed.inputs[1:3])
    if scale is None or zero is None:
        return _round_rows_as(fixed)
    step, middle = float(np.asarray(scale)), float(np.asarray(zero))
    if divisors_K is None:
        return lambda x: _on_grid(x, step, middle)
    return lambda x: _on_grid(x / divisors_K, step, middle) * divisors_K


# Operators that find a row's extremes.
_EXTREMES = ("ReduceMax", "ReduceMin")


def _round_rows_as(quantize: ir.Node) -> RoundInput:
    """How a QuantizeLinear with a scale for each row rounds, by the constants of its graph."""
    flat = produced_by(quantize.inputs[1], "Reshape")
    steps = produced_by(flat.inputs[0], "Max") if flat is not None else None
    zeros = produced_by(quantize.inputs[2], "ConstantOfShape")
    if steps is None or zeros is None:
        raise ModelError(
            f"the scales of {quantize.name} are not computed as the export writes them"
        )
    zero = float(zeros.attributes["value"].as_tensor().numpy()[0])
    factors: dict[str, float] = {}
    smallest = 0.0
    for term in steps.inputs:
        product = produced_by(term, "Mul")
        extreme = (
            product.inputs[0].producer() if product is not None and product.inputs[0] else None
        )
        if product is None or extreme is None:
            smallest = float(np.asarray(constant_array(term)))
        else:
            factors[extreme.op_type] = float(np.asarray(constant_array(product.inputs[1])))

    def round_input(x: Tensor) -> Tensor:
        step = (x.amax(-1, keepdim=True) * factors["ReduceMax"]).clamp(min=smallest)
        if "ReduceMin" in factors:
            step = torch.maximum(step, x.amin(-1, keepdim=True) * factors["ReduceMin"])
        return _on_grid(x, step, zero)

    return round_input


def round_dynamic(x: Tensor) -> Tensor:
    """Rounds to the 256 levels between the tensor's extremes and 0, as DynamicQuantizeLinear."""
    low = min(float(x.min()), 0.0)
    high = max(float(x.max()), 0.0)
    scale = max(float(np.float32(np.float32(high - low) / np.float32(255))), _TINY)
    zero = float(np.clip(np.rint(np.float32(-low) / np.float32(scale)), 0, 255))
    return _on_grid(x, scale, zero)


def _on_grid(x: Tensor, scale: float | Tensor, zero: float) -> Tensor:
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

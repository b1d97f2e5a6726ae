"""Faults that are planted in exported graphs: weights, wiring, constants, lengths and batches.

A fault is a function that changes a `Plant` and returns False where the graph has no such place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from benchmarks.planted.plant import Plant, get_attribute, set_attribute

Kind = Literal["weights", "wiring", "constants", "lengths and batches", "package"]
Apply = Callable[[Plant], bool]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: What is wrong.
        kind: Kind of fault.
        apply: Plants it; False where the graph has no such place.
    """

    name: str
    kind: Kind
    apply: Apply


FAULTS: list[Fault] = []

WORDS = r"word_embeddings\.weight$"
POSITIONS = r"position_embeddings\.weight$"
QUERY, KEY = (
    r"layer\.1\.attention\.self\.query\.weight$",
    r"layer\.1\.attention\.self\.key\.weight$",
)
UP, DOWN = r"layer\.1\.intermediate\.dense\.weight$", r"layer\.1\.output\.dense\.weight$"
NORM, NORM_BIAS = r"layer\.1\.output\.LayerNorm\.weight$", r"layer\.1\.output\.LayerNorm\.bias$"
RNG_SEED = 7


def fault(name: str, kind: Kind) -> Callable[[Apply], Apply]:
    """Registers a function as a fault."""

    def register(apply: Apply) -> Apply:
        FAULTS.append(Fault(name, kind, apply))
        return apply

    return register


def add(name: str, kind: Kind, apply: Apply) -> None:
    """Registers a fault that is one of several of a form."""
    FAULTS.append(Fault(name, kind, apply))


# --- weights --------------------------------------------------------------------------------------


def _on_weight(pattern: str, change: Callable[[Plant, np.ndarray], np.ndarray]) -> Apply:
    """Changes a stored weight, seen as (outputs, inputs)."""

    def apply(plant: Plant) -> bool:
        names = plant.weights(pattern)
        if not names:
            return False
        # A tied weight may be stored twice; one reader would still be right.
        for name in names:
            plant.put_by_output(name, change(plant, plant.by_output(name)))
        return True

    return apply


def _permute_tail(_plant: Plant, rows: np.ndarray) -> np.ndarray:
    order = np.arange(len(rows))
    order[len(rows) // 2 :] = order[len(rows) // 2 :][::-1]
    return rows[order]


def _swap_two(_plant: Plant, rows: np.ndarray) -> np.ndarray:
    order = np.arange(len(rows))
    order[[len(rows) - 2, len(rows) - 5]] = order[[len(rows) - 5, len(rows) - 2]]
    return rows[order]


def _zero_rows(share: float) -> Callable[[Plant, np.ndarray], np.ndarray]:
    def change(plant: Plant, rows: np.ndarray) -> np.ndarray:
        rows = rows.copy()
        is_zeroed = np.random.default_rng(RNG_SEED).random(len(rows)) < share
        rows[is_zeroed] = plant.zeros_like(rows[is_zeroed])
        return rows

    return change


def _zero_values(share: float) -> Callable[[Plant, np.ndarray], np.ndarray]:
    def change(plant: Plant, rows: np.ndarray) -> np.ndarray:
        is_zeroed = np.random.default_rng(RNG_SEED).random(rows.shape) < share
        return np.where(is_zeroed, plant.zeros_like(rows), rows)

    return change


def _negate_channels(count: int) -> Callable[[Plant, np.ndarray], np.ndarray]:
    def change(plant: Plant, rows: np.ndarray) -> np.ndarray:
        rows = rows.copy()
        rows[:count] = plant.negated(rows[:count])
        return rows

    return change


def _shift_rows(_plant: Plant, rows: np.ndarray) -> np.ndarray:
    return np.roll(rows, 1, axis=0)


def _repeat_rows(_plant: Plant, rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[8:16] = rows[:8]
    return rows


def _scaled(factor: float) -> Callable[[Plant, np.ndarray], np.ndarray]:
    return lambda _plant, rows: (rows * np.asarray(factor, rows.dtype)).astype(rows.dtype)


def _coarser(_plant: Plant, rows: np.ndarray) -> np.ndarray:
    """Loses the two lowest bits of integers, or three decimal digits of floats."""
    if rows.dtype.kind in "iu":
        return rows & np.array(-4).astype(rows.dtype)
    return np.round(rows.astype(np.float32), 2).astype(rows.dtype)


for _name, _pattern in {"a linear layer": UP, "query": QUERY, "an output layer": DOWN}.items():
    add(f"1% of the weights of {_name} are 0", "weights", _on_weight(_pattern, _zero_values(0.01)))
    add(f"10% of the weights of {_name} are 0", "weights", _on_weight(_pattern, _zero_values(0.1)))
    add(f"8 channels of {_name} negated", "weights", _on_weight(_pattern, _negate_channels(8)))
add("one channel of a linear layer negated", "weights", _on_weight(UP, _negate_channels(1)))
add("channels of a linear layer shifted by one", "weights", _on_weight(UP, _shift_rows))
add("8 channels of a linear layer repeated", "weights", _on_weight(UP, _repeat_rows))
add("a linear layer with two bits less", "weights", _on_weight(UP, _coarser))
add("half of the vocabulary in another order", "weights", _on_weight(WORDS, _permute_tail))
add("two words exchanged", "weights", _on_weight(WORDS, _swap_two))
add("5% of the words are 0", "weights", _on_weight(WORDS, _zero_rows(0.05)))
add("positions shifted by one", "weights", _on_weight(POSITIONS, _shift_rows))
add("the later positions in another order", "weights", _on_weight(POSITIONS, _permute_tail))
add("token types exchanged", "weights", _on_weight(r"token_type_embeddings\.weight$", _shift_rows))
for _factor in (1.05, 1.2, 1.5):
    add(f"a norm times {_factor}", "weights", _on_weight(NORM, _scaled(_factor)))
add("a norm's bias times 0.95", "weights", _on_weight(NORM_BIAS, _scaled(0.95)))
add("a bias is 0", "weights", _on_weight(r"layer\.1\.intermediate\.dense\.bias$", _scaled(0)))
add("query's bias negated", "weights", _on_weight(r"layer\.1.*query\.bias$", _scaled(-1)))
add("the head's bias is 0", "weights", _on_weight(r"(classifier|predictions)\.bias$", _scaled(0)))
add(
    "outputs of the classifier exchanged",
    "weights",
    _on_weight(r"classifier\.weight$", _shift_rows),
)


def _exchange(first: str, second: str) -> Apply:
    """Exchanges two stored weights of one shape, with their scales."""

    def apply(plant: Plant) -> bool:
        pairs = [
            *zip(plant.weights(first), plant.weights(second), strict=False),
            *zip(plant.scales(first), plant.scales(second), strict=False),
        ]
        for a, b in pairs:
            array = plant.array(a)
            plant.put(a, plant.array(b))
            plant.put(b, array)
        return bool(pairs)

    return apply


add("weights of query and key exchanged", "weights", _exchange(QUERY, KEY))
add(
    "feed-forwards of two layers exchanged",
    "weights",
    _exchange(UP, UP.replace("1", "0", 1)),
)


def _scale_times(factor: float) -> Apply:
    """Multiplies a weight by its scale, where it has one."""

    def apply(plant: Plant) -> bool:
        names = plant.scales(UP)
        for name in names:
            plant.put(name, (plant.array(name) * np.float32(factor)).astype(np.float32))
        return bool(names)

    return apply


for _factor in (1.01, 1.1, 2.0):
    add(f"scales of a weight times {_factor}", "weights", _scale_times(_factor))


@fault("one scale for all channels", "weights")
def _one_scale(plant: Plant) -> bool:
    names = plant.scales(UP)
    for name in names:
        array = plant.array(name)
        plant.put(name, np.full_like(array, array.flat[0]))
    return bool(names)


# --- constants ------------------------------------------------------------------------------------


def _initializer_value(name: str, value: float) -> Apply:
    def apply(plant: Plant) -> bool:
        if name not in {tensor.name for tensor in plant.graph.initializer}:
            return False
        plant.put(name, np.full_like(plant.array(name), value))
        return True

    return apply


for _value in (-10.0, -1.0, 0.0, 10000.0):
    add(f"mask of {_value:g}", "constants", _initializer_value("constant/masked", _value))
add("the mask starts from 0.5", "constants", _initializer_value("constant/one", 0.5))
add("positions start at 1", "constants", _initializer_value("constant/start", 1))


def _attribute(op_type: str, name: str, change: Callable[[float], float], which: int) -> Apply:
    def apply(plant: Plant) -> bool:
        nodes = [
            node
            for node in plant.graph.node
            if node.op_type == op_type and get_attribute(node, name, 1.0) != 1.0
        ]
        if len(nodes) <= which:
            return False
        set_attribute(nodes[which], name, change(get_attribute(nodes[which], name, 1.0)))
        return True

    return apply


for _value in (1e-5, 1e-3, 0.1):
    add(
        f"an epsilon of {_value:g}",
        "constants",
        _attribute("LayerNormalization", "epsilon", lambda _, v=_value: v, 1),
    )
for _factor in (1.01, 1.1, 2.0):
    add(
        f"scores times {_factor}",
        "constants",
        _attribute("FusedMatMul", "alpha", lambda a, f=_factor: a * f, 1),
    )
add("scores are not scaled", "constants", _attribute("FusedMatMul", "alpha", lambda _: 1.0, 0))


def _other_activation(op_type: str, domain: str) -> Apply:
    def apply(plant: Plant) -> bool:
        nodes = plant.nodes("", "Gelu")
        if not nodes:
            return False
        nodes[0].op_type, nodes[0].domain = op_type, domain
        return True

    return apply


add("tanh's GELU in one layer", "constants", _other_activation("FastGelu", "com.microsoft"))
add("the sigmoid's GELU in one layer", "constants", _other_activation("QuickGelu", "com.microsoft"))
add("ReLU in one layer", "constants", _other_activation("Relu", ""))


def _input_constant(suffix: str, change: Callable[[np.ndarray], np.ndarray]) -> Apply:
    def apply(plant: Plant) -> bool:
        names = [t.name for t in plant.graph.initializer if t.name.endswith(suffix)]
        if not names:
            return False
        name = names[min(2, len(names) - 1)]
        plant.put(name, change(plant.array(name)))
        return True

    return apply


add(
    "a calibrated scale times 1.2",
    "constants",
    _input_constant("/input/scale", lambda a: (a * 1.2).astype(a.dtype)),
)
add(
    "a calibrated zero point plus 3",
    "constants",
    _input_constant("/input/zero", lambda a: (a + 3).astype(a.dtype)),
)

add(
    "the divisors of an input times 2",
    "constants",
    _input_constant("/input/powers.scale", lambda a: (a * 2).astype(a.dtype)),
)
add(
    "a row's largest value times 1.1",
    "constants",
    _input_constant("constant/above/16", lambda a: (a * 1.1).astype(a.dtype)),
)


# --- wiring ---------------------------------------------------------------------------------------


def _scales_of_another_layer(plant: Plant) -> bool:
    products = plant.nodes(r"MatMul/scaled$")
    if len(products) < 2:
        return False
    products[1].input[1] = products[0].input[1]
    return True


add("rows scaled by another layer's steps", "wiring", _scales_of_another_layer)


def _scores(plant: Plant, layer: int) -> onnx.NodeProto:
    return plant.nodes(rf"layer\.{layer}/.*/scores$")[0]


@fault("query and key exchanged in the scores", "wiring")
def _swap_query_key(plant: Plant) -> bool:
    node = _scores(plant, 1)
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return True


@fault("query read in place of key", "wiring")
def _query_for_key(plant: Plant) -> bool:
    node = _scores(plant, 0)
    node.input[1] = node.input[0]
    return True


@fault("key read in place of value", "wiring")
def _key_for_value(plant: Plant) -> bool:
    context = plant.nodes(r"layer\.1/.*/context$")[0]
    context.input[1] = _scores(plant, 1).input[1]
    return True


@fault("a layer does not add the mask", "wiring")
def _no_mask(plant: Plant) -> bool:
    node = plant.nodes(r"layer\.0/.*/masked$")[0]
    for reader in plant.readers(node.output[0]):
        reader.input[list(reader.input).index(node.output[0])] = node.input[0]
    return True


@fault("softmax over the queries", "wiring")
def _wrong_axis(plant: Plant) -> bool:
    set_attribute(plant.nodes(r"layer\.1/.*/weights$")[0], "axis", 2)
    return True


@fault("two heads exchanged", "wiring")
def _swap_heads(plant: Plant) -> bool:
    tensor = plant.nodes(r"layer\.1/.*/context$")[0].output[0]
    order = plant.constant(np.array([1, 0, 2, 3]))
    plant.rewrite(tensor, ("Gather", ["x", order], {"axis": 1}))
    return True


@fault("context before its transpose", "wiring")
def _wrong_turn(plant: Plant) -> bool:
    node = plant.nodes(r"layer\.1/.*/turned$")[0]
    order = next(attribute for attribute in node.attribute if attribute.name == "perm")
    # (L, B, D, H): the numbers of the heads in another order.
    del order.ints[:]
    order.ints.extend([2, 0, 3, 1])
    return True


def _without_residual(pattern: str) -> Apply:
    def apply(plant: Plant) -> bool:
        sums = plant.nodes(pattern, "Sum")
        if not sums:
            return False
        residual = next(i for i in sums[0].input if i.startswith("hidden/"))
        other = next(i for i in sums[0].input if i != residual)
        sums[0].input[list(sums[0].input).index(residual)] = other
        return True

    return apply


add(
    "the residual of attention replaced",
    "wiring",
    _without_residual(r"layer\.1/attention/output/Add"),
)
add("the residual of a feed-forward replaced", "wiring", _without_residual(r"layer\.1/output/Add"))


@fault("a layer is skipped", "wiring")
def _skip_layer(plant: Plant) -> bool:
    end, start = "hidden/layer 1 feed-forward", "hidden/layer 0 feed-forward"
    readers = plant.readers(end)
    for node in readers:
        node.input[list(node.input).index(end)] = start
    return bool(readers)


@fault("a layer runs without its attention", "wiring")
def _skip_attention(plant: Plant) -> bool:
    end, start = "hidden/layer 1 attention", "hidden/layer 0 feed-forward"
    for node in plant.readers(end):
        for index, name in enumerate(node.input):
            if name == end:
                node.input[index] = start
    return True


@fault("token types are ignored", "wiring")
def _no_types(plant: Plant) -> bool:
    readers = plant.readers("token_type_ids")
    if not readers:
        return False
    zero = plant.constant(np.array(0, np.int64))
    node = onnx.helper.make_node(
        "Mul", ["token_type_ids", zero], ["planted/types"], name="planted/types"
    )
    plant.graph.node.insert(0, node)
    for reader in readers:
        reader.input[list(reader.input).index("token_type_ids")] = "planted/types"
    return True


@fault("hidden states shifted by one token", "wiring")
def _shifted_tokens(plant: Plant) -> bool:
    ends, starts, axes = (plant.constant(np.array([v])) for v in (10**6, 1, 0))
    zero, one = plant.constant(np.array([0])), plant.constant(np.array([1]))
    plant.rewrite(
        "hidden/layer 0 feed-forward",
        ("Slice", ["x", starts, ends, axes], {}),
        ("Slice", ["x", zero, one, axes], {}),
        ("Concat", ["1", "2"], {"axis": 0}),
    )
    return True


def _times(tensor: str, factor: float) -> Apply:
    def apply(plant: Plant) -> bool:
        if not plant.tensor(tensor):
            return False
        plant.rewrite(tensor, ("Mul", ["x", plant.constant(np.array(factor, np.float32))], {}))
        return True

    return apply


for _factor in (1.01, 1.1, 2.0):
    add(f"hidden states times {_factor}", "wiring", _times("hidden/layer 0 attention", _factor))


def _times_product(pattern: str, factor: float) -> Apply:
    def apply(plant: Plant) -> bool:
        nodes = plant.nodes(pattern)
        if not nodes:
            return False
        return _times(nodes[0].output[0], factor)(plant)

    return apply


add("a product doubled", "wiring", _times_product(r"layer\.1/output/dense/MatMul$", 2.0))
add(
    "the outputs times 1.02", "wiring", _times_product(r"(classifier|decoder)/(MatMul|Gemm)$", 1.02)
)


@fault("0.5 on one output", "wiring")
def _one_output(plant: Plant) -> bool:
    if not plant.tensor("logits"):
        return False
    width = plant.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if not width:
        return False
    bias = np.zeros(width, np.float32)
    bias[0] = 0.5
    plant.rewrite("logits", ("Add", ["x", plant.constant(bias)], {}))
    return True


# --- lengths and batches --------------------------------------------------------------------------


def _where(
    condition: Callable[[Plant], list[tuple[str, list[str], dict[str, object]]]],
    factor: float = 0.9,
) -> Apply:
    """Multiplies hidden states, in (L, B, D), where a condition holds."""

    def apply(plant: Plant) -> bool:
        steps = condition(plant)
        scaled = plant.constant(np.array(factor, np.float32))
        number = len(steps)
        plant.rewrite(
            "hidden/layer 1 attention",
            *steps,
            ("Mul", ["x", scaled], {}),
            ("Where", [str(number), str(number + 1), "x"], {}),
        )
        return True

    return apply


def _size(
    axis: int, operator: str, value: int
) -> Callable[[Plant], list[tuple[str, list[str], dict[str, object]]]]:
    """Whether a dimension of the hidden states (0: length, 1: batch) compares so with a number."""

    def steps(plant: Plant) -> list[tuple[str, list[str], dict[str, object]]]:
        return [
            ("Shape", ["x"], {"start": axis, "end": axis + 1}),
            (operator, ["1", plant.constant(np.array([value]))], {}),
        ]

    return steps


def _remainder(
    axis: int, divisor: int
) -> Callable[[Plant], list[tuple[str, list[str], dict[str, object]]]]:
    """Whether a dimension is not a multiple of a number."""

    def steps(plant: Plant) -> list[tuple[str, list[str], dict[str, object]]]:
        zero = plant.constant(np.array([0]))
        return [
            ("Shape", ["x"], {"start": axis, "end": axis + 1}),
            ("Mod", ["1", plant.constant(np.array([divisor]))], {}),
            ("Greater", ["2", zero], {}),
        ]

    return steps


for _length in (8, 32, 64, 100):
    add(
        f"wrong above {_length} tokens", "lengths and batches", _where(_size(0, "Greater", _length))
    )
for _length in (6, 16):
    add(f"wrong below {_length} tokens", "lengths and batches", _where(_size(0, "Less", _length)))
add("wrong at the longest length only", "lengths and batches", _where(_size(0, "Greater", 126)))
for _divisor in (2, 4, 8):
    add(
        f"wrong where the length is not a multiple of {_divisor}",
        "lengths and batches",
        _where(_remainder(0, _divisor)),
    )
for _count in (1, 2, 3):
    add(
        f"wrong in batches of more than {_count}",
        "lengths and batches",
        _where(_size(1, "Greater", _count)),
    )
add("wrong for single texts", "lengths and batches", _where(_size(1, "Less", 2)))


def _rows(axis: int, first: int, last: int) -> Apply:
    """Multiplies some tokens or some sequences of the hidden states."""

    def apply(plant: Plant) -> bool:
        cut, end = plant.constant(np.array([first])), plant.constant(np.array([last]))
        zero, axes = plant.constant(np.array([0])), plant.constant(np.array([axis]))
        half = plant.constant(np.array(0.8, np.float32))
        plant.rewrite(
            "hidden/layer 0 attention",
            ("Slice", ["x", zero, cut, axes], {}),
            ("Slice", ["x", cut, end, axes], {}),
            ("Mul", ["2", half], {}),
            ("Concat", ["1", "3"], {"axis": axis}),
        )
        return True

    return apply


add("the last token of every text wrong", "lengths and batches", _rows(0, -1, 10**6))
add("tokens from the 70th on wrong", "lengths and batches", _rows(0, 70, 10**6))
add("the last text of every batch wrong", "lengths and batches", _rows(1, -1, 10**6))
add("texts from the third on wrong", "lengths and batches", _rows(1, 2, 10**6))

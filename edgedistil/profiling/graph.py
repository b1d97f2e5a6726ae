"""Inputs and tables of an ONNX encoder, also of one that other exporters wrote.

Their graphs differ from ours in the names of the inputs, in their integer type, and in batch or
length being fixed. The runner passes arrays under the graph's names, in its types and shapes
(`runner.ModelSession`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnx import TensorProto

from edgedistil.core.errors import ModelError
from edgedistil.core.task import USUAL_CHOICES

# What a workload of text can provide; the runner computes the last two itself.
Source = Literal["input_ids", "attention_mask", "token_type_ids", "position_ids", "row_ids"]

# Names in graphs of transformers, TensorFlow, TF Hub and the ONNX model zoo.
_SOURCES: Mapping[str, Source] = {
    "input_ids": "input_ids",
    "input_word_ids": "input_ids",
    "token_ids": "input_ids",
    "tokens": "input_ids",
    "ids": "input_ids",
    "attention_mask": "attention_mask",
    "attn_mask": "attention_mask",
    "input_mask": "attention_mask",
    "mask": "attention_mask",
    "token_type_ids": "token_type_ids",
    "input_type_ids": "token_type_ids",
    "type_ids": "token_type_ids",
    "segment_ids": "token_type_ids",
    "segments": "token_type_ids",
    "position_ids": "position_ids",
    "unique_ids": "row_ids",
    "unique_ids_raw_output": "row_ids",
}
# TensorFlow adds a scope or a prefix in front of a name, and exporters number equal names.
_PREFIX = re.compile(r"^(?:.*/)?(?:serving_default_|model_)?")
_SUFFIX = re.compile(r"(?::\d+|[._]+\d+)+$")
_INTEGERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.INT16}
# A mask is also taken as a number or a truth value.
_MASKS = _INTEGERS | {
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.BOOL,
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
}
# Operators whose output has the ids of their first input.
_UNCHANGED_IDS = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
# Operators between stored weights and the table that is read.
_UNCHANGED_TABLE = {"Cast", "Identity", "DequantizeLinear"}
_GATHERS = {"Gather", "GatherBlockQuantized"}
# Inputs of onnxruntime's fused embeddings: the tables of the ids in the same order.
_FUSED_TABLES: Sequence[tuple[int, Source]] = (
    (2, "input_ids"),
    (3, "position_ids"),
    (4, "token_type_ids"),
)
# (batch, choices, sequence): a graph of multiple choice.
_CHOICES_RANK = 3
# A larger call than this is a mistake in the file: its inputs alone would take gigabytes.
_MAX_CALL_TOKENS = 2**20


@dataclass(frozen=True)
class GraphFacts:
    """Inputs of a graph and the sizes of its embedding tables.

    Attributes:
        inputs: Graph's name of an input → what it takes.
        batch: Sequences per call; 1 unless the graph has another fixed number, or choices.
        length: Tokens of a sequence, if the graph takes no other number.
        vocabulary: Rows of the word-embedding matrix; None if it was not found.
        positions: Rows of the position table; None if it was not found.
        segments: Rows of the segment table; None if it was not found.
    """

    inputs: Mapping[str, Source]
    batch: int = 1
    length: int | None = None
    vocabulary: int | None = None
    positions: int | None = None
    segments: int | None = None


def read_graph_facts(graph: Any, path: Path) -> GraphFacts:
    """Returns the facts of a parsed graph.

    Args:
        graph: onnx.GraphProto.
        path: Its file, for messages.
    Raises:
        ModelError: It takes something that text cannot provide; the message lists its inputs.
    """
    # Before ONNX IR version 4, weights were listed as inputs too.
    weights = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in weights]
    inputs = _find_sources(values)
    problem = _find_problem(values, inputs)
    if problem is not None:
        raise _not_text(path, values, problem)
    shapes = [_shape(value) for value in values]
    batches = {shape[0] for shape in shapes if shape and shape[0] is not None}
    lengths = {shape[-1] for shape in shapes if len(shape) > 1 and shape[-1] is not None}
    choices = {shape[1] or USUAL_CHOICES for shape in shapes if len(shape) == _CHOICES_RANK}
    if max(len(batches), len(lengths), len(choices)) > 1:
        raise _not_text(path, values, "their fixed sizes contradict each other")
    batch, length = next(iter(batches), 1), next(iter(lengths), None)
    if choices and batch > 1:
        raise _not_text(path, values, "a call has several questions of several choices")
    # A call is one question: its choices are the sequences.
    batch *= next(iter(choices), 1)
    if batch * (length or 1) > _MAX_CALL_TOKENS:
        raise _not_text(path, values, f"a call would have over {_MAX_CALL_TOKENS:,} tokens")
    tables = _find_tables(graph, inputs)
    return GraphFacts(
        inputs=inputs,
        batch=batch,
        length=length,
        vocabulary=tables.get("input_ids"),
        positions=tables.get("position_ids"),
        segments=tables.get("token_type_ids"),
    )


# --- inputs --------------------------------------------------------------------------------------


def _find_sources(values: Sequence[Any]) -> dict[str, Source]:
    """Returns what each input takes, by its name; inputs with an unknown name are left out."""
    sources: dict[str, Source] = {}
    for value in values:
        source = _SOURCES.get(_plain_name(value.name))
        if source is not None:
            sources[value.name] = source
    # A single input can only be the ids, whatever its name is.
    if len(values) == 1 and not sources and _kind(values[0]) in _INTEGERS:
        sources[values[0].name] = "input_ids"
    return sources


def _plain_name(name: str) -> str:
    """Returns "input_ids" for "bert/input_ids:0", "serving_default_input_ids" and the like."""
    return _SUFFIX.sub("", _PREFIX.sub("", name)).lower()


def _find_problem(values: Sequence[Any], sources: Mapping[str, Source]) -> str | None:
    """Returns why text cannot provide these inputs; None if it can."""
    unknown = [value.name for value in values if value.name not in sources]
    if unknown:
        return f"{unknown[0]} is unknown"
    if "input_ids" not in sources.values():
        return "none of them takes token ids"
    if len(set(sources.values())) < len(sources):
        return "two of them take the same"
    for value in values:
        source = sources[value.name]
        if _kind(value) not in (_MASKS if source == "attention_mask" else _INTEGERS):
            return f"{value.name} does not take integers"
        rank = len(_shape(value))
        expected = (0, 1) if source == "row_ids" else (0, 2, _CHOICES_RANK)
        if rank not in expected:
            return f"{value.name} has {rank} dimensions"
    ranks = {len(_shape(value)) for value in values if sources[value.name] != "row_ids"}
    if _CHOICES_RANK in ranks and len(ranks) > 1:
        return "only some of them have an axis of choices"
    return None


def _kind(value: Any) -> int:
    return int(value.type.tensor_type.elem_type)


def _shape(value: Any) -> list[int | None]:
    """Sizes of the dimensions, None where they are free; empty if the graph gives no shape."""
    sizes = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    return [size if size > 0 else None for size in sizes]


def _not_text(path: Path, values: Sequence[Any], problem: str) -> ModelError:
    described = ", ".join(_describe(value) for value in values) or "(none)"
    return ModelError(
        f"{path} has the inputs {described}: {problem}; expected input_ids, optionally "
        f"attention_mask, token_type_ids and position_ids, integers of shape (batch, sequence)",
        hint="only models that read token ids can be profiled, because the workload is text; "
        "rename the inputs if these are token ids",
    )


def _describe(value: Any) -> str:
    """Returns "input_ids (int64, batch × 128)"."""
    kinds = TensorProto.DataType
    name = "unknown type"
    if _kind(value) in kinds.values():
        name = kinds.Name(_kind(value)).lower()
    dimensions = value.type.tensor_type.shape.dim
    sizes = [dimension.dim_param or str(dimension.dim_value or "?") for dimension in dimensions]
    return f"{value.name} ({name}, {' × '.join(sizes) or 'any shape'})"


# --- tables --------------------------------------------------------------------------------------


def _find_tables(graph: Any, inputs: Mapping[str, Source]) -> dict[Source, int]:
    """Returns the rows of the tables that ids are looked up in."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) >= 2}
    ids: dict[str, Source] = dict(inputs)
    tables: dict[Source, int] = {}
    # The nodes are in the order of execution: ids and tables are followed through those before.
    for node in graph.node:
        if node.op_type in _UNCHANGED_IDS and _first(node.input) in ids:
            ids.update(dict.fromkeys(node.output, ids[node.input[0]]))
        if node.op_type in _UNCHANGED_TABLE and _first(node.input) in rows:
            rows.update(dict.fromkeys(node.output, rows[node.input[0]]))
        for source, table in _lookups(node, ids):
            if table in rows:
                tables[source] = min(rows[table], tables.get(source, rows[table]))
    # Positions are often no input: their table is known by its name.
    named = [rows[name] for name in _position_tables(graph)]
    if named:
        tables["position_ids"] = min([*named, *_optional(tables.get("position_ids"))])
    return tables


def _lookups(node: Any, ids: Mapping[str, Source]) -> Iterator[tuple[Source, str]]:
    """Yields the kind of ids and the table of each look-up of a node."""
    if node.op_type in _GATHERS and len(node.input) >= 2 and node.input[1] in ids:
        yield ids[node.input[1]], node.input[0]
    if node.op_type == "EmbedLayerNormalization":
        for position, source in _FUSED_TABLES:
            if position < len(node.input):
                yield source, node.input[position]


def _position_tables(graph: Any) -> list[str]:
    """Names of the matrices that are position embeddings by their names."""
    names = []
    for tensor in graph.initializer:
        name = tensor.name.lower()
        # Relative positions have tables, too, which bound no length.
        is_position = "position" in name and "embed" in name and "relative" not in name
        if is_position and len(tensor.dims) == 2 and tensor.data_type not in _INTEGERS:
            names.append(tensor.name)
    return names


def _first(names: Sequence[str]) -> str:
    return names[0] if names else ""


def _optional(value: int | None) -> Iterable[int]:
    return () if value is None else (value,)

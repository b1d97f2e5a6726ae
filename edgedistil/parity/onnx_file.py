"""Checks of an ONNX file and its external data before anything opens them.

onnxruntime notices the same problems, but on a board they would look like failures of the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from edgedistil.core.errors import ModelError

_CORRUPT_HINT = "it is truncated or corrupt: export it again"
_OUTSIDE_HINT = (
    "external data must be in the folder of its graph; a graph that points elsewhere could read any"
    " of your files"
)
# Longest file name of Linux and macOS, in bytes.
_LONGEST_NAME = 255


def check_onnx_file(path: Path) -> list[Path]:
    """Checks a graph and its external data files without reading any weight.

    Args:
        path: The graph.
    Returns:
        The graph, then its external data files, sorted by name.
    Raises:
        ModelError: The graph is not readable, or external data is missing, truncated, or outside
            the graph's folder.
    """
    data_files = set()
    for tensor in _tensors(read_onnx_graph(path)):
        if any(size < 0 for size in tensor.dims):
            raise ModelError(
                f"{path} is not a readable ONNX file: weight '{tensor.name}' has a negative size",
                hint=_CORRUPT_HINT,
            )
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data_files.add(_check_external_data(path, tensor))
    return [path, *sorted(data_files, key=lambda file: file.name)]


def read_onnx_graph(path: Path) -> Any:
    """Parses a graph without its external data; raises like `read_onnx_model`."""
    return read_onnx_model(path).graph


def read_onnx_model(path: Path) -> Any:
    """Parses a graph and its metadata, without external data.

    Raises:
        ModelError: The file is missing, not a regular file, or not a graph with nodes.
    """
    # Not `Path.is_file`, which raises an OSError for a name that is too long. A pipe would be read
    # until the end of time.
    if not os.path.isfile(path):  # noqa: PTH113
        raise ModelError(f"no model file {path}", hint="expected the path of an .onnx file")
    try:
        # Only the graph is parsed: a complete load would read gigabytes for a look at their
        # locations. The format is fixed, because onnx would select it by the file's suffix.
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    # protobuf and onnx raise exceptions of several types for a file that they cannot parse.
    except Exception as error:
        raise ModelError(
            f"{path} is not a readable ONNX file: {error}", hint=_CORRUPT_HINT
        ) from error
    # protobuf reads an empty file, and some others, as a message without any field.
    if not model.graph.node:
        raise ModelError(f"{path} is not a readable ONNX file: it has no nodes", hint=_CORRUPT_HINT)
    # protobuf returns bytes where a string is not UTF-8.
    if any(isinstance(text, bytes) for text in _texts(model.graph)):
        raise ModelError(
            f"{path} is not a readable ONNX file: a name is not UTF-8", hint=_CORRUPT_HINT
        )
    return model


def _texts(graph: Any) -> Iterator[Any]:
    """Yields every name and other text of a graph, those of its subgraphs included."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dimension.dim_param for dimension in value.type.tensor_type.shape.dim)
    for tensor in _tensors(graph):
        yield tensor.name
        for entry in tensor.external_data:
            yield entry.key
            yield entry.value
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for subgraph in _subgraphs(attribute):
                yield from _texts(subgraph)


def _tensors(graph: Any) -> Iterator[Any]:
    """Yields every stored tensor of a graph, those in attributes and subgraphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in _subgraphs(attribute):
                yield from _tensors(subgraph)


def _subgraphs(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _check_external_data(path: Path, tensor: Any) -> Path:
    """Returns the external data file of one weight after checking location and size."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    # What the system refuses as a name: onnxruntime could not open it either.
    if "\0" in location or any(len(os.fsencode(p)) > _LONGEST_NAME for p in location.split("/")):
        raise ModelError(
            f"{path} stores weight '{tensor.name}' in '{location}', which is not a file name",
            hint=_CORRUPT_HINT,
        )
    data_file: Path = path.parent / location

    # With symbolic links followed, so a link that leads outside is refused, too.
    folder = os.path.realpath(path.parent)
    in_folder = Path(os.path.realpath(data_file)).is_relative_to(folder)
    if not location or Path(location).is_absolute() or not in_folder:
        raise ModelError(
            f"{path} stores weight '{tensor.name}' in '{location}', outside its own folder",
            hint=_OUTSIDE_HINT,
        )
    if not data_file.is_file():
        raise ModelError(
            f"{path} needs {location} in the same folder, and it is not there",
            hint="copy both files, or export again",
        )
    _check_size(path, data_file, tensor.name, entries)
    return data_file


def _check_size(path: Path, data_file: Path, weight: str, entries: Mapping[str, str]) -> None:
    """Raises ModelError if a file ends before a weight does."""
    end = 0
    for key in ("offset", "length"):
        text = entries.get(key, "0")
        # Not `isdigit` alone, which accepts digits of other scripts; 19 digits are 8 exabytes.
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise ModelError(
                f"{path}: the {key} of weight '{weight}' in its external data is '{text}', "
                f"expected a number of bytes",
                hint=_CORRUPT_HINT,
            )
        end += int(text)
    size = data_file.stat().st_size
    if end > size:
        raise ModelError(
            f"{data_file} is truncated: weight '{weight}' ends at byte {end:,},"
            f" the file has {size:,}",
            hint="it was cut off while it was copied or written: copy it again, or export again",
        )

"""Checks of an ONNX file and its external data before anything opens them.

onnxruntime notices the same problems, but on a board they would look like failures of the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgedistil.core.errors import ModelError

_CORRUPT_HINT = "it is truncated or corrupt: export it again"
_OUTSIDE_HINT = (
    "external data must be in the folder of its graph; a graph that points elsewhere could read any"
    " of your files"
)


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
    for tensor in _read_graph(path).initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data_files.add(_check_external_data(path, tensor))
    return [path, *sorted(data_files, key=lambda file: file.name)]


def _read_graph(path: Path) -> onnx.GraphProto:
    # Only the graph is parsed: a complete load would read gigabytes for a look at their locations.
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelError(
            f"{path} is not a readable ONNX file: {error}", hint=_CORRUPT_HINT
        ) from error
    # protobuf reads an empty file, and some others, as a message without any field.
    if not model.graph.node:
        raise ModelError(f"{path} is not a readable ONNX file: it has no nodes", hint=_CORRUPT_HINT)
    return model.graph


def _check_external_data(path: Path, tensor: onnx.TensorProto) -> Path:
    """Returns the external data file of one weight after checking location and size."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    data_file: Path = path.parent / location

    # resolve() follows symbolic links, so a link that leads outside is refused, too.
    in_folder = data_file.resolve().is_relative_to(path.parent.resolve())
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
    _check_size(data_file, tensor.name, entries)
    return data_file


def _check_size(data_file: Path, weight: str, entries: Mapping[str, str]) -> None:
    """Raises ModelError if a file ends before a weight does."""
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    size = data_file.stat().st_size
    if end > size:
        raise ModelError(
            f"{data_file} is truncated: weight '{weight}' ends at byte {end:,},"
            f" the file has {size:,}",
            hint="it was cut off while it was copied or written: copy it again, or export again",
        )

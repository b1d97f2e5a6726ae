"""A stored graph and the weights beside it: looked at before anything opens them."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgedistil.core.errors import ModelError


def check_stored(path: Path) -> list[Path]:
    """The files of a stored graph, graph first, after a look at all of them; no weight is read.

    Raises:
        ModelError: No ONNX, torn, external data missing or too short, or outside the graph's folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelError(
            f"{path} is no ONNX file that can be read: {error}",
            hint="it is torn or damaged: export it again",
        ) from error
    if not model.graph.node:
        raise ModelError(
            f"{path} is no ONNX file that can be read: it has no nodes",
            hint="it is torn or damaged: export it again",
        )
    files = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            file = _external_file(path, tensor)
            files[file.name] = file
    return [path, *(files[name] for name in sorted(files))]


def _external_file(path: Path, tensor: onnx.TensorProto) -> Path:
    entry = {each.key: each.value for each in tensor.external_data}
    location = entry.get("location", "")
    file: Path = path.parent / location
    inside = (
        location
        and not Path(location).is_absolute()
        and file.resolve().is_relative_to(path.parent.resolve())
    )
    if not inside:
        raise ModelError(
            f"{path} keeps weight '{tensor.name}' in '{location}', outside its own folder: refused",
            hint="external data lies beside its graph; a graph that points elsewhere can read any file of yours",
        )
    if not file.is_file():
        raise ModelError(
            f"{path} needs {location} beside it, and it is not there",
            hint="copy both files, or export again",
        )
    offset, length = int(entry.get("offset", 0)), int(entry.get("length", 0))
    size = file.stat().st_size
    if offset + length > size:
        raise ModelError(
            f"{file} is too short: weight '{tensor.name}' ends at byte {offset + length:,}, the file has {size:,}",
            hint="it was cut off while it was copied or written: copy it again, or export again",
        )
    return file

"""Graphs on disk: one file, or a graph and its weights beside it. What is read back is checked before it is used."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgedistil.errors import ModelError
from edgedistil.rundir import storage_errors

EXTERNAL_SUFFIX = "_data"  # model.onnx_data: the name that transformers.js and optimum look for
EXTERNAL_FROM_BYTES = 1024
PAGE_BYTES, ALIGNED_FROM_BYTES = 4096, 65536  # a weight is mapped into memory where a page starts
PROTOBUF_LIMIT_BYTES = 2**31 - 1


def save_graph(model: ir.Model, path: Path, *, external: bool) -> list[Path]:
    """Writes a graph; returns its files, the graph first.

    Args:
        external: Weights go into `<name>_data` beside the graph. A runtime maps them into memory instead of parsing
            them: it starts faster and its peak is lower.
    Raises:
        StorageError: The disk is full or the folder cannot be written.
        ModelError: A single file would be larger than protobuf's 2 GiB.
    """
    data = path.with_name(path.name + EXTERNAL_SUFFIX)
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if not external and size > PROTOBUF_LIMIT_BYTES:
        raise ModelError(
            f"{path.name} would be {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB", hint="leave out --single-file"
        )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        ir.save(
            model,
            path,
            external_data=data.name if external else None,
            size_threshold_bytes=EXTERNAL_FROM_BYTES,
            max_workers=1,  # one weight at a time in memory, and one order of bytes
            alignment=PAGE_BYTES,
            align_threshold=ALIGNED_FROM_BYTES,
        )
    return [path, data] if external and data.exists() else [path]


def check_stored(path: Path) -> list[Path]:
    """The files of a stored graph, graph first, after a look at all of them; no weight is read.

    Raises:
        ModelError: No ONNX, torn, external data missing or too short, or outside the graph's folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelError(
            f"{path} is no ONNX file that can be read: {error}", hint="it is torn or damaged: export it again"
        ) from error
    if not model.graph.node:
        raise ModelError(
            f"{path} is no ONNX file that can be read: it has no nodes", hint="it is torn or damaged: export it again"
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
    inside = location and not Path(location).is_absolute() and file.resolve().is_relative_to(path.parent.resolve())
    if not inside:
        raise ModelError(
            f"{path} keeps weight '{tensor.name}' in '{location}', outside its own folder: refused",
            hint="external data lies beside its graph; a graph that points elsewhere can read any file of yours",
        )
    if not file.is_file():
        raise ModelError(
            f"{path} needs {location} beside it, and it is not there", hint="copy both files, or export again"
        )
    offset, length = int(entry.get("offset", 0)), int(entry.get("length", 0))
    size = file.stat().st_size
    if offset + length > size:
        raise ModelError(
            f"{file} is too short: weight '{tensor.name}' ends at byte {offset + length:,}, the file has {size:,}",
            hint="it was cut off while it was copied or written: copy it again, or export again",
        )
    return file

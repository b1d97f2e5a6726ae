"""Graphs on disk: one file, or a graph and its weights beside it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgedistil.core.errors import ModelError
from edgedistil.core.rundir import storage_errors

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
    size = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
    if not external and size > PROTOBUF_LIMIT_BYTES:
        raise ModelError(
            f"{path.name} would be {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB",
            hint="leave out --single-file",
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

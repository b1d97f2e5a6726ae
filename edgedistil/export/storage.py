"""Writes graphs to disk: as one file, or as a graph and a file with its weights."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgedistil.core.errors import ModelError
from edgedistil.core.rundir import storage_errors
from edgedistil.parity.formula import META, METADATA_KEY, Provenance

# model.onnx_data is the name that transformers.js and optimum look for.
EXTERNAL_SUFFIX = "_data"
# Smaller constants, such as shapes, stay in the graph.
EXTERNAL_FROM_BYTES = 1024
# A runtime maps a weight into memory only if it starts at a page of the file.
PAGE_BYTES = 4096
# Smaller weights are not aligned: the padding would be a large part of the file.
ALIGNED_FROM_BYTES = 65536
PROTOBUF_LIMIT_BYTES = 2**31 - 1


def save_graph(model: ir.Model, path: Path, *, external: bool) -> list[Path]:
    """Writes a graph to disk.

    Args:
        model: The graph.
        path: The file; its folder is created if it does not exist.
        external: Whether the weights go into `<name>_data` in the same folder. A runtime maps that
            file into memory instead of parsing it: a session starts faster and its peak is lower
            (docs/log.md#cold-load-and-peak-memory-first-round).
    Returns:
        The files, the graph first.
    Raises:
        StorageError: The disk is full or the folder cannot be written.
        ModelError: A single file would be larger than protobuf's 2 GiB.
    """
    model.metadata_props[METADATA_KEY] = read_provenance(model).to_json()
    size = _initializer_bytes(model)
    if not external and size > PROTOBUF_LIMIT_BYTES:
        raise ModelError(
            f"{path.name} would be {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB",
            hint="leave out --single-file",
        )
    data_file = path.with_name(path.name + EXTERNAL_SUFFIX)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        ir.save(
            model,
            path,
            external_data=data_file.name if external else None,
            size_threshold_bytes=EXTERNAL_FROM_BYTES,
            # One weight at a time: a lower peak of memory, and a fixed order of bytes.
            max_workers=1,
            alignment=PAGE_BYTES,
            align_threshold=ALIGNED_FROM_BYTES,
        )
    if external and data_file.exists():
        return [path, data_file]
    return [path]


def read_provenance(model: ir.Model) -> Provenance:
    """Collects the formulas that trace and passes recorded in a graph."""
    initializers = {
        name: value.meta[META]
        for name, value in model.graph.initializers.items()
        if META in value.meta
    }
    attributes = {}
    # Those of subgraphs, too.
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for name, formula in node.meta.get(META, {}).items():
            attributes[f"{node.name}:{name}"] = formula
    return Provenance(initializers, attributes)


def _initializer_bytes(model: ir.Model) -> int:
    size = 0
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            size += value.const_value.nbytes
    return size

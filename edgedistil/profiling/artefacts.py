"""Which files are profiled: the exports of a run, or one ONNX file of the user's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto

from edgedistil.core.errors import ModelError, RunError
from edgedistil.core.precision import Precision
from edgedistil.core.records import (
    ExportRecord,
    FileFacts,
    Role,
    read_record,
    text_sha256,
)
from edgedistil.core.rundir import RunDir, artefact_sha256
from edgedistil.parity.onnx_file import check_onnx_file
from edgedistil.runtime.protocol import JobModel

_GRAPH = (
    "graph.onnx"  # a user's file may have any name; external data keeps the one that the graph says
)
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Artefact:
    """One graph file with what is known about it."""

    model: str
    role: Role | Literal["other"]
    task: str
    precision: Precision
    path: Path
    external: tuple[Path, ...]
    file_bytes: int
    parameters: int
    sha256: str
    tokenizer: Path
    inputs: tuple[str, ...]
    max_length: int | None

    @property
    def label(self) -> str:
        return f"{self.model}-{self.task}.{self.precision}"

    def job_model(self) -> JobModel:
        return JobModel(file=f"{self._folder}/{_GRAPH}")

    def job_files(self) -> dict[str, Path]:
        """Name in a job's folder → local file, external data included."""
        return {
            f"{self._folder}/{_GRAPH}": self.path,
            **{f"{self._folder}/{path.name}": path for path in self.external},
        }

    @property
    def _folder(self) -> str:
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.label)
        return safe.lstrip(".-") or "model"


def run_artefacts(run: RunDir) -> list[Artefact]:
    """The exported artefacts of a run: teachers first, then by task and precision.

    Raises:
        RunError: There are none, or a record's file is gone or was changed.
    """
    records = sorted(run.exports.glob("*/export.*.json")) if run.exports.is_dir() else []
    if not records:
        run.require(run.exports / "student-feature-extraction", "edgedistil export --quantize int8")
    found = [_from_record(path) for path in records]
    order = {"teacher": 0, "student": 1}
    return sorted(
        found, key=lambda a: (a.task, order.get(a.role, 2), a.precision != "fp32", a.precision)
    )


def _from_record(path: Path) -> Artefact:
    record = read_record(path, ExportRecord)
    folder = path.parent
    files = [folder / each.path for each in record.files]
    for file, facts in zip(files, record.files, strict=True):
        if not file.is_file():
            raise RunError(
                f"{file} is gone, though {path} names it", hint="export again: edgedistil export"
            )
        if file.stat().st_size != facts.bytes:
            raise RunError(
                f"{file} was changed since it was exported: {file.stat().st_size} bytes, the record says {facts.bytes}",
                hint="export again: edgedistil export",
            )
    return Artefact(
        model=record.model,
        role=record.role,
        task=record.task,
        precision=record.precision,
        path=files[0],
        external=tuple(files[1:]),
        file_bytes=sum(each.bytes for each in record.files),
        parameters=record.parameters,
        sha256=_digest(record.files),
        tokenizer=find_tokenizer(files[0]),
        inputs=graph_inputs(files[0]),
        max_length=_max_length(folder),
    )


def _digest(files: Sequence[FileFacts]) -> str:
    """What `artefact_sha256` says of the same files, from the digests that the record has."""
    if len(files) == 1:
        return files[0].sha256
    return text_sha256("".join(f"{each.sha256}  {Path(each.path).name}\n" for each in files))


def file_artefact(path: Path) -> Artefact:
    """One ONNX file that no run knows.

    Raises:
        ModelError: Missing, torn or no ONNX, its weights missing, too short or outside its folder, takes something else
            than token ids, or has no tokenizer beside it.
    """
    if not path.is_file():
        raise ModelError(f"no model file {path}", hint="--model takes an .onnx file")
    graph = _load_graph(path)
    _, *external = check_onnx_file(path)
    return Artefact(
        model=path.stem,
        role="other",
        task="other",
        precision=_precision(graph),
        path=path,
        external=tuple(external),
        file_bytes=sum(each.stat().st_size for each in (path, *external)),
        parameters=count_parameters(graph),
        sha256=artefact_sha256(path),
        tokenizer=find_tokenizer(path),
        inputs=_checked_inputs(graph, path),
        max_length=_max_length(path.parent) or _max_length(path.parent.parent),
    )


def graph_inputs(path: Path) -> tuple[str, ...]:
    return _checked_inputs(_load_graph(path), path)


def _load_graph(path: Path) -> Any:
    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf raises a family of its own for a file that is no model
        raise ModelError(f"{path} is no ONNX model: {error}") from error


def _checked_inputs(graph: Any, path: Path) -> tuple[str, ...]:
    weights = {each.name for each in graph.initializer}
    names = tuple(each.name for each in graph.input if each.name not in weights)
    unknown = [name for name in names if name not in TOKEN_INPUTS]
    if unknown or "input_ids" not in names:
        raise ModelError(
            f"{path} takes {', '.join(names) or 'nothing'}; expected input_ids and perhaps "
            f"{', '.join(TOKEN_INPUTS[1:])}: the workload is text",
        )
    return names


_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_INTEGERS = {TensorProto.INT8, TensorProto.UINT8}


def count_parameters(graph: Any) -> int:
    """Elements of the weights: floats and 8-bit integers, matrices or over 64 elements (no scales, no shapes)."""
    total = 0
    for tensor in graph.initializer:
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        if tensor.data_type in _FLOATS | _INTEGERS and (len(tensor.dims) >= 2 or elements > 64):
            total += elements
    return total


def _precision(graph: Any) -> Precision:
    sizes: dict[int, int] = {}
    for tensor in graph.initializer:
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + elements
    if any(node.op_type == "MatMulNBits" for node in graph.node):
        return "int4"
    integers = {kind: size for kind, size in sizes.items() if kind in _INTEGERS}
    if integers and max(integers.values()) * 4 > max(sizes.get(kind, 0) for kind in _FLOATS):
        return (
            "int8"
            if integers.get(TensorProto.INT8, 0) >= integers.get(TensorProto.UINT8, 0)
            else "uint8"
        )
    return "fp16" if sizes.get(TensorProto.FLOAT16, 0) > sizes.get(TensorProto.FLOAT, 0) else "fp32"


def find_tokenizer(path: Path) -> Path:
    """tokenizer.json beside the graph or one folder above.

    Raises:
        ModelError: Neither has one.
    """
    for folder in (path.parent, path.parent.parent):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    raise ModelError(
        f"no tokenizer.json beside {path} or one folder above",
        hint="the workload is real text: put the model's tokenizer.json there",
    )


def _max_length(folder: Path) -> int | None:
    """Most positions that the model has, if its config tells."""
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(
            "max_position_embeddings"
        )
    except (OSError, ValueError, AttributeError):
        return None
    return value if isinstance(value, int) and value > 0 else None

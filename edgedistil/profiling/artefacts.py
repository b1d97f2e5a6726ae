"""The ONNX files to profile: the exports of a run, or one file of the user's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

# The inputs that a workload of text can provide.
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# In a job's folder the graph always has this name, because a user's file may have any. External
# data keeps its own name: the graph refers to it.
_GRAPH = "graph.onnx"
_EXPORT_AGAIN = "export again: edgedistil export"

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_INTEGERS = {TensorProto.INT8, TensorProto.UINT8}
# A one-dimensional tensor up to this size is a scale, a zero point or a shape, not a weight.
_LARGEST_CONSTANT = 64
# A graph counts as int8 unless it has this many times as many float elements: the word-embedding
# matrix of an int8 model may be in float, and is the largest matrix of a small model.
_FLOAT_EXCESS = 4


@dataclass(frozen=True)
class Artefact:
    """An ONNX model with the facts that profiling needs.

    Attributes:
        model: Name of the model: teacher, student, or the stem of the user's file.
        path: The graph.
        external: Files with the graph's external data.
        file_bytes: Size of the graph and its external data.
        sha256: Digest of all these files, as `artefact_sha256` computes it.
        tokenizer: The tokenizer.json that makes the model's inputs.
        inputs: Names of the graph's inputs.
        max_length: Positions of the model in tokens; None if its config does not say.
    """

    model: str
    role: Role
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
        """Name in jobs, replies and messages: `student-fill-mask.int8`."""
        return f"{self.model}-{self.task}.{self.precision}"

    def job_model(self) -> JobModel:
        """Returns this artefact as a model of a job."""
        return JobModel(file=f"{self._job_folder}/{_GRAPH}")

    def job_files(self) -> dict[str, Path]:
        """Name in a job's folder → local file, external data included."""
        files = {f"{self._job_folder}/{_GRAPH}": self.path}
        for path in self.external:
            files[f"{self._job_folder}/{path.name}"] = path
        return files

    @property
    def _job_folder(self) -> str:
        # A user's file may have any name; names in a job are letters, digits and `._-`.
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.label)
        return safe.lstrip(".-") or "model"


# --- exports of a run ----------------------------------------------------------------------------


def run_artefacts(run: RunDir) -> list[Artefact]:
    """Returns the exported artefacts of a run, sorted by task, teachers first, fp32 first.

    Raises:
        RunError: The run has no exports, or the file of a record is missing or was changed.
    """
    records = sorted(run.exports.glob("*/export.*.json")) if run.exports.is_dir() else []
    if not records:
        run.require(run.exports / "student-feature-extraction", "edgedistil export --quantize int8")
    return sorted((_read_export(path) for path in records), key=_sort_key)


def _sort_key(artefact: Artefact) -> tuple[str, int, bool, str]:
    # Teacher before student, fp32 before the others: tables compare a row with the one above.
    role_order = {"teacher": 0, "student": 1}
    return (
        artefact.task,
        role_order.get(artefact.role, 2),
        artefact.precision != "fp32",
        artefact.precision,
    )


def _read_export(path: Path) -> Artefact:
    """Returns the artefact that an export record describes, after checking its files' sizes."""
    record = read_record(path, ExportRecord)
    folder = path.parent
    graph, *external = [folder / facts.path for facts in record.files]
    for file, facts in zip([graph, *external], record.files, strict=True):
        _check_size(file, facts, record_path=path)
    return Artefact(
        model=record.model,
        role=record.role,
        task=record.task,
        precision=record.precision,
        path=graph,
        external=tuple(external),
        file_bytes=sum(facts.bytes for facts in record.files),
        parameters=record.parameters,
        sha256=_recorded_sha256(record.files),
        tokenizer=find_tokenizer(graph),
        inputs=graph_inputs(graph),
        max_length=_max_length(folder),
    )


def _check_size(file: Path, facts: FileFacts, *, record_path: Path) -> None:
    """Raises RunError if an exported file is missing or has another size."""
    if not file.is_file():
        raise RunError(f"{file} is missing, but {record_path} lists it", hint=_EXPORT_AGAIN)
    # Sizes only: hashing hundreds of megabytes would delay every profile.
    size = file.stat().st_size
    if size != facts.bytes:
        raise RunError(
            f"{file} was changed after the export: got {size} bytes, expected {facts.bytes}",
            hint=_EXPORT_AGAIN,
        )


def _recorded_sha256(files: Sequence[FileFacts]) -> str:
    """Digest that `artefact_sha256` gives for the files, from the recorded digests."""
    if len(files) == 1:
        return files[0].sha256
    # The text has to be the one that `artefact_sha256` hashes: rows are compared by this digest.
    return text_sha256("".join(f"{facts.sha256}  {Path(facts.path).name}\n" for facts in files))


# --- one file ------------------------------------------------------------------------------------


def file_artefact(path: Path) -> Artefact:
    """Returns one ONNX file of the user's as an artefact.

    Raises:
        ModelError: The file is missing, truncated, not ONNX, without its weights or with weights
            outside its folder; it takes other inputs than token ids; or it has no tokenizer.
    """
    graph = _load_graph(path)
    _, *external = check_onnx_file(path)
    return Artefact(
        model=path.stem,
        role="other",
        task="other",
        precision=_infer_precision(graph),
        path=path,
        external=tuple(external),
        file_bytes=sum(file.stat().st_size for file in (path, *external)),
        parameters=count_parameters(graph),
        sha256=artefact_sha256(path),
        tokenizer=find_tokenizer(path),
        inputs=_check_inputs(graph, path),
        max_length=_max_length(path.parent) or _max_length(path.parent.parent),
    )


def graph_inputs(path: Path) -> tuple[str, ...]:
    """Returns the names of a graph's inputs, in order.

    Raises:
        ModelError: The file is not ONNX, or takes other inputs than token ids.
    """
    return _check_inputs(_load_graph(path), path)


def _load_graph(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"no model file {path}", hint="--model takes an .onnx file")
    try:
        return onnx.load(str(path), load_external_data=False).graph
    # protobuf raises exceptions of its own, of several types, for a file that it cannot parse.
    except Exception as error:
        raise ModelError(f"{path} is not an ONNX model: {error}") from error


def _check_inputs(graph: Any, path: Path) -> tuple[str, ...]:
    """Returns the input names, or raises ModelError if text cannot provide them."""
    # Before ONNX IR version 4, weights were listed as inputs too.
    weights = {tensor.name for tensor in graph.initializer}
    names = tuple(value.name for value in graph.input if value.name not in weights)
    unknown = [name for name in names if name not in TOKEN_INPUTS]
    if unknown or "input_ids" not in names:
        raise ModelError(
            f"{path} has the inputs {', '.join(names) or '(none)'}: expected input_ids, "
            f"optionally {', '.join(TOKEN_INPUTS[1:])}",
            hint="only models that read token ids can be profiled: the workload is text",
        )
    return names


# --- weights of a graph --------------------------------------------------------------------------


def count_parameters(graph: Any) -> int:
    """Counts the elements of a graph's weights: float and 8-bit tensors, without scales."""
    total = 0
    for tensor in graph.initializer:
        elements = math.prod(tensor.dims)
        is_weight = len(tensor.dims) >= 2 or elements > _LARGEST_CONSTANT
        if is_weight and tensor.data_type in _FLOATS | _INTEGERS:
            total += elements
    return total


def _infer_precision(graph: Any) -> Precision:
    """Returns the precision that most of the weights have."""
    # 4-bit weights are packed into uint8 tensors: the operator is what identifies them.
    if any(node.op_type == "MatMulNBits" for node in graph.node):
        return "int4"
    elements: dict[int, int] = {}
    for tensor in graph.initializer:
        elements[tensor.data_type] = elements.get(tensor.data_type, 0) + math.prod(tensor.dims)
    signed = elements.get(TensorProto.INT8, 0)
    unsigned = elements.get(TensorProto.UINT8, 0)
    floats = max(elements.get(data_type, 0) for data_type in _FLOATS)
    if max(signed, unsigned) * _FLOAT_EXCESS > floats:
        return "int8" if signed >= unsigned else "uint8"
    if elements.get(TensorProto.FLOAT16, 0) > elements.get(TensorProto.FLOAT, 0):
        return "fp16"
    return "fp32"


# --- files next to the graph ---------------------------------------------------------------------


def find_tokenizer(path: Path) -> Path:
    """Returns the tokenizer.json next to a graph or one folder above it.

    Raises:
        ModelError: Neither folder has one.
    """
    # Exports have the graph in a folder onnx/, one level below the tokenizer.
    for folder in (path.parent, path.parent.parent):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    raise ModelError(
        f"no tokenizer.json next to {path} or one folder above",
        hint="the workload is text: copy the model's tokenizer.json there",
    )


def _max_length(folder: Path) -> int | None:
    """Positions of the model in `folder`; None if config.json does not say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        value = config.get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return value if isinstance(value, int) and value > 0 else None

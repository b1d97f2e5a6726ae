"""The ONNX files to profile: the exports of a run, or one file of the user's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto

from edgedistil.core.digests import remembered_sha256
from edgedistil.core.echo import printable
from edgedistil.core.errors import ModelError, RunError
from edgedistil.core.export_records import ExportRecord, FileFacts
from edgedistil.core.family import FAMILIES
from edgedistil.core.precision import Precision
from edgedistil.core.records import Role, read_record, text_sha256
from edgedistil.core.rundir import RunDir, artefact_sha256
from edgedistil.core.tokenizer_files import TOKENIZER_FILE
from edgedistil.parity.onnx_file import check_onnx_file, read_onnx_graph
from edgedistil.profiling.graph import GraphFacts, read_graph_facts
from edgedistil.runtime.forms import ONNXRUNTIME, RuntimeForm
from edgedistil.runtime.protocol import JobModel

# In a job's folder the graph always has this name, because a user's file may have any. External
# data keeps its own name: the graph refers to it.
_GRAPH = "graph.onnx"
_EXPORT_AGAIN = "export again: edgedistil export"
# A file's name may be longer than a table and a folder's name can be.
_LONGEST_NAME = 100
# Families that others export, whose positions begin after the padding token's, as in RoBERTa.
_OFFSET_POSITIONS = {"longformer", "data2vec-text"}

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
        tokenizer: Folder of the tokenizer that makes the model's inputs.
        graph: Inputs of the graph and sizes of its tables.
        max_length: Positions of the model in tokens; None if neither its config nor its graph says.
        form: Runtime that computes it, and how.
        exported: The exported graph, if `path` is a rewritten one.
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
    graph: GraphFacts
    max_length: int | None
    form: RuntimeForm = ONNXRUNTIME
    exported: Path | None = None

    @property
    def named_file(self) -> Path:
        """The file that messages name: the exported one, also of a rewritten graph."""
        return self.exported or self.path

    @property
    def label(self) -> str:
        """Name in jobs, replies and messages: `student-fill-mask.int8`."""
        return f"{self.model}-{self.task}.{self.precision}{self.form.suffix}"

    def job_model(self) -> JobModel:
        """Returns this artefact as a model of a job."""
        inputs = {name: source for name, source in self.graph.inputs.items() if name != source}
        file = f"{self._job_folder}/{_GRAPH}"
        return JobModel(
            file=file,
            inputs=inputs,
            batch=self.graph.batch,
            runtime=self.form.runtime,
            arithmetic=self.form.arithmetic,
        )

    def job_files(self) -> dict[str, Path]:
        """Name in a job's folder → local file, external data included."""
        files = {f"{self._job_folder}/{_GRAPH}": self.path}
        for path in self.external:
            files[f"{self._job_folder}/{path.name}"] = path
        return files

    @property
    def _job_folder(self) -> str:
        # A user's file may have any name; names in a job are letters, digits and `._-`.
        safe = re.sub(r"[^A-Za-z0-9._-]", "-", self.label)
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
    """Returns the artefact that an export record describes, after checking its files."""
    record = read_record(path, ExportRecord)
    folder = path.parent
    if not record.files:
        raise RunError(f"{path} lists no files", hint=_EXPORT_AGAIN)
    files = [_check_file(folder, facts, record_path=path) for facts in record.files]
    graph = read_graph_facts(read_onnx_graph(files[0]), files[0])
    return Artefact(
        model=record.model,
        role=record.role,
        task=record.task,
        precision=record.precision,
        path=files[0],
        external=tuple(files[1:]),
        file_bytes=sum(facts.bytes for facts in record.files),
        parameters=record.parameters,
        sha256=_recorded_sha256(record.files),
        tokenizer=find_tokenizer(files[0]),
        graph=graph,
        max_length=_max_length(files[0], graph),
    )


def _check_file(folder: Path, facts: FileFacts, *, record_path: Path) -> Path:
    """Returns the path of an exported file.

    Raises:
        RunError: It is missing, or is not the file that was exported.
    """
    file = folder / facts.path
    if not file.resolve().is_relative_to(folder.resolve()):
        raise RunError(
            f"{record_path} lists {facts.path}, which is outside its folder", hint=_EXPORT_AGAIN
        )
    if not file.is_file():
        raise RunError(f"{file} is missing, but {record_path} lists it", hint=_EXPORT_AGAIN)
    size = file.stat().st_size
    if size != facts.bytes:
        raise RunError(
            f"{file} was changed after the export: got {size} bytes, expected {facts.bytes}",
            hint=_EXPORT_AGAIN,
        )
    # A changed bit leaves the size: its figures would be under the digest of another file.
    digest = remembered_sha256(file)
    if digest != facts.sha256:
        raise RunError(
            f"{file} was changed after the export: got sha256 {digest[:16]}…, "
            f"expected {facts.sha256[:16]}…",
            hint=_EXPORT_AGAIN,
        )
    return file


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
    _, *external = check_onnx_file(path)
    graph = read_onnx_graph(path)
    facts = read_graph_facts(graph, path)
    return Artefact(
        # Any name is possible for a file, and this one is printed.
        model=printable(path.stem)[:_LONGEST_NAME],
        role="other",
        task="other",
        precision=_infer_precision(graph),
        path=path,
        external=tuple(external),
        file_bytes=sum(file.stat().st_size for file in (path, *external)),
        parameters=count_parameters(graph),
        sha256=artefact_sha256(path),
        tokenizer=find_tokenizer(path),
        graph=facts,
        max_length=_max_length(path, facts),
    )


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
    """Returns the folder of a graph's tokenizer: the graph's own, or the one above it.

    Raises:
        ModelError: Neither folder has one.
    """
    for folder in _folders(path):
        if any((folder / name).is_file() for name in (TOKENIZER_FILE, "vocab.txt")):
            return folder
    raise ModelError(
        f"no {TOKENIZER_FILE} or vocab.txt next to {path} or one folder above",
        hint="the workload is text: copy the files of the model's tokenizer there",
    )


def _max_length(path: Path, graph: GraphFacts) -> int | None:
    """Positions of a graph's model; None if neither its config.json nor the graph says."""
    configs = [_read_config(folder / "config.json") for folder in _folders(path)]
    config = configs[0] or configs[1]
    value = config.get("max_position_embeddings")
    # True is an integer for Python.
    if type(value) is not int or value <= 0:
        return graph.positions
    if graph.positions is not None:
        value = min(value, graph.positions)
    return max(value - _first_position(config), 1)


def _first_position(config: Mapping[str, Any]) -> int:
    """Row of the position table that the first token of a text has."""
    model_type, padding = config.get("model_type"), config.get("pad_token_id")
    padding = padding if type(padding) is int else 1
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is not None:
        return family.first_position({"pad_token_id": padding})
    return 1 + padding if model_type in _OFFSET_POSITIONS else 0


def _folders(path: Path) -> tuple[Path, Path]:
    """Folders with a graph's other files: its own, and the one above."""
    # Exports have the graph in a folder onnx/, one level below the tokenizer.
    folder = path.absolute().parent
    return folder, folder.parent


def _read_config(path: Path) -> dict[str, Any]:
    """Returns the content of a config.json; empty if it is missing or not an object."""
    # A pipe under this name would be read until the end of time.
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}

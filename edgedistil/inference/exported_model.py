"""An export folder, opened: its graph in a session, its tokenizer, and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgedistil.core.bulk_limit import BulkLimit
from edgedistil.core.contract import Contract, read_contract
from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.core.library_errors import library_errors
from edgedistil.core.precision import PRECISIONS, Precision, graph_name
from edgedistil.core.session import (
    PROVIDERS,
    SESSION_FILE,
    SessionAdvice,
    SessionOptions,
    read_session_file,
)
from edgedistil.core.task import Task
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer

Ids = NDArray[np.int64]
Outputs = dict[str, NDArray[np.float32]]
_DAMAGED_HINT = "run edgedistil export again: it replaces the folder"


@dataclass(frozen=True)
class ExportedModel:
    """An exported graph that is ready to run.

    Attributes:
        folder: The export folder.
        contract: What the graph computes, and how texts become its inputs.
        precision: Precision of the graph.
        tokenizer: Its tokenizer.
        session: The graph.
        bulk: Largest batches within a memory limit; None without a limit.
    """

    folder: Path
    contract: Contract
    precision: Precision
    tokenizer: TextTokenizer
    session: onnxruntime.InferenceSession
    bulk: BulkLimit | None = None

    @property
    def output_names(self) -> list[str]:
        """Outputs of the graph."""
        return [output.name for output in self.contract.outputs]

    def run(self, ids: Ids, mask: Ids, type_ids: Ids, *, outputs: Sequence[str]) -> Outputs:
        """Runs the graph.

        Args:
            ids, mask, type_ids: Token ids, attention mask and token types, (B, L).
            outputs: Names of the outputs that are read; the others are not copied.
        Returns:
            Output name → values.
        Raises:
            ModelError: The graph cannot be run.
        """
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}
        used = {tensor.name: feeds[tensor.name] for tensor in self.contract.inputs}
        with library_errors(f"cannot run the graph in {self.folder}", hint=_DAMAGED_HINT):
            values = self.session.run(list(outputs), used)
        return dict(zip(outputs, values, strict=True))


def open_exported(
    folder: Path,
    *,
    precision: str | None = None,
    threads: int | None = None,
    tasks: Sequence[Task] = (),
) -> ExportedModel:
    """Opens an export folder.

    Args:
        folder: A folder that `edgedistil export` wrote.
        precision: Precision of the graph; None: fp32, which gives PyTorch's answers.
        threads: Threads of one call; None: as session.json recommends.
        tasks: Tasks that the caller can use; empty for all.
    Raises:
        InputError: The folder has no contract or no such precision, or is for another task.
        StorageError: The contract is damaged.
        ModelError: Another file of the folder is missing or corrupt.
    """
    contract = read_contract(folder)
    if tasks and contract.task not in tasks:
        raise InputError(
            f"{folder} is an export for {contract.task}; expected {' or '.join(tasks)}",
            hint="pass the folder of another export of the run",
        )
    name = _checked_precision(folder, precision)
    path = folder / "onnx" / graph_name(name)
    advice = _read_advice(folder, path)
    # What `profile --tune` measured, unless the caller asks for other threads.
    options = advice.session if advice is not None else SessionOptions()
    if threads is not None:
        options = replace_threads(options, threads)
    session = _open_session(path, options)
    return ExportedModel(
        folder=folder,
        contract=contract,
        precision=name,
        tokenizer=read_tokenizer(folder),
        session=session,
        bulk=advice.bulk if advice is not None else None,
    )


def _checked_precision(folder: Path, precision: str | None) -> Precision:
    """Returns the requested precision, or fp32; raises InputError if the folder lacks it."""
    requested = precision or "fp32"
    available = [name for name in PRECISIONS if (folder / "onnx" / graph_name(name)).is_file()]
    for name in available:
        if name == requested:
            return name
    raise InputError(
        f"{folder} has no artefact in {echo(requested)}; it has {', '.join(available) or 'none'}",
        hint="edgedistil export --quantize PRECISION adds one",
    )


def _read_advice(folder: Path, path: Path) -> SessionAdvice | None:
    """Returns what session.json recommends for a graph; None without such a file or entry."""
    file = folder / SESSION_FILE
    if not file.is_file():
        return None
    return read_session_file(file).get(str(path.relative_to(folder)))


def replace_threads(options: SessionOptions, threads: int) -> SessionOptions:
    """Returns session options with another number of threads."""
    return replace(options, threads=threads)


def _open_session(path: Path, options: SessionOptions) -> onnxruntime.InferenceSession:
    with library_errors(f"cannot load {path}", hint=_DAMAGED_HINT):
        return onnxruntime.InferenceSession(
            str(path), options.to_onnxruntime(), providers=list(PROVIDERS)
        )

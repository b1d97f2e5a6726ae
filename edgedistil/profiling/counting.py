"""Runs a graph once per length on this host, to count its work for the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.errors import ModelError
from edgedistil.costmodel.workload import NodeWork, at_batch, node_work
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.limits import private_memory_bytes
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Case, Job, JobModel

_LABEL = "graph"


@dataclass(frozen=True)
class _Graph:
    """A graph as a model of a job on this host, where its external data is found next to it."""

    path: Path

    def job_files(self) -> dict[str, Path]:
        return {str(self.path): self.path}


def count_artefact(artefact: Artefact, lengths: Sequence[int]) -> dict[int, list[NodeWork]]:
    """Counts the work of an artefact; see `count_work`."""
    return count_work(
        artefact.path,
        lengths,
        model=artefact.job_model(),
        private_memory_bytes=private_memory_bytes([artefact], longest=max(lengths)),
    )


def count_batches(
    path: Path,
    lengths: Sequence[int],
    batches: Sequence[int],
    *,
    model: JobModel | None = None,
    private_memory_bytes: int | None = None,
) -> dict[tuple[int, int], list[NodeWork]]:
    """Counts the work of calls with several texts; runs the graph with one text and with two.

    Args:
        path: The ONNX graph, which takes any number of texts.
        lengths: Sequence lengths, in tokens.
        batches: Texts of a call.
        model, private_memory_bytes: As for `count_work`.
    Returns:
        (length, batch) → nodes in the order of execution.
    Raises:
        ModelError: onnxruntime cannot run the graph on this host.
    """
    model = model or JobModel(file="")
    counted = [
        count_work(
            path,
            lengths,
            model=model.model_copy(update={"batch": batch}),
            private_memory_bytes=private_memory_bytes,
        )
        for batch in (1, 2)
    ]
    # Work grows linearly with the batch, so two counts give all others.
    work = {}
    for length in lengths:
        for batch in batches:
            work[length, batch] = at_batch(counted[0][length], counted[1][length], batch)
    return work


def count_work(
    path: Path,
    lengths: Sequence[int],
    *,
    model: JobModel | None = None,
    private_memory_bytes: int | None = None,
) -> dict[int, list[NodeWork]]:
    """Counts the work of every executed node at batch 1, for each sequence length.

    Args:
        path: The ONNX graph.
        lengths: Sequence lengths, in tokens.
        model: The graph's names of its inputs and its batch, where they are its own.
        private_memory_bytes: Limit on the memory that the graph may ask for.
    Returns:
        Length → nodes in the order of execution.
    Raises:
        ModelError: onnxruntime cannot run the graph on this host.
    """
    # In a process of its own, with limits: a graph may crash the runtime, or never end.
    job = Job(
        models={_LABEL: (model or JobModel(file="")).model_copy(update={"file": str(path)})},
        cases=[Case(name=_LABEL, keys=[str(length) for length in lengths])],
        phases=["trace"],
        # One thread: the events of a node must not be split among workers.
        threads=1,
        private_memory_bytes=private_memory_bytes,
    )
    inputs = NpzInputs(_constant_inputs(lengths))
    reply = run_job(LocalTarget(), [_Graph(path)], job, inputs, check=False)
    if reply.error is not None:
        raise ModelError(
            f"onnxruntime {reply.identity.onnxruntime} cannot run {path}: {reply.error.message}"
        )
    runs = reply.models[_LABEL].runs
    work = [[node_work(node.model_dump()) for node in run] for run in runs]
    return dict(zip(lengths, work, strict=True))


def _constant_inputs(lengths: Sequence[int]) -> dict[str, Any]:
    """Any valid token ids: counts do not depend on the values."""
    arrays: dict[str, Any] = {}
    for length in lengths:
        ones_BL = np.ones((1, length), np.int64)
        arrays[f"{length}/input_ids"] = ones_BL
        arrays[f"{length}/attention_mask"] = ones_BL
        arrays[f"{length}/token_type_ids"] = np.zeros_like(ones_BL)
    return arrays

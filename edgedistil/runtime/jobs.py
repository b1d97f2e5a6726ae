"""Runs one job on one machine, from inputs to checked reply."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgedistil.core.scratch import scratch_errors, scratch_folder
from edgedistil.runtime.protocol import Job, Reply
from edgedistil.runtime.reply import check_reply
from edgedistil.runtime.target import Target, raise_failure


class JobArtefact(Protocol):
    """A model that a job runs: it knows its files."""

    def job_files(self) -> Mapping[str, Path]:
        """Returns name in the job's folder → local file, external data included."""


class JobInputs(Protocol):
    """The inputs of a job: a profiling workload, or `NpzInputs`."""

    def save(self, path: Path) -> None:
        """Writes the arrays as npz, named as `runner.read_feeds` expects them."""


@dataclass(frozen=True)
class NpzInputs:
    """Inputs as arrays, named KEY/INPUT ("probe0/input_ids")."""

    arrays: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Writes the arrays as npz."""
        np.savez(path, **self.arrays)


def run_job(
    target: Target,
    artefacts: Iterable[JobArtefact],
    job: Job,
    workload: JobInputs,
    *,
    outputs_to: Path | None = None,
    check: bool = True,
) -> Reply:
    """Runs a job on a target with its models and inputs.

    Args:
        target: The machine.
        artefacts: The models of the job.
        job: What to run; `job.inputs` is the name under which `workload` is sent.
        workload: The inputs.
        outputs_to: Where to put the outputs of the phase `outputs`; None if the job has no such
            phase.
        check: Raise if the job failed there. Without it the caller examines `reply.ok`.
    Returns:
        The reply.
    Raises:
        TargetError: The target sent no reply or one that cannot be true, or (with `check`) the job
            failed there.
    """
    with scratch_folder("inputs") as folder:
        # npz files have no timestamps: equal inputs give equal bytes, so a board that already
        # has them is not sent them again.
        inputs = folder / "inputs.npz"
        with scratch_errors():
            workload.save(inputs)
        files = {job.inputs: inputs}
        for artefact in artefacts:
            files.update(artefact.job_files())
        started = time.monotonic()
        reply = target.run(job, files, outputs_to=outputs_to)
    elapsed_s = time.monotonic() - started
    check_reply(reply, job, source=target.source, elapsed_s=elapsed_s)
    if check:
        raise_failure(reply, source=target.source)
    return reply

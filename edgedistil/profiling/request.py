"""What one call of `profile` is about, and where its records go."""

from __future__ import annotations

from dataclasses import dataclass

from edgedistil.core.export_records import ParityRecord
from edgedistil.core.options import ProfileOptions
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import write_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.thread_limits import check_threads
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.workload import Workloads


@dataclass(frozen=True)
class ProfileRequest:
    """What is profiled.

    Attributes:
        options: Options of the command.
        run: Run of the artefacts; None for an ONNX file of the user's.
        artefacts: The artefacts.
        workloads: Their inputs.
    """

    options: ProfileOptions
    run: RunDir | None
    artefacts: list[Artefact]
    workloads: Workloads

    def thread_counts(self, cores: int, *, machine: str = "this machine") -> list[int]:
        """Returns the requested thread counts; by default one and all `cores`.

        Raises:
            InputError: A count is far above `cores`.
        """
        if self.options.threads:
            check_threads(self.options.threads, cores, machine=machine)
            return list(self.options.threads)
        return sorted({1, cores})

    def store(self, record: ProfileRecord) -> ProfileRecord:
        """Writes the record to the run, if there is one, and returns it."""
        # A file per device and method: a prediction does not replace a measurement.
        if self.run is not None:
            write_record(self.run.profile(record.device, record.method), record)
        return record

    def store_batches(self, record: ProfileRecord) -> ProfileRecord:
        """Writes a record about calls with many texts to the run, and returns it."""
        # A file of its own: figures of single texts remain.
        if self.run is not None:
            write_record(self.run.profile(record.device, f"{record.method}.batches"), record)
        return record

    def store_parity(self, parity: ParityRecord, *, device: str) -> None:
        """Writes the parity check of an emulated artefact to the run, if there is one."""
        if self.run is not None:
            path = self.run.parity_on(device, parity.model, parity.task, parity.precision)
            write_record(path, parity)

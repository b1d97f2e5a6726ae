"""Predicts calls with many texts on a device that is not there, with the cost model."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core import console
from edgedistil.core.bulk_records import BatchRow
from edgedistil.core.device import DeviceSpec
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured, provenance
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, Constants, core_family
from edgedistil.costmodel.memory import memory_band
from edgedistil.costmodel.model import latency_band
from edgedistil.costmodel.workload import NodeWork
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.batches import check_free_batch
from edgedistil.profiling.counting import count_batches
from edgedistil.profiling.limits import private_memory_bytes
from edgedistil.profiling.predicted import prediction_notes

_NOT_RUN = NotMeasured(not_measured="predicted: nothing was run on this device")


def predict_batches(
    spec: DeviceSpec,
    artefacts: Sequence[Artefact],
    *,
    lengths: Sequence[int],
    batches: Sequence[int],
    threads: int,
    constants: Constants | None = None,
) -> ProfileRecord:
    """Returns bands of time and memory for every artefact, length and batch.

    Args:
        spec: The device.
        artefacts: What to predict; teachers, which are not deployed, are left out.
        lengths: Sequence lengths in tokens.
        batches: Texts of a call.
        threads: Threads of the session.
        constants: Calibrated constants; None for onnxruntime's on the device's family of cores.
    Raises:
        InputError: A graph takes a fixed number of texts.
        ModelError: A graph does not run on this host, where its work is counted.
    """
    # Teachers stay on the server, so their batches are not predicted.
    constants = constants or ONNXRUNTIME_CONSTANTS[core_family(spec)]
    deployed = [artefact for artefact in artefacts if artefact.role != "teacher"]
    rows = []
    with console.progress(f"predicting {spec.name}", len(deployed), unit="artefacts") as bar:
        for artefact in deployed:
            check_free_batch(artefact)
            counted = count_batches(
                artefact.path,
                lengths,
                batches,
                model=artefact.job_model(),
                private_memory_bytes=private_memory_bytes(
                    [artefact], longest=max(lengths), batch=2
                ),
            )
            for (length, batch), work in counted.items():
                row = _row(spec, artefact, work, constants, threads=threads)
                rows.append(row.model_copy(update={"length": length, "batch": batch}))
            bar.advance()
    # Bands only: nothing here has run on the device.
    return ProfileRecord(
        device=spec.name,
        method="predicted",
        rows=[],
        claims=[],
        batches=rows,
        notes=prediction_notes(spec, constants),
        provenance=provenance(),
    )


def _row(
    spec: DeviceSpec,
    artefact: Artefact,
    work: Sequence[NodeWork],
    constants: Constants,
    *,
    threads: int,
) -> BatchRow:
    """Returns the row of one call; the caller sets its texts and their length."""
    memory = memory_band(
        artefact.file_bytes,
        external=bool(artefact.external),
        work=work,
        page_bytes=spec.memory.page_kib.value * 1024,
    )
    conditions = {"calibration": constants.origin}
    if memory.high > spec.memory_bytes:
        size_gib = spec.memory.size_gib.value
        conditions["memory"] = f"may not fit: the device has {size_gib:g} GiB"
    return BatchRow(
        model=artefact.model,
        role=artefact.role,
        task=artefact.task,
        precision=artefact.precision,
        artefact_sha256=artefact.sha256,
        device=spec.name,
        method="predicted",
        runtime="onnxruntime (predicted)",
        threads=threads,
        batch=1,
        length=1,
        arena=True,
        latency_ms=latency_band(work, spec, constants, threads=threads),
        peak_memory_bytes=memory,
        after_memory_bytes=_NOT_RUN,
        valid=True,
        conditions=conditions,
    )

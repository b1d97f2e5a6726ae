"""Real runs → the device's own constants of the cost model, kept for the user; later predictions say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.assets import cache_root
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import InputError
from edgedistil.core.records import ProfileRecord, Record, read_record, write_record
from edgedistil.costmodel.model import (
    ONNXRUNTIME_CONSTANTS,
    Constants,
    core_family,
    cost_terms,
    fit_constants,
)
from edgedistil.costmodel.workload import count_work
from edgedistil.profiling.artefacts import Artefact

_LEAST_RUNS = 4
_NARROWEST = 1.15
_WORST = float(np.log(1.5))


class Calibration(Record):
    """Constants fitted on one machine, and how well they tell the times that they were fitted on."""

    device: str
    constants: dict[str, float]
    spread: float
    origin: str
    runs: int
    largest_error: float


def calibration_path(device: str) -> Path:
    return cache_root() / "calibration" / f"{device}.json"


def calibrate(
    spec: DeviceSpec, artefacts: Sequence[Artefact], record: ProfileRecord, *, source: str
) -> Path:
    """Fits the constants on the measured rows of `record` and stores them; the file it wrote.

    Raises:
        InputError: Too few valid measured rows, or rows that contradict each other.
    """
    samples = _samples(spec, artefacts, record)
    if len(samples) < _LEAST_RUNS:
        raise InputError(
            f"--calibrate needs {_LEAST_RUNS} valid measured rows with a length in tokens, there are {len(samples)}",
            hint="measure more lengths or artefacts",
        )
    prior = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    day = record.provenance.created_utc[:10]
    origin = f"calibrated on {source}, {day}, {len(samples)} runs"
    fitted = fit_constants(samples, prior, origin=origin, spread=1.0)
    errors = [float(terms @ fitted.unit_costs) / seconds for terms, seconds in samples]
    worst = float(np.max(np.abs(np.log(errors))))
    if worst > _WORST:
        raise InputError(
            f"--calibrate: the runs contradict each other (the best fit is {np.exp(worst) - 1:.0%} off); not stored",
            hint="the machine was busy or throttled: let it rest and measure again",
        )
    # Twice the largest error seen: other models and lengths will be told a little worse than those fitted on.
    spread = min(prior.spread, max(_NARROWEST, float(np.exp(2 * worst))))
    values = {key: value for key, value in asdict(fitted).items() if isinstance(value, float)}
    values.pop("spread")
    path = calibration_path(spec.name)
    write_record(
        path,
        Calibration(
            device=spec.name,
            constants=values,
            spread=spread,
            origin=f"{origin}, worst {np.exp(worst) - 1:.0%} off",
            runs=len(samples),
            largest_error=float(np.exp(worst) - 1),
        ),
    )
    return path


def _samples(
    spec: DeviceSpec, artefacts: Sequence[Artefact], record: ProfileRecord
) -> list[tuple[Any, float]]:
    """(cost terms, measured seconds) of every valid row with a length in tokens."""
    half_rows = ONNXRUNTIME_CONSTANTS[core_family(spec)].half_rows
    found = []
    for artefact in artefacts:
        rows = [
            row
            for row in record.rows
            if row.artefact_sha256 == artefact.sha256 and row.valid and isinstance(row.length, int)
        ]
        lengths = sorted({row.length for row in rows if isinstance(row.length, int)})
        work = count_work(artefact.path, artefact.inputs, lengths) if lengths else {}
        for row in rows:
            if isinstance(row.latency_ms, float) and isinstance(row.length, int):
                terms = cost_terms(work[row.length], spec, threads=row.threads, half_rows=half_rows)
                found.append((terms, row.latency_ms / 1000))
    return found


def load(spec: DeviceSpec) -> Constants | None:
    """The user's calibration of a device; None when there is none.

    Raises:
        InputError: It is of another version of the model.
    """
    path = calibration_path(spec.name)
    if not path.is_file():
        return None
    kept = read_record(path, Calibration)
    if set(kept.constants) != {each.name for each in fields(Constants)} - {"spread", "origin"}:
        raise InputError(
            f"{path} was calibrated with another version of the cost model",
            hint=f"measure and calibrate {spec.name} again, or remove the file",
        )
    return Constants(**kept.constants, spread=kept.spread, origin=kept.origin)

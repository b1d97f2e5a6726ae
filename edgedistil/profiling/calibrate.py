"""Fits a device's own constants of the cost model to measured rows, and stores them for the user.

Later predictions for the device use them and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import InputError
from edgedistil.core.precision import PRECISIONS
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import write_record
from edgedistil.costmodel.calibration import (
    CONSTANT_FIELDS,
    MIN_SPREAD,
    Calibration,
    calibration_path,
)
from edgedistil.costmodel.constants import (
    ONNXRUNTIME_CONSTANTS,
    Constants,
    CostVector,
    core_family,
)
from edgedistil.costmodel.fit import fit_constants
from edgedistil.costmodel.model import cost_terms
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.counting import count_artefact

# Ten constants are fitted; below this many rows almost all of them would stay at the prior.
_MIN_ROWS = 4
# An error of the best fit above 50% means that the rows contradict each other: the machine was busy
# or throttled.
_MAX_LOG_ERROR = float(np.log(1.5))

_SPREAD_RULE = "twice the largest error"

# Cost terms of a run, and its measured seconds.
Sample = tuple[CostVector, float]


def calibrate(
    spec: DeviceSpec, artefacts: Sequence[Artefact], record: ProfileRecord, *, source: str
) -> Path:
    """Fits the constants to the measured rows of `record` and stores them.

    Args:
        spec: The device that was measured.
        artefacts: The artefacts of the rows.
        record: Rows that are not valid or have no length in tokens are left out.
        source: What was measured, for reports: "pi@rpi4.local".
    Returns:
        The file that it wrote.
    Raises:
        InputError: There are too few valid measured rows, or the rows contradict each other.
    """
    samples = _fit_samples(spec, artefacts, record)
    if len(samples) < _MIN_ROWS:
        raise InputError(
            f"--calibrate needs {_MIN_ROWS} valid measured rows with a length in tokens, "
            f"got {len(samples)}",
            hint="measure more lengths or artefacts",
        )
    prior = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    day = record.provenance.created_utc[:10]
    origin = f"calibrated on {source}, {day}, {len(samples)} runs"
    fitted = fit_constants(samples, prior)
    log_error = _check_error(samples, fitted)
    largest_error = float(np.exp(log_error) - 1)
    # Twice the largest error: other models and lengths are predicted worse than those fitted.
    spread = min(prior.spread, max(MIN_SPREAD, float(np.exp(2 * log_error))))

    # The file has the constants by name; spread and origins are fields of their own.
    constants = {name: float(getattr(fitted, name)) for name in CONSTANT_FIELDS}
    path = calibration_path(spec.name)
    calibration = Calibration(
        device=spec.name,
        constants=constants,
        spread=spread,
        spread_origin=f"{_SPREAD_RULE} of {len(samples)} runs",
        scaling_origin=origin if _has_int8_threads(artefacts, record) else prior.scaling_origin,
        origin=f"{origin}, worst {largest_error:.0%} off",
        runs=len(samples),
        largest_error=largest_error,
    )
    write_record(path, calibration)
    return path


def _check_error(samples: Sequence[Sample], fitted: Constants) -> float:
    """Returns the largest error of a fit, as a logarithm; raises InputError if it is too large."""
    errors = [float(terms @ fitted.unit_costs) / seconds for terms, seconds in samples]
    log_error = float(np.max(np.abs(np.log(errors))))
    if log_error > _MAX_LOG_ERROR:
        raise InputError(
            "--calibrate: the measured rows contradict each other "
            f"(the best fit is {np.exp(log_error) - 1:.0%} off); nothing was stored",
            hint="the machine was busy or throttled: let it cool down and measure again",
        )
    return log_error


def _fit_samples(
    spec: DeviceSpec, artefacts: Sequence[Artefact], record: ProfileRecord
) -> list[Sample]:
    """Returns (cost terms, measured seconds) of every undisturbed row with a length in tokens."""
    prior = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    samples = []
    for artefact in artefacts:
        # Times of this artefact: (length, threads, milliseconds).
        times: list[tuple[int, int, float]] = []
        for row in record.rows:
            if row.artefact_sha256 != artefact.sha256 or not row.usable:
                continue
            if isinstance(row.length, int) and isinstance(row.latency_ms, float):
                times.append((row.length, row.threads, row.latency_ms))
        # The graph runs once per length on this host to count its work.
        lengths = sorted({length for length, _, _ in times})
        work = count_artefact(artefact, lengths) if lengths else {}
        for length, threads, milliseconds in times:
            terms = cost_terms(work[length], spec, prior, threads=threads)
            samples.append((terms, milliseconds / 1000))
    return samples


def _has_int8_threads(artefacts: Sequence[Artefact], record: ProfileRecord) -> bool:
    """Whether a valid row is of an int8 model on several threads."""
    int8 = {
        artefact.sha256 for artefact in artefacts if PRECISIONS[artefact.precision].integer_matmul
    }
    return any(row.valid and row.threads > 1 and row.artefact_sha256 in int8 for row in record.rows)

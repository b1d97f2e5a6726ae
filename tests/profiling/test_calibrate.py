"""Calibration: constants fitted to measured rows narrow later predictions."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.errors import InputError
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import Band, write_record
from edgedistil.core.rundir import RunDir
from edgedistil.costmodel.calibration import Calibration, calibration_path, load_calibration
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.calibrate import calibrate
from tests.profiling.conftest import profile_latest

SPEC = load_device("rpi4")


def with_rows(record: ProfileRecord, **changes: Any) -> ProfileRecord:
    """The record with the same changes in all its rows."""
    rows = [row.model_copy(update=changes) for row in record.rows]
    return record.model_copy(update={"rows": rows})


def test_calibration_narrows_later_predictions(exported: RunDir) -> None:
    _, (before,) = profile_latest(device="rpi4", lengths=[5, 11, 17])
    # A board that is exactly 1.3 times slower than the middle of its band.
    rows = []
    for row in before.rows:
        assert isinstance(row.latency_ms, Band)
        milliseconds = 1.3 * (row.latency_ms.low * row.latency_ms.high) ** 0.5
        rows.append(row.model_copy(update={"method": "measured", "latency_ms": milliseconds}))
    measured = before.model_copy(update={"rows": rows, "method": "measured"})
    calibrate(SPEC, run_artefacts(exported), measured, source="pi@board")

    _, (after,) = profile_latest(device="rpi4", lengths=[5, 11, 17])
    for row, measured_row in zip(after.rows, rows, strict=True):
        assert isinstance(row.latency_ms, Band) and isinstance(measured_row.latency_ms, float)
        assert row.latency_ms.low <= measured_row.latency_ms <= row.latency_ms.high
        assert row.latency_ms.high / row.latency_ms.low < 1.4
        assert "calibrated on pi@board" in row.conditions["calibration"]


def test_rows_that_contradict_each_other_are_not_stored(exported: RunDir) -> None:
    _, (record,) = profile_latest(device="rpi4")
    rows = []
    for index, row in enumerate(record.rows):
        rows.append(row.model_copy(update={"latency_ms": 1.0 if index % 2 else 900.0}))
    record = record.model_copy(update={"rows": rows})
    with pytest.raises(InputError, match=r"contradict each other .*; nothing was stored"):
        calibrate(SPEC, run_artefacts(exported), record, source="x")
    assert not calibration_path("rpi4").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_ms": 1.0, "valid": False},
        {"latency_ms": 1.0, "length": "sentence-pairs"},
        {"latency_ms": 1.0, "artefact_sha256": "cd"},
        {},  # bands, not measurements
    ],
)
def test_only_valid_measured_rows_of_the_artefacts_count(
    exported: RunDir, changes: dict[str, Any]
) -> None:
    _, (record,) = profile_latest(device="rpi4")
    with pytest.raises(InputError, match=r"needs 4 valid measured rows .*, got 0"):
        calibrate(SPEC, run_artefacts(exported), with_rows(record, **changes), source="x")


def test_a_calibration_of_another_cost_model_is_an_error(exported: RunDir) -> None:
    old = Calibration(
        device="rpi4",
        constants={"fp32_efficiency": 0.5},
        spread=1.2,
        spread_origin="a rule",
        scaling_origin=None,
        origin="pi@board",
        runs=9,
        largest_error=0.1,
    )
    write_record(calibration_path("rpi4"), old)
    with pytest.raises(InputError, match=r"rpi4\.json was calibrated with another version"):
        load_calibration(SPEC)
    assert load_calibration(load_device("rpi5")) is None

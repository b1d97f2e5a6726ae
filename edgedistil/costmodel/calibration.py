"""Constants of a device that the user measured, which later predictions use.

`edgedistil profile --calibrate` writes the file (`profiling.calibrate`).
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import ClassVar

from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import InputError, StorageError
from edgedistil.core.places import cache_root
from edgedistil.core.records import Record, read_record
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, Constants, core_family

# Fields of `Constants` that a calibration stores by name.
CONSTANT_FIELDS = [field.name for field in fields(Constants) if field.type == "float"]
CONSTANT_FIELDS.remove("spread")
# A calibrated band is never narrower than this, however well the times fit: other models and
# lengths are predicted worse than those that were fitted.
MIN_SPREAD = 1.15


class Calibration(Record):
    """Constants fitted on one device, and the error of the fit."""

    remedy: ClassVar[str] = "remove {path}, then measure and calibrate the device again"

    device: str
    constants: dict[str, float]
    spread: float
    spread_origin: str
    scaling_origin: str | None
    origin: str
    runs: int
    largest_error: float


def calibration_path(device: str) -> Path:
    """Returns the file in the user's cache that holds a device's calibration."""
    return cache_root() / "calibration" / f"{device}.json"


def device_constants(spec: DeviceSpec) -> Constants:
    """Returns the constants of a device: the user's calibration, else those of its core family."""
    return load_calibration(spec) or ONNXRUNTIME_CONSTANTS[core_family(spec)]


def load_calibration(spec: DeviceSpec) -> Constants | None:
    """Returns the user's calibration of a device; None if there was no calibration.

    Raises:
        InputError: The file was written for another version of the cost model.
    """
    try:
        path = calibration_path(spec.name)
        if not path.is_file():
            return None
    # A cache that cannot be read holds no calibration.
    except (OSError, StorageError):
        return None
    calibration = read_record(path, Calibration)
    # A constant that was added or removed since changes the meaning of the others.
    if set(calibration.constants) != set(CONSTANT_FIELDS):
        raise InputError(
            f"{path} was calibrated with another version of the cost model",
            hint=f"measure and calibrate {spec.name} again, or remove the file",
        )
    return Constants(
        **calibration.constants,
        scaling_origin=calibration.scaling_origin,
        spread=calibration.spread,
        spread_origin=calibration.spread_origin,
        origin=calibration.origin,
    )

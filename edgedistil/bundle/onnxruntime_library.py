"""libonnxruntime for a device's processor, from the wheels of onnxruntime."""

from __future__ import annotations

import platform
import shutil
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from edgedistil.core.cpu import is_arm
from edgedistil.core.device import HOST, load_device
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.rundir import storage_errors
from edgedistil.runtime.wheels import arm64_wheels, fetch_wheels

LIBRARY = "libonnxruntime.so.1"
# The wheels of all Pythons have the same library; this one is in the emulator's cache, too.
_PYTHON = "3.11"


def copy_library(folder: Path, target: str) -> None:
    """Writes libonnxruntime.so.1 for a device's processor into a folder.

    Args:
        folder: Is created.
        target: Device, or host.
    Raises:
        InputError: The device is unknown.
        TargetError: No library is available for its processor.
        OfflineError: The library has to be downloaded, and cannot be.
    """
    machine = machine_of(target)
    with storage_errors(folder):
        folder.mkdir(parents=True)
        if machine == platform.machine():
            shutil.copyfile(_installed_library(), folder / LIBRARY)
        elif is_arm(machine):
            _extract(folder / LIBRARY)
        else:
            raise InputError(
                f"no libonnxruntime for {machine} can be had on {platform.machine()}",
                hint="make the bundle on a machine of that kind, with --target host",
            )


def machine_of(target: str) -> str:
    """Returns the kind of processor of a device, as `uname -m` prints it.

    Args:
        target: Device, or host.
    Raises:
        InputError: The device is unknown.
    """
    return platform.machine() if target == HOST else load_device(target).identity.machine


def _installed_library() -> Path:
    """Returns the library of the installed onnxruntime."""
    for file in distribution("onnxruntime").files or []:
        if file.name.startswith("libonnxruntime.so."):
            return Path(str(file.locate()))
    raise TargetError(
        "the installed onnxruntime has no libonnxruntime.so",
        hint="install onnxruntime's own wheel for Linux",
    )


def _extract(path: Path) -> None:
    """Writes the library of the pinned aarch64 wheel."""
    _numpy, wheel = arm64_wheels(_PYTHON)
    [file] = fetch_wheels((wheel,))
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if "/libonnxruntime.so." in name)
        with archive.open(name) as source, path.open("wb") as out:
            shutil.copyfileobj(source, out)

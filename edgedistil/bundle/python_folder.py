"""The Python part of a bundle: the runtime's wheel, an example, and pinned requirements."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path

from edgedistil.bundle.onnxruntime_library import machine_of
from edgedistil.bundle.runtime_wheel import REQUIREMENTS, write_runtime_wheel
from edgedistil.core.contract import Contract
from edgedistil.core.cpu import is_arm
from edgedistil.core.errors import InputError
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import write_text
from edgedistil.runtime.wheels import TOKENIZERS, arm64_wheels

_EXAMPLE = Path(__file__).with_name("python") / "example.py"
# The newest Python of the wheels that are pinned for boards; theirs have the same versions.
_PYTHON = "3.11"


@dataclass(frozen=True)
class Requirement:
    """A package that the device needs.

    Attributes:
        name: Name of the package.
        version: Its version.
        bytes: Its files on this machine, or its download for another one.
        is_installed: Whether the bytes are those of its files.
    """

    name: str
    version: str
    bytes: int
    is_installed: bool


def requirements_for(target: str) -> list[Requirement]:
    """Returns the packages for a device.

    Args:
        target: Device, or host.
    Raises:
        InputError: The device is unknown, or of a kind that no versions are pinned for.
    """
    machine = machine_of(target)
    if machine == platform.machine():
        return [
            Requirement(name, version(name), _installed_bytes(name), is_installed=True)
            for name in REQUIREMENTS
        ]
    if not is_arm(machine):
        raise InputError(
            f"no versions are pinned for {machine} on {platform.machine()}",
            hint="make the bundle on a machine of that kind, with --target host",
        )
    return [
        Requirement(wheel.package, wheel.version, wheel.bytes, is_installed=False)
        for wheel in (*arm64_wheels(_PYTHON), TOKENIZERS)
    ]


def write_python_part(folder: Path, target: str) -> list[Requirement]:
    """Writes the wheel, the example and the requirements of a bundle.

    Args:
        folder: The bundle.
        target: Device, or host.
    Returns:
        What requirements.txt names.
    """
    requirements = requirements_for(target)
    wheel = write_runtime_wheel(folder)
    lines = [f"{item.name}=={item.version}" for item in requirements]
    write_text(folder / "requirements.txt", "\n".join([*lines, f"./{wheel.name}", ""]))
    shutil.copyfile(_EXAMPLE, folder / _EXAMPLE.name)
    return requirements


def python_size_groups(folder: Path) -> dict[str, list[Path]]:
    """Returns the files of the Python part of a bundle by their kind."""
    return {"runtime's wheel": [*folder.glob("*.whl")]}


def python_readme(contract: Contract, precision: Precision, requirements: list[Requirement]) -> str:
    """Returns the README of a bundle, without its sizes: how it is installed and run."""
    is_host = all(item.is_installed for item in requirements)
    kind = "installed" if is_host else "of the download"
    packages = "".join(
        f"| {item.name} {item.version} | {item.bytes:,} |\n" for item in requirements
    )
    return (
        f"# {contract.task} in Python, {precision}\n\n"
        "Needs Python 3.11 or newer. pip downloads the packages below for the device:\n\n"
        "    python3 -m venv env\n"
        "    env/bin/python -m pip install --no-deps -r requirements.txt\n"
        "    env/bin/python model/check.py\n"
        '    env/bin/python example.py "a text"\n\n'
        "`--no-deps`: what tokenizers and onnxruntime otherwise bring is for downloads and for "
        "other uses. `check.py` compares token ids, offsets and outputs with what the export gave; "
        "it ends with code 3 at the first difference. In Python:\n\n"
        '    import edgedistil\n    model = edgedistil.load("model")\n\n'
        f"| package | bytes {kind} |\n|---|---:|\n{packages}"
    )


def _installed_bytes(name: str) -> int:
    files = distribution(name).files or []
    return sum(file.size or 0 for file in files)

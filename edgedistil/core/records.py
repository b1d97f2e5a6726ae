"""Records: the JSON files through which stages pass their results on.

A record is frozen and strict. Units are in the field names; provenance and raw samples are
included. A figure that is not available is a `NotMeasured` with a reason, never 0, -1 or "unknown";
NaN and infinities are refused. Field names are the JSON keys of users' files, so a renamed field
makes earlier files unreadable.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgedistil.core.cpu import this_cpu
from edgedistil.core.errors import StorageError
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import read_json, write_json
from edgedistil.core.version import __version__

# How a figure was obtained: on the device, under QEMU, or from the cost model.
Method = Literal["measured", "emulated", "predicted"]
Role = Literal["teacher", "student", "other"]

# Packages whose versions can change a figure.
VERSIONED_PACKAGES = (
    "edgedistil",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnx-ir",
    "openvino",
    "nncf",
    "optimum",
    "numpy",
)


class Record(BaseModel):
    """Base of all records."""

    # Not strict, because JSON writes the float 2.0 as 2 where another program wrote the file.
    # `model_type` and the like are ordinary field names here, hence no protected namespaces.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, allow_inf_nan=False, protected_namespaces=()
    )
    # What to do about a corrupt file; may name {path}, {folder} and {run}, the folder's name.
    remedy: ClassVar[str] = "remove it and create it again"


class NotMeasured(Record):
    """An absent figure, and the reason why it is absent."""

    not_measured: str = Field(min_length=1)


Figure = float | NotMeasured
Count = int | NotMeasured


class ArtefactRecord(Record):
    """Base of records about one artefact on one device."""

    model: str
    role: Role
    task: str
    precision: Precision
    artefact_sha256: str
    device: str


class Band(Record):
    """A predicted figure: never a single number, always a lower and an upper bound."""

    low: float
    high: float


class Host(Record):
    """The machine on which a figure was obtained."""

    # Machine name as `uname -m` prints it.
    machine: str
    # Model name of the processor.
    cpu: str
    # Logical cores of the machine.
    cores: int
    memory_bytes: Count
    # Operating system and kernel release.
    system: str
    # Version of Python.
    python: str


class Provenance(Record):
    """When, where and with what a record was written."""

    # UTC, ISO 8601.
    created_utc: str
    # Command line.
    command: str
    # Package → version, of the installed packages in VERSIONED_PACKAGES.
    versions: dict[str, str]
    host: Host


R = TypeVar("R", bound=Record)


def write_record(path: Path, record: Record) -> None:
    """Writes a record as JSON; the file appears complete or not at all."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, kind: type[R]) -> R:
    """Reads a record.

    Raises:
        StorageError: The file is missing, corrupt, or not a record of this kind and version.
    """
    hint = kind.remedy.format(path=path, folder=path.parent, run=path.parent.name)
    content = read_json(path, hint=hint)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise StorageError(
            f"{path} is not a valid {kind.__name__}: {first_problem(error)}",
            hint=f"it is corrupt, edited by hand or of another version; {hint}",
        ) from error


def first_problem(error: ValidationError) -> str:
    """Returns the place and the text of the first problem of a record."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def provenance(command: str | None = None) -> Provenance:
    """Returns the present time, command line, package versions and machine."""
    return Provenance(
        created_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=command or " ".join(["edgedistil", *sys.argv[1:]]),
        versions=installed_versions(),
        host=this_host(),
    )


def installed_versions() -> dict[str, str]:
    """Returns the versions of the installed packages in VERSIONED_PACKAGES."""
    versions = {"edgedistil": __version__}
    for name in VERSIONED_PACKAGES[1:]:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A machine that only runs artefacts has no training packages.
            continue
    return versions


def this_host() -> Host:
    """Returns the machine that this process runs on."""
    return Host(
        machine=platform.machine(),
        cpu=this_cpu().name,
        cores=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _memory_bytes() -> Count:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return NotMeasured(not_measured="this system does not report its memory size")


def text_sha256(text: str) -> str:
    """Returns the hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

"""`edgedistil doctor`: what each stage needs on this machine, checked without heavy imports."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from edgedistil.core import console
from edgedistil.core.assets import ASSETS, Asset
from edgedistil.core.cpu import BFLOAT16_FLAGS, INT8_FLAGS, this_cpu
from edgedistil.core.errors import StorageError
from edgedistil.core.places import cache_root, runs_root
from edgedistil.core.records import this_host
from edgedistil.core.rundir import run_names

State = Literal["ok", "missing", "note"]
REQUIRED_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "onnx",
    "onnxruntime",
    "onnx-ir",
    "optimum",
    "tokenizers",
    "numpy",
)
# A run of bert-base with its checkpoints and exports takes about this much.
MIN_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: Package, tool, folder or feature that was checked.
        state: `missing` if a stage cannot run without it, `note` if it only informs.
        detail: Version, path or value.
        advice: What to do; empty if nothing.
    """

    subject: str
    state: State
    detail: str
    advice: str = ""


def examine() -> bool:
    """Prints all findings; returns whether every stage can run."""
    findings = [finding for check in CHECKS for finding in check()]
    rows = [[item.subject, item.state, item.detail, item.advice] for item in findings]
    console.table("edgedistil doctor", ["check", "state", "found", "what to do"], rows)
    missing = [item.subject for item in findings if item.state == "missing"]
    if missing:
        console.result(f"missing: {', '.join(missing)}")
    else:
        console.result("every stage can run on this machine")
    return not missing


def check_python() -> list[Finding]:
    """Checks the Python version, and describes the host."""
    host = this_host()
    supported: State = "ok" if sys.version_info >= (3, 11) else "missing"
    return [
        Finding("python", supported, host.python),
        Finding("host", "note", f"{host.cpu}, {host.cores} cores, {host.machine}"),
    ]


def check_packages() -> list[Finding]:
    """Checks that the required packages are installed, by their metadata."""
    findings = []
    for name in REQUIRED_PACKAGES:
        try:
            findings.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            advice = f"pip install -c constraints.txt {name}"
            findings.append(Finding(name, "missing", "not installed", advice))
    return findings


def check_instructions() -> list[Finding]:
    """Reports instructions that decide the training precision and the speed of int8."""
    flags = this_cpu().flags
    if not flags:
        detail = "this system does not list its instructions"
        return [Finding("bfloat16", "note", detail, "training uses float32")]
    bfloat16 = sorted(flags & BFLOAT16_FLAGS)
    int8 = sorted(flags & INT8_FLAGS)
    return [
        _instruction("bfloat16", bfloat16, "training uses float32"),
        _instruction("int8 dot product", int8, "int8 may not be faster on this machine"),
    ]


def _instruction(subject: str, flags: list[str], consequence: str) -> Finding:
    if flags:
        return Finding(subject, "note", ", ".join(flags))
    return Finding(subject, "note", "none", consequence)


def check_storage() -> list[Finding]:
    """Checks that the cache and the runs can be written and have space."""
    return [_folder("cache", cache_root), _folder("runs", runs_root)]


def _folder(subject: str, root: Callable[[], Path]) -> Finding:
    variable = f"EDGEDISTIL_{subject.upper()}"
    try:
        path = root()
        # The folder itself may not exist yet: its closest existing parent decides.
        parent = path.absolute()
        while not parent.exists():
            parent = parent.parent
        free = shutil.disk_usage(parent).free
    except StorageError as error:
        return Finding(subject, "missing", error.message, error.hint or "")
    except OSError as error:
        advice = f"set {variable} to another folder"
        return Finding(subject, "missing", f"{path}: {error.strerror}", advice)
    detail = f"{path}, {free / 2**30:.0f} GiB free"
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        advice = f"{parent} is not a folder that can be written: set {variable} to another one"
        return Finding(subject, "missing", detail, advice)
    if free < MIN_FREE_BYTES:
        advice = "the demo takes about 2 GiB, bert-base about 5 GiB"
        return Finding(subject, "note", detail, advice)
    return Finding(subject, "ok", detail)


def check_assets() -> list[Finding]:
    """Reports how many of the pinned downloads are in the cache."""
    missing = [asset for asset in ASSETS.values() if not _is_cached(asset)]
    if not missing:
        return [Finding("assets", "ok", f"all {len(ASSETS)} cached: no network needed")]
    megabytes = sum(asset.bytes for asset in missing) / 1e6
    detail = f"{len(missing)} of {len(ASSETS)} not cached"
    return [Finding("assets", "note", detail, f"{megabytes:.0f} MB are downloaded when needed")]


def _is_cached(asset: Asset) -> bool:
    try:
        return (cache_root() / "assets" / asset.filename).is_file()
    # Without a cache that can be read, nothing is cached.
    except (OSError, StorageError):
        return False


def check_tools() -> list[Finding]:
    """Looks for the programs that measure on boards and run emulation."""
    tools = {
        "ssh": "apt install openssh-client (for profile --ssh)",
        "qemu-aarch64": "apt install qemu-user (for profile --emulate)",
        "apt-get": "profile --emulate builds its arm64 system with it",
    }
    findings = []
    for tool, advice in tools.items():
        path = shutil.which(tool)
        if path is None:
            findings.append(Finding(tool, "note", "not installed", advice))
        else:
            findings.append(Finding(tool, "ok", path))
    return findings


def check_extras() -> list[Finding]:
    """Looks for the packages of optional runtimes."""
    advice = "pip install 'edgedistil[openvino]' (for profile --runtime openvino)"
    findings = []
    for name in ("openvino", "nncf"):
        try:
            findings.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            findings.append(Finding(name, "note", "not installed", advice))
    return findings


def check_runs() -> list[Finding]:
    """Lists the runs of this folder."""
    names = run_names()
    return [Finding("runs here", "note", ", ".join(names) or "none")]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_packages,
    check_instructions,
    check_storage,
    check_assets,
    check_tools,
    check_extras,
    check_runs,
)

"""`edgedistil doctor`: what this machine has and lacks for each stage, without loading anything heavy."""

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
from edgedistil.core.assets import ASSETS, cache_root
from edgedistil.core.cpu import BFLOAT16_FLAGS, INT8_FLAGS, this_cpu
from edgedistil.core.records import this_host
from edgedistil.core.rundir import run_names, runs_root

State = Literal["ok", "lacks", "note"]
NEEDED = (
    "torch",
    "transformers",
    "accelerate",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optimum",
    "tokenizers",
    "numpy",
)
MIN_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `lacks` is what a stage cannot do without; `note` is good to know."""

    what: str
    state: State
    found: str
    advice: str = ""


def examine() -> bool:
    """Prints the findings; True when no stage lacks anything."""
    findings = [finding for look in LOOKS for finding in look()]
    rows = [[f.what, f.state, f.found, f.advice] for f in findings]
    console.table("edgedistil doctor", ["what", "state", "found", "what to do"], rows)
    lacking = [f.what for f in findings if f.state == "lacks"]
    console.result(
        f"lacks: {', '.join(lacking)}" if lacking else "every stage can work on this machine"
    )
    return not lacking


def look_at_python() -> list[Finding]:
    host = this_host()
    return [
        Finding("python", "ok" if sys.version_info >= (3, 11) else "lacks", host.python),
        Finding("host", "note", f"{host.cpu}, {host.cores} cores, {host.machine}"),
    ]


def look_at_packages() -> list[Finding]:
    found = []
    for name in NEEDED:
        try:
            found.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(
                Finding(name, "lacks", "not installed", f"pip install -c constraints.txt {name}")
            )
    return found


def look_at_instructions() -> list[Finding]:
    flags = this_cpu().flags
    if not flags:
        return [
            Finding(
                "bfloat16",
                "note",
                "this system does not list its instructions",
                "training uses float32",
            )
        ]
    bfloat16 = sorted(flags & BFLOAT16_FLAGS)
    int8 = sorted(flags & INT8_FLAGS)
    return [
        Finding(
            "bfloat16",
            "note",
            ", ".join(bfloat16) or "none",
            "" if bfloat16 else "training uses float32",
        ),
        Finding(
            "int8 dot product",
            "note",
            ", ".join(int8) or "none",
            "" if int8 else "int8 may not be faster here",
        ),
    ]


def look_at_storage() -> list[Finding]:
    return [_folder("cache", cache_root()), _folder("runs", runs_root())]


def look_at_assets() -> list[Finding]:
    folder = cache_root() / "assets"
    missing = [asset for asset in ASSETS.values() if not (folder / asset.filename).is_file()]
    if not missing:
        return [Finding("assets", "ok", f"all {len(ASSETS)} cached: works without a network")]
    size = sum(asset.bytes for asset in missing) / 1e6
    return [
        Finding(
            "assets",
            "note",
            f"{len(missing)} of {len(ASSETS)} not cached",
            f"{size:.0f} MB fetched when needed",
        )
    ]


def look_at_tools() -> list[Finding]:
    tools = {
        "ssh": "apt install openssh-client (profile --ssh)",
        "qemu-aarch64": "apt install qemu-user (profile --emulate)",
        "apt-get": "profile --emulate builds its arm64 system with it",
    }
    return [
        Finding(tool, "ok", str(shutil.which(tool)))
        if shutil.which(tool)
        else Finding(tool, "note", "missing", advice)
        for tool, advice in tools.items()
    ]


def look_at_runs() -> list[Finding]:
    names = run_names()
    return [Finding("finished and unfinished runs", "note", ", ".join(names) or "none")]


LOOKS: tuple[Callable[[], list[Finding]], ...] = (
    look_at_python,
    look_at_packages,
    look_at_instructions,
    look_at_storage,
    look_at_assets,
    look_at_tools,
    look_at_runs,
)


def _folder(what: str, path: Path) -> Finding:
    there = path.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    found = f"{path}, {free / 2**30:.0f} GiB free"
    if not os.access(there, os.W_OK):
        return Finding(
            what, "lacks", found, f"{there} cannot be written: set EDGEDISTIL_{what.upper()}"
        )
    if free < MIN_FREE_BYTES:
        return Finding(what, "note", found, "the demo takes about 2 GiB, bert-base about 5 GiB")
    return Finding(what, "ok", found)

"""Runs a program of a bundle on this machine, with a board's instructions and its /proc.

    python scripts/run_emulated.py rpi4 encoder-rpi4/build/conformance encoder-rpi4/model
    python scripts/run_emulated.py rpi4 encoder-pi/model/check.py

Needs qemu-aarch64 (Debian: qemu-user). onnxruntime reads which cores it runs on and crashes on the
host's files, so the program sees those of the board. A .py file runs in the board's Python with the
packages that the bundle's requirements.txt names. Ends with the program's exit code.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from edgedistil.core.device import load_device
from edgedistil.core.errors import EdgeDistilError, InputError
from edgedistil.core.scratch import scratch_folder
from edgedistil.runtime.qemu.guest import build_guest_root, emulated_cpu
from edgedistil.runtime.qemu.sysroot import ensure_sysroot
from edgedistil.runtime.qemu.target import find_qemu, open_guest
from edgedistil.runtime.wheels import TOKENIZERS, arm64_wheels, fetch_wheels


def run_program(device: str, program: Path, arguments: list[str]) -> int:
    """Runs a compiled program as on a device, and returns its exit code.

    Args:
        device: A 64-bit ARM board.
        program: The program, in a folder next to the bundle's lib/.
        arguments: Its arguments.
    """
    spec = load_device(device)
    cpu = emulated_cpu(spec)
    libraries = program.resolve().parents[1] / "lib"
    with scratch_folder("guest") as folder:
        root = build_guest_root(folder, ensure_sysroot(), spec)
        command = [find_qemu(cpu), "-L", str(root), "-cpu", cpu]
        command += ["-E", f"LD_LIBRARY_PATH={libraries}", str(program), *arguments]
        return subprocess.run(command, check=False).returncode


def run_python(device: str, script: Path, arguments: list[str]) -> int:
    """Runs a Python file of a bundle as on a device, and returns its exit code.

    Args:
        device: A 64-bit ARM board.
        script: The file, in the bundle or in its model/.
        arguments: Its arguments.
    """
    bundle = script.resolve().parent
    if bundle.name == "model":
        bundle = bundle.parent
    with open_guest(load_device(device)) as guest, scratch_folder("packages") as packages:
        wheels = {
            wheel.package: wheel for wheel in (*arm64_wheels(guest.sysroot.python), TOKENIZERS)
        }
        own = _required_wheels(bundle, {name: wheel.version for name, wheel in wheels.items()})
        for file in (*fetch_wheels((TOKENIZERS,)), *own):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(packages)
        path = os.pathsep.join([str(guest.site.path), str(packages)])
        environment = {**guest.environment(), "PYTHONPATH": path}
        command = guest.command(str(script), *arguments)
        return subprocess.run(command, env=environment, check=False).returncode


def _required_wheels(bundle: Path, available: dict[str, str]) -> list[Path]:
    """Returns the wheels in a bundle that its requirements.txt names.

    Raises:
        InputError: It names another version than those that are there for the board.
    """
    own = []
    for line in (bundle / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if not version:
            own.append(bundle / line)
        elif available.get(name) != version:
            raise InputError(
                f"{bundle / 'requirements.txt'} names {line}; the board has "
                f"{available.get(name, 'no such package')}",
                hint="make the bundle with --target",
            )
    return own


def main() -> int:
    """Runs the program of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device")
    parser.add_argument("program", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    run = run_python if options.program.suffix == ".py" else run_program
    try:
        return run(options.device, options.program, options.arguments)
    except EdgeDistilError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

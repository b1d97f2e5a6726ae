"""Runs a program of an aarch64 bundle on this machine, with a board's instructions and /proc.

    python scripts/run_emulated.py rpi4 encoder-rpi4/build/conformance encoder-rpi4/model

Needs qemu-aarch64 (Debian: qemu-user). onnxruntime reads which cores it runs on and crashes on the
host's files, so the program sees those of the board. Ends with the program's exit code.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from edgedistil.core.device import load_device
from edgedistil.core.errors import EdgeDistilError
from edgedistil.core.scratch import scratch_folder
from edgedistil.runtime.qemu.guest import build_guest_root, emulated_cpu
from edgedistil.runtime.qemu.sysroot import ensure_sysroot
from edgedistil.runtime.qemu.target import find_qemu


def run(device: str, program: Path, arguments: list[str]) -> int:
    """Runs a program as on a device, and returns its exit code.

    Args:
        device: A 64-bit ARM board.
        program: The program; the bundle's lib/ is next to its build folder.
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


def main() -> int:
    """Runs the program of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device")
    parser.add_argument("program", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    try:
        return run(options.device, options.program, options.arguments)
    except EdgeDistilError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

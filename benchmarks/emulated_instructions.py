"""Instructions of a call on emulated ARM cores: int8 without neighbours, and dynamic int8.

    python benchmarks/emulated_instructions.py MODEL_FOLDER [--devices rpi4 rpi5] [--lengths 16 64]

An emulator has no times, but it counts: the same kernels run as on the core, and a call executes
the same instructions. A plugin of qemu counts them. Each count is a difference of two processes
that make one call and three, so that imports and loading cancel. The ratio of counts is not one of
times: a vector product takes longer than an addition.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from page import RESULTS, argument_parser, host_line, today, write_page, write_raw
from peers.rows import Row, our_rows

from edgedistil.core.device import load_device
from edgedistil.core.task import ENCODER_TASK
from edgedistil.runtime.qemu.target import Guest, open_guest

PLUGIN = Path(__file__).resolve().parent / "peers" / "count_instructions.c"
# Calls of the two processes of a count.
FEW, MANY = 1, 3
# Runs in the guest: GRAPH LENGTH CALLS.
GUEST_PROGRAM = """
import sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
graph, length, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
ids = np.arange(1000, 1000 + length, dtype=np.int64)[None]
feeds = {node.name: np.ones_like(ids) for node in session.get_inputs()}
feeds["input_ids"] = ids
for _ in range(calls):
    session.run(None, feeds)
"""
# Variables that keep numpy and onnxruntime to the one thread that the plugin counts.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Count:
    """Instructions of one call.

    Attributes:
        device: Device whose core is emulated.
        precision: Precision of the artefact.
        length: Tokens of the call.
        instructions: Instructions that a call executes.
    """

    device: str
    precision: str
    length: int
    instructions: int


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path, help="folder of an encoder")
    parser.add_argument("--devices", nargs="+", default=["rpi4", "rpi5"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plugin = compile_plugin(folder)
        rows = our_rows(arguments.model, folder / "graphs", ENCODER_TASK)
        rows = [row for row in rows if row.precision != "fp32"]
        counts = []
        for device in arguments.devices:
            with open_guest(load_device(device)) as guest:
                for row in rows:
                    for length in arguments.lengths:
                        counts.append(count(guest, device, row, length, plugin))
                        print(counts[-1], flush=True)
    write_raw(arguments.out, "emulated_instructions", {"counts": counts})
    print(write_page(arguments.out, "emulated_instructions", page(counts)))


def compile_plugin(folder: Path) -> Path:
    library = folder / "count_instructions.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, PLUGIN], check=True)
    return library


def count(guest: Guest, device: str, row: Row, length: int, plugin: Path) -> Count:
    few, many = (executed(guest, row.graph_file, length, calls, plugin) for calls in (FEW, MANY))
    return Count(device, row.precision, length, (many - few) // (MANY - FEW))


def executed(guest: Guest, graph: Path, length: int, calls: int, plugin: Path) -> int:
    """Instructions of a complete guest process."""
    command = guest.command(
        *("-c", GUEST_PROGRAM, str(graph), str(length), str(calls)),
        options=("-plugin", str(plugin)),
    )
    done = subprocess.run(
        command, env={**guest.environment(), **ONE_THREAD}, capture_output=True, text=True
    )
    match = re.search(r"instructions: (\d+)", done.stderr)
    if done.returncode != 0 or match is None:
        raise RuntimeError(f"{row_words(graph, length)}: no count\n{done.stderr[-2000:]}")
    return int(match[1])


def row_words(graph: Path, length: int) -> str:
    return f"{graph.name}, {length} tokens"


def page(counts: Sequence[Count]) -> str:
    lines = [
        f"# Instructions of a call on emulated cores, {today()}",
        "",
        f"`python benchmarks/emulated_instructions.py …` · emulated on {host_line()} · one thread",
        "",
        "| device | tokens | precision | instructions of a call, millions | / dynamic int8 |",
        "|---|---|---|---|---|",
    ]
    dynamic = {
        (c.device, c.length): c.instructions for c in counts if c.precision == "int8-dynamic"
    }
    for c in counts:
        share = c.instructions / dynamic[c.device, c.length]
        cells = (c.device, c.length, c.precision, f"{c.instructions / 1e6:.1f}", f"{share:.3f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()

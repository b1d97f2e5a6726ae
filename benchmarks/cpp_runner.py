"""Cold start and resident memory of the C++ program against Python's Encoder, on one text.

    edgedistil bundle --precision int8 --out /tmp/encoder-cpp
    cmake -S /tmp/encoder-cpp -B /tmp/encoder-cpp/build && cmake --build /tmp/encoder-cpp/build
    python benchmarks/cpp_runner.py /tmp/encoder-cpp int8

Both run with one thread and are started in turns. Prints the median seconds from start to the end
of the process, and the largest resident memory of a process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

TEXT = "The boat left the harbour before sunrise."
PROGRAM = "import sys, edgedistil; edgedistil.Encoder(sys.argv[1], precision=sys.argv[2], "
PROGRAM += "threads=1).embed([sys.argv[3]])"


def measure(command: list[str]) -> tuple[float, float]:
    """Returns seconds and peak resident MiB of one process."""
    started = time.perf_counter()
    # The C++ program prints its own times on standard error.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    # The process was waited for here, not by the object.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    """Runs both programs in turns and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("precision")
    parser.add_argument("--starts", type=int, default=15)
    options = parser.parse_args()
    arguments = [str(options.bundle / "model"), options.precision, TEXT]
    commands = {
        "C++": [str(options.bundle / "build" / "embed"), *arguments],
        "Python": [sys.executable, "-c", PROGRAM, *arguments],
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(options.starts):
        for name, command in commands.items():
            samples[name].append(measure(command))
    for name, rows in samples.items():
        seconds, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name}: {seconds * 1000:.0f} ms, {memory:.0f} MiB")


if __name__ == "__main__":
    main()

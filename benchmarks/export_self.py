"""Cost of an export: BERT-base's shapes to fp32 and int8 with parity checks, in seconds and memory.

    python benchmarks/export_self.py

Bounds: 60 s on 2 cores, and a peak of at most 4 times the float32 weights. The export runs in a
process of its own, whose peak is read when it has ended; the interpreter and torch are part of it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from page import RESULTS, argument_parser, host_line, today, write_page, write_raw
from transformers import AutoTokenizer, BertConfig, BertModel

from edgedistil.core.places import cache_root
from edgedistil.models.teacher import load_teacher

DOCS = Path(__file__).resolve().parent.parent / "docs"
# Shorter lines are headings and list items, not text.
MIN_CHARACTERS = 60


@dataclass(frozen=True)
class Export:
    """Result of one export and what it cost."""

    exit_code: int
    stderr: str
    wall_s: float
    cpu_s: float
    peak_bytes: int


def main() -> None:
    argument_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, text = Path(scratch) / "bert-base-shapes", Path(scratch) / "text.txt"
        weight_bytes = write_source(source)
        text.write_text("\n".join(text_lines()), encoding="utf-8")
        result = run_export(source, text, runs=Path(scratch) / "runs")
    page = render(result, weight_bytes)
    print(page)
    if result.exit_code:
        print(result.stderr[-2000:])
    write_page(RESULTS, "export_self", page)
    cost = {"wall_s": result.wall_s, "cpu_s": result.cpu_s, "peak_bytes": result.peak_bytes}
    write_raw(RESULTS, "export_self", {**cost, "weight_bytes": weight_bytes})


def write_source(folder: Path) -> int:
    """Writes a BERT-base with random weights and a tokenizer; returns the bytes of its weights."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(), add_pooling_layer=False)
    model.save_pretrained(folder)
    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    AutoTokenizer.from_pretrained(teacher.folder).save_pretrained(folder)
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def text_lines() -> list[str]:
    """Lines of this repository's documents, as probe text."""
    lines = []
    for path in sorted(DOCS.glob("*.md")):
        lines += path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if len(line) > MIN_CHARACTERS]


def run_export(source: Path, text: Path, *, runs: Path) -> Export:
    """Runs `edgedistil export` in a process of its own."""
    command = [sys.executable, "-m", "edgedistil", "export", "--model", str(source)]
    command += ["--text", str(text), "--quantize", "int8"]
    environment = {**os.environ, "EDGEDISTIL_RUNS": str(runs)}
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Export(
        exit_code=done.returncode,
        stderr=done.stderr,
        wall_s=wall_s,
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        # KiB on Linux; the largest child so far, and the export is the only large one.
        peak_bytes=after.ru_maxrss * 1024,
    )


def render(result: Export, weight_bytes: int) -> str:
    """Renders the result page."""
    lines = [
        f"# Exporting BERT-base shapes, {today()}",
        "",
        f"`python benchmarks/export_self.py` · {host_line()} · load average"
        f" {os.getloadavg()[0]:.1f}",
        "",
        f"- exit code {result.exit_code}",
        f"- {result.wall_s:.1f} s wall clock, {result.cpu_s:.1f} s of CPU time (bound: 60 s on"
        " 2 cores)",
        f"- peak {result.peak_bytes / 2**20:.0f} MiB, {result.peak_bytes / weight_bytes:.2f} times"
        f" the float32 weights of {weight_bytes / 2**20:.0f} MiB (bound: 4)",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

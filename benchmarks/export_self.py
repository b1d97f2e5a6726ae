"""What an export costs: BERT-base shapes to fp32 and int8 with parity; seconds, and the peak of memory.

    python benchmarks/export_self.py

The bounds: 60 s on 2 cores, and a peak of at most 4 times the float32 weights. The export runs in a process of its
own, whose peak is read when it has ended; the interpreter and torch themselves are in it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from edgedistil.core.assets import cache_root
from edgedistil.core.records import this_host
from edgedistil.models.teacher import load_teacher

HERE = Path(__file__).resolve().parent


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, text = Path(scratch) / "bert-base-shapes", Path(scratch) / "text.txt"
        torch.manual_seed(0)
        model = BertModel(BertConfig(), add_pooling_layer=False)
        model.save_pretrained(source)
        load_teacher("asset:minilm", revision=None, cache=cache_root()).tokenizer.save_pretrained(
            source
        )
        documents = (
            line
            for path in sorted(HERE.parent.glob("docs/*.md"))
            for line in path.read_text().splitlines()
        )
        text.write_text("\n".join(line for line in documents if len(line) > 60), encoding="utf-8")
        weights = sum(parameter.numel() for parameter in model.parameters()) * 4
        del model
        environment = {**os.environ, "EDGEDISTIL_RUNS": str(Path(scratch) / "runs")}
        command = [
            sys.executable,
            "-m",
            "edgedistil",
            "export",
            "--model",
            str(source),
            "--text",
            str(text),
        ]
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, "--quantize", "int8"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    peak = used.ru_maxrss * 1024
    host, now = this_host(), datetime.now(UTC)
    lines = [
        f"# Exporting BERT-base shapes, {now:%Y-%m-%d}",
        "",
        f"`python benchmarks/export_self.py` · {host.cpu}, {host.cores} cores · load average {os.getloadavg()[0]:.1f}",
        "",
        f"- exit code {done.returncode}",
        f"- {seconds:.1f} s wall clock, {processor:.1f} s of processor time (bound: 60 s on 2 cores)",
        f"- peak {peak / 2**20:.0f} MiB, {peak / weights:.2f} times the float32 weights of {weights / 2**20:.0f} MiB "
        "(bound: 4)",
        "",
    ]
    print("\n".join(lines))
    if done.returncode:
        print(done.stderr[-2000:])
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"export_self-{now:%Y-%m-%d}.md").write_text(
        "\n".join(lines), encoding="utf-8"
    )


if __name__ == "__main__":
    main()

"""In a fresh process: seconds to open a session, and the peak of its resident memory after a call at 128 tokens."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main(graph: str) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    before = resident("VmRSS")
    started, cpu = time.perf_counter(), time.process_time()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    load_s, load_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    ids = np.full((1, 128), 2000, np.int64)
    given = {
        each.name: ids if each.name == "input_ids" else np.ones_like(ids)
        for each in session.get_inputs()
    }
    session.run(None, given)
    peak = resident("VmHWM") - before
    print(
        json.dumps(
            {
                "load_s": load_s,
                "load_cpu_s": load_cpu_s,
                "peak_bytes": peak,
                "rss_bytes": resident("VmRSS"),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])

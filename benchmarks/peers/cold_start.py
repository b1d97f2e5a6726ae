"""Opens a session in a fresh process; prints its time and peak memory after a call as JSON.

python cold_start.py GRAPH [OPTIONS as JSON]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

LENGTH = 128


def main(graph: str, extra: str = "{}") -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in json.loads(extra).items():
        if key == ".graph_optimization_level":
            options.graph_optimization_level = ort.GraphOptimizationLevel(int(value))
        elif key == ".enable_cpu_mem_arena":
            options.enable_cpu_mem_arena = value == "1"
        else:
            options.add_session_config_entry(key, value)
    # Memory of the imports is not the artefact's.
    rss_before = status_bytes("VmRSS")
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    load_s, load_cpu_s = time.perf_counter() - wall_start, time.process_time() - cpu_start
    ids = np.full((1, LENGTH), 2000, np.int64)
    feeds = {node.name: np.ones_like(ids) for node in session.get_inputs()}
    feeds["input_ids"] = ids
    session.run(None, feeds)
    figures = {
        "load_s": load_s,
        "load_cpu_s": load_cpu_s,
        "peak_bytes": status_bytes("VmHWM") - rss_before,
        "rss_bytes": status_bytes("VmRSS"),
    }
    print(json.dumps(figures))


def status_bytes(key: str) -> int:
    """Value of a memory field of /proc/self/status, which is in KiB there."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main(*sys.argv[1:])

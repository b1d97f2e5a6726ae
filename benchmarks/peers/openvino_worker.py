"""Runs inside the environment of OpenVINO: `quantize GRAPH CALIBRATION.npz OUT.xml`, or `run GRAPH PRECISION THREADS`.

`run` answers one line a call: for a number of tokens its seconds, for a file of feeds a file of answers beside it.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import openvino as ov


def quantize(graph: str, calibration: str, out: str) -> None:
    import nncf

    with np.load(calibration) as stored:
        count = len(stored.files) // 2
        samples = [
            {name: stored[f"{index}/{name}"] for name in ("input_ids", "attention_mask")}
            for index in range(count)
        ]
    model = ov.Core().read_model(graph)
    kind = nncf.ModelType.TRANSFORMER
    model = nncf.quantize(model, nncf.Dataset(samples), model_type=kind, subset_size=len(samples))
    ov.save_model(model, out, compress_to_fp16=False)


def run(graph: str, precision: str, threads: str) -> None:
    hint = "bf16" if precision == "bf16" else "f32"
    options = {
        "INFERENCE_NUM_THREADS": int(threads),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
    }
    core = ov.Core()
    request = core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()
    print("ready", flush=True)
    rng = np.random.default_rng(1)
    for line in map(str.strip, sys.stdin):
        if line.isdigit():
            ids = rng.integers(1000, 30000, (1, int(line)))
            started = time.perf_counter()
            request.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})
            print(time.perf_counter() - started, flush=True)
            continue
        with np.load(line) as stored:
            count = len(stored.files) // 2
            feeds = [
                {name: stored[f"{index}/{name}"] for name in ("input_ids", "attention_mask")}
                for index in range(count)
            ]
        np.savez(
            line + ".answers.npz",
            *[next(iter(request.infer(each).values())).copy() for each in feeds],
        )
        print("done", flush=True)


if __name__ == "__main__":
    {"quantize": quantize, "run": run}[sys.argv[1]](*sys.argv[2:])

"""OpenVINO's part of the comparison; runs in OpenVINO's own environment.

    python openvino_worker.py quantize GRAPH CALIBRATION.npz OUT.xml
    python openvino_worker.py run GRAPH PRECISION THREADS

`run` prints "ready" and answers each line of stdin: a number of tokens with the seconds of one
call, a file of feeds with "done" after it has written the outputs next to it.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import openvino as ov
from feeds import outputs_path, read_feeds


def quantize(graph: str, calibration: str, out: str) -> None:
    """Quantizes a graph to int8 with NNCF, as documented for transformers."""
    import nncf

    batches = read_feeds(calibration)
    model = nncf.quantize(
        ov.Core().read_model(graph),
        nncf.Dataset(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
    )
    ov.save_model(model, out, compress_to_fp16=False)


def run(graph: str, precision: str, threads: str) -> None:
    """Serves calls of a graph until stdin ends."""
    options = {
        "INFERENCE_NUM_THREADS": int(threads),
        "PERFORMANCE_HINT": "LATENCY",
        # Without this, OpenVINO computes in bfloat16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    core = ov.Core()
    request = core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()
    print("ready", flush=True)
    rng = np.random.default_rng(1)
    for line in map(str.strip, sys.stdin):
        if line.isdigit():
            ids = rng.integers(1000, 30000, (1, int(line)))
            start = time.perf_counter()
            request.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})
            print(time.perf_counter() - start, flush=True)
        else:
            # Copies: the request reuses its output buffers.
            outputs = [
                next(iter(request.infer(batch).values())).copy() for batch in read_feeds(line)
            ]
            np.savez(outputs_path(line), *outputs)
            print("done", flush=True)


if __name__ == "__main__":
    {"quantize": quantize, "run": run}[sys.argv[1]](*sys.argv[2:])

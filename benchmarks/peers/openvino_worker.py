"""Runs inside the environment of OpenVINO: answers one line per call with seconds. `fp32`, `bf16` or NNCF's `int8`."""

from __future__ import annotations

import sys
import time

import nncf
import numpy as np
import openvino as ov


def main(graph: str, precision: str, threads: str) -> None:
    core = ov.Core()
    model = core.read_model(graph)
    if precision == "int8":
        rng = np.random.default_rng(0)
        samples = [inputs(int(length), rng) for length in rng.integers(16, 129, 32)]
        kind = nncf.ModelType.TRANSFORMER
        model = nncf.quantize(model, nncf.Dataset(samples), model_type=kind, subset_size=len(samples))
    hint = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}[precision]
    options = {"INFERENCE_NUM_THREADS": int(threads), "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    print("ready", flush=True)
    rng = np.random.default_rng(1)
    for line in sys.stdin:
        given = inputs(int(line), rng)
        started = time.perf_counter()
        request.infer(given)
        print(time.perf_counter() - started, flush=True)


def inputs(length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    ids = rng.integers(1000, 30000, (1, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


if __name__ == "__main__":
    main(*sys.argv[1:])

"""PyTorch on the same model: answers one line per call with seconds. `fp32`, `bf16` or `compiled`."""

from __future__ import annotations

import sys
import time

import torch
from transformers import AutoModel


def main(source: str, precision: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModel.from_pretrained(source, dtype=dtype).eval()
    run = torch.compile(model, dynamic=True) if precision == "compiled" else model
    print("ready", flush=True)
    for line in sys.stdin:
        ids = torch.randint(1000, 30000, (1, int(line)))
        mask = torch.ones_like(ids)
        started = time.perf_counter()
        with torch.inference_mode():
            run(input_ids=ids, attention_mask=mask)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

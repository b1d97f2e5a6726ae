"""PyTorch on the same model: answers one line a call. `fp32`, `bf16` or `compiled`; the lines as openvino_worker's."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from transformers import AutoModel


def main(source: str, precision: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModel.from_pretrained(source, dtype=dtype).eval()
    run = torch.compile(model, dynamic=True) if precision == "compiled" else model
    print("ready", flush=True)
    for line in map(str.strip, sys.stdin):
        if line.isdigit():
            ids = torch.randint(1000, 30000, (1, int(line)))
            started = time.perf_counter()
            answer(run, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            print(time.perf_counter() - started, flush=True)
            continue
        with np.load(line) as stored:
            feeds = [
                {
                    name: torch.from_numpy(stored[f"{index}/{name}"])
                    for name in ("input_ids", "attention_mask")
                }
                for index in range(len(stored.files) // 2)
            ]
        np.savez(line + ".answers.npz", *[answer(run, each).float().numpy() for each in feeds])
        print("done", flush=True)


@torch.inference_mode()
def answer(run: torch.nn.Module, feeds: dict[str, torch.Tensor]) -> torch.Tensor:
    return run(**feeds).last_hidden_state


if __name__ == "__main__":
    main(*sys.argv[1:])

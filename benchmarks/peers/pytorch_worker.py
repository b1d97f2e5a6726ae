"""PyTorch's part of the comparison: serves calls like openvino_worker.py.

python pytorch_worker.py MODEL_FOLDER fp32|bf16|compiled THREADS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from feeds import outputs_path, random_ids, read_feeds
from torch import Tensor
from transformers import AutoModel


def main(source: str, precision: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model: Callable[..., Any] = AutoModel.from_pretrained(source, dtype=dtype).eval()
    if precision == "compiled":
        model = torch.compile(model, dynamic=True)
    print("ready", flush=True)
    rng = np.random.default_rng(1)
    for line in map(str.strip, sys.stdin):
        if line.isdigit():
            ids = torch.from_numpy(random_ids(rng, int(line)))
            start = time.perf_counter()
            hidden_states(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            print(time.perf_counter() - start, flush=True)
        else:
            outputs = []
            for batch in read_feeds(line):
                inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
                outputs.append(hidden_states(model, inputs).float().numpy())
            np.savez(outputs_path(line), *outputs)
            print("done", flush=True)


@torch.inference_mode()
def hidden_states(model: Callable[..., Any], inputs: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = model(**inputs).last_hidden_state
    return output


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Exports a model with transformers.exporters to fp32 and dynamic int8, also with fusions.

python transformers_exporters.py MODEL_FOLDER TASK OUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.exporters import (
    OnnxConfig,
    OnnxExporter,
    OnnxRuntimeDynamicConfig,
    OnnxRuntimeQuantizer,
)

TASKS = {"fill-mask": AutoModelForMaskedLM, "feature-extraction": AutoModel}


def main(source: str, task: str, out: str) -> None:
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
    configs = {
        "fp32": OnnxConfig(dynamic=True),
        "fp32-fused": OnnxConfig(dynamic=True, ort_fusions="cpu"),
        "int8": OnnxConfig(dynamic=True, quantizer=quantizer),
        "int8-fused": OnnxConfig(dynamic=True, ort_fusions="cpu", quantizer=quantizer),
    }
    ids = torch.arange(2 * 7).reshape(2, 7) + 1000
    for name, config in configs.items():
        sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        # The exporters are experimental: one that fails is left out of the comparison.
        try:
            model = TASKS[task].from_pretrained(source).eval()
            exported = OnnxExporter().export(model, sample, config=config)
            exported.save_pretrained(Path(out) / name)
        except Exception as error:
            first_line = str(error).splitlines()[0]
            print(f"transformers.exporters {name}: {type(error).__name__}: {first_line}")


if __name__ == "__main__":
    main(*sys.argv[1:])

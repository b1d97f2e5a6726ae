"""Exports a model folder with transformers.exporters: fp32, with its CPU fusions, and dynamic int8 of both."""

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


def main(source: str, task: str, target: str) -> None:
    ids = torch.arange(2 * 7).reshape(2, 7) + 1000
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
    for name, config in {
        "fp32": OnnxConfig(dynamic=True),
        "fp32-fused": OnnxConfig(dynamic=True, ort_fusions="cpu"),
        "int8": OnnxConfig(dynamic=True, quantizer=quantizer),
        "int8-fused": OnnxConfig(dynamic=True, ort_fusions="cpu", quantizer=quantizer),
    }.items():
        try:
            model = TASKS[task].from_pretrained(source).eval()
            OnnxExporter().export(model, dict(sample), config=config).save_pretrained(
                Path(target) / name
            )
        except (
            Exception
        ) as error:  # experimental: what does not work is a row of the table, not the end of it
            print(
                f"transformers.exporters {name}: {type(error).__name__}: {str(error).splitlines()[0]}"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])

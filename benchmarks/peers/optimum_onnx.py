"""Exports a model with optimum-onnx to fp32 and dynamic int8, as documented.

    python optimum_onnx.py MODEL_FOLDER TASK OUT_FOLDER

Runs in optimum-onnx's own environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

from optimum.onnxruntime import (
    AutoQuantizationConfig,
    ORTModelForFeatureExtraction,
    ORTModelForMaskedLM,
    ORTQuantizer,
)

TASKS = {"fill-mask": ORTModelForMaskedLM, "feature-extraction": ORTModelForFeatureExtraction}


def main(source: str, task: str, out: str) -> None:
    folder = Path(out)
    fp32 = folder / "fp32"
    TASKS[task].from_pretrained(source, export=True).save_pretrained(fp32)
    # The documented configuration has one scale per tensor; the other one is a fairer peer.
    for name, per_channel in (("int8", False), ("int8-per-channel", True)):
        config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=per_channel)
        quantizer = ORTQuantizer.from_pretrained(fp32)
        quantizer.quantize(save_dir=folder / name, quantization_config=config)


if __name__ == "__main__":
    main(*sys.argv[1:])

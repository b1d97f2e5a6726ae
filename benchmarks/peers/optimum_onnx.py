"""Runs inside the environment of optimum-onnx: a model folder to fp32 and dynamic int8, as documented."""

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


def main(source: str, task: str, target: str) -> None:
    folder = Path(target)
    fp32 = folder / "fp32"
    TASKS[task].from_pretrained(source, export=True).save_pretrained(fp32)
    for name, per_channel in (("int8", False), ("int8-per-channel", True)):
        config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=per_channel)
        ORTQuantizer.from_pretrained(fp32).quantize(
            save_dir=folder / name, quantization_config=config
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Runs inside the environment of optimum-onnx: a model folder as sentence-transformers makes its ONNX files of it.

fp32 by `backend="onnx"` (the graph holds the encoder; pooling stays in Python), int8 by its documented function for
AVX-512 VNNI. Batch 1 in an application calls exactly this graph.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import export_dynamic_quantized_onnx_model


def main(source: str, target: str) -> None:
    folder = Path(target)
    model = SentenceTransformer(source, backend="onnx", model_kwargs={"export": True})
    model.save_pretrained(str(folder / "saved"))
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder / "saved"))
    for precision, pattern in (("fp32", "model.onnx"), ("int8", "model_*int8*.onnx")):
        (folder / precision).mkdir(parents=True, exist_ok=True)
        (found,) = (folder / "saved").rglob(pattern)
        shutil.move(found, folder / precision / "model.onnx")
    shutil.rmtree(folder / "saved")


if __name__ == "__main__":
    main(*sys.argv[1:])

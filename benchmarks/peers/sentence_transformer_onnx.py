"""Exports a model with sentence-transformers to fp32 and int8.

    python sentence_transformer_onnx.py MODEL_FOLDER OUT_FOLDER

fp32 with `backend="onnx"` (the graph is the encoder; pooling stays in Python), int8 with its
documented function for AVX-512 VNNI. An application at batch 1 calls exactly this graph. Runs in
optimum-onnx's environment.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import export_dynamic_quantized_onnx_model


def main(source: str, out: str) -> None:
    folder = Path(out)
    saved = folder / "saved"
    model = SentenceTransformer(source, backend="onnx", model_kwargs={"export": True})
    model.save_pretrained(str(saved))
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(saved))
    # File names differ between releases; there is one graph of each precision.
    for precision, pattern in (("fp32", "model.onnx"), ("int8", "model_*int8*.onnx")):
        (folder / precision).mkdir(parents=True, exist_ok=True)
        (graph,) = saved.rglob(pattern)
        shutil.move(graph, folder / precision / "model.onnx")
    shutil.rmtree(saved)


if __name__ == "__main__":
    main(*sys.argv[1:])

#!/usr/bin/env python3
"""Quantizes a graph to int8 with NNCF, in a process of its own.

    python3 nncf_worker.py GRAPH.onnx CALIBRATION.npz MODEL.xml

One self-contained file: NNCF patches what it imports, so no other part of a program may share its
process. The calibration has arrays KEY/INPUT.
"""

from __future__ import annotations

import logging
import sys
from typing import Any


def quantize(graph: str, calibration: str, output: str) -> None:
    """Writes the quantized model as OpenVINO's xml and bin, as NNCF documents for transformers."""
    import nncf
    import numpy
    import openvino

    nncf.set_log_level(logging.ERROR)
    with numpy.load(calibration, allow_pickle=False) as archive:
        feeds: dict[str, dict[str, Any]] = {}
        for name in archive.files:
            key, _, input_name = name.partition("/")
            feeds.setdefault(key, {})[input_name] = archive[name]
    quantized = nncf.quantize(
        openvino.Core().read_model(graph),
        nncf.Dataset(list(feeds.values())),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
    )
    # Without compression to float16, which would round the other weights.
    openvino.save_model(quantized, output, compress_to_fp16=False)


if __name__ == "__main__":
    quantize(*sys.argv[1:])

"""The same artefact in onnxruntime's own format, for reduced builds: no protobuf, no unused kernels on the device."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnxruntime as ort

from edgedistil.core.errors import ModelError
from edgedistil.core.rundir import replacing, write_text

OPERATORS = ".required_operators.config"


def to_ort(model_file: Path, folder: Path | None = None) -> list[Path]:
    """Writes `model.ort` and `model.required_operators.config` for a graph; returns the two.

    The operators file is what onnxruntime's build takes as `--include_ops_by_config`. The graph is optimised for the
    CPU before it is written, without what belongs to one instruction set only (the blocked convolution layout).

    Args:
        model_file: The ONNX graph; its external data is taken into the .ort file.
        folder: Where to; beside the graph if not given.
    Raises:
        ModelError: onnxruntime cannot convert the graph.
    """
    target = (folder or model_file.parent) / f"{model_file.stem}.ort"
    operators = target.with_name(target.stem + OPERATORS)
    with replacing(target) as aside:
        _convert(model_file, aside)
        write_text(operators, "\n".join([f"# operators of {target.name}", *_operators(aside), ""]))
    return [target, operators]


def _operators(model_file: Path) -> list[str]:
    """`domain;opset;operators` lines; the tool's own comment, which holds the path that it read, is left out."""
    from onnxruntime.tools.ort_format_model import (
        create_config_from_models,  # sets up logging when it is imported
    )

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    listed = model_file.with_name("operators")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # the tool leaves it to Python to close what it reads
        create_config_from_models([model_file], listed, enable_type_reduction=False)
    lines = listed.read_text(encoding="utf-8").splitlines()
    listed.unlink()
    return [line for line in lines if line and not line.startswith("#")]


def _convert(model_file: Path, target: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(
            model_file,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["NchwcTransformer"],
        )
    except Exception as error:  # onnxruntime's exceptions have no common ancestor below Exception
        raise ModelError(
            f"onnxruntime cannot convert {model_file} to its own format: {error}"
        ) from error

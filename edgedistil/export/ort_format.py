"""Artefacts in onnxruntime's own format, for reduced builds of onnxruntime.

A reduced build has no protobuf and only the kernels that it needs. The price is size: the
conversion stores a tied word-embedding matrix twice
(docs/log.md#ort-conversion-duplicates-the-tied-embedding).
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnxruntime as ort

from edgedistil.core.errors import ModelError
from edgedistil.core.rundir import replacing, write_text
from edgedistil.core.session import PROVIDERS, SessionOptions

OPERATORS_SUFFIX = ".required_operators.config"
# It stores convolution weights in blocks of one instruction set, and the file is for any machine.
_DISABLED_OPTIMIZERS = ["NchwcTransformer"]


def convert_to_ort(model_file: Path, folder: Path | None = None) -> list[Path]:
    """Writes `model.ort` and `model.required_operators.config` for a graph.

    The operators file is what onnxruntime's build reads as `--include_ops_by_config`. The graph is
    optimized for CPUs before it is written.

    Args:
        model_file: The ONNX graph; its external data is copied into the .ort file.
        folder: Destination; the graph's folder if None.
    Returns:
        The two files.
    Raises:
        ModelError: onnxruntime cannot convert the graph.
    """
    target = (folder or model_file.parent) / f"{model_file.stem}.ort"
    operators_file = target.with_name(target.stem + OPERATORS_SUFFIX)
    with replacing(target) as unfinished:
        _convert(model_file, unfinished)
        lines = [f"# operators of {target.name}", *_operators(unfinished), ""]
        write_text(operators_file, "\n".join(lines))
    return [target, operators_file]


def _convert(model_file: Path, target: Path) -> None:
    options = SessionOptions().to_onnxruntime()
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(
            model_file,
            options,
            providers=list(PROVIDERS),
            disabled_optimizers=_DISABLED_OPTIMIZERS,
        )
    except Exception as error:  # onnxruntime's exceptions have no common base below Exception
        raise ModelError(
            f"onnxruntime cannot convert {model_file} to its own format: {error}"
        ) from error


def _operators(model_file: Path) -> list[str]:
    """Reads the operators of a .ort file as lines of `domain;opset;operators`."""
    # Sets up logging when it is imported.
    from onnxruntime.tools.ort_format_model import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    listing = model_file.with_name("operators")
    with warnings.catch_warnings():
        # The tool does not close the files that it reads.
        warnings.simplefilter("ignore", ResourceWarning)
        create_config_from_models([model_file], listing, enable_type_reduction=False)
    lines = listing.read_text(encoding="utf-8").splitlines()
    listing.unlink()
    # The tool's own comment holds the path that it read.
    return [line for line in lines if line and not line.startswith("#")]

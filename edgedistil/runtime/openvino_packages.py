"""OpenVINO on this machine: whether it is installed, and NNCF's quantization."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.echo import printable
from edgedistil.core.errors import TargetError
from edgedistil.core.processes import ending_with_this_process
from edgedistil.core.scratch import scratch_errors

INSTALL_HINT = "install it: pip install 'edgedistil[openvino]' (in a checkout: '.[openvino]')"
_PACKAGES = ("openvino", "nncf")
_NNCF_WORKER = Path(__file__).with_name("nncf_worker.py")
# Far above any model seen: 300 sequences of a 12-layer encoder take three minutes of one core.
_NNCF_TIMEOUT_S = 3600.0

_NNCF_HINT = (
    "check that it runs in onnxruntime: edgedistil profile without --runtime; "
    "edgedistil export --quantize int8 quantizes without NNCF"
)


def require_openvino() -> None:
    """Raises TargetError, with the command that installs it, unless OpenVINO and NNCF are there."""
    for name in _PACKAGES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            raise TargetError(
                f"--runtime openvino needs the package {name}, which is not installed",
                hint=INSTALL_HINT,
            ) from None


def quantize_with_nncf(
    graph: Path, feeds: Mapping[str, Mapping[str, Any]], folder: Path, *, exported: Path
) -> list[Path]:
    """Quantizes a float32 graph to int8 with NNCF, in a process of its own.

    Args:
        graph: The graph, in operators that OpenVINO reads.
        feeds: Key → input name → array, of the sequences that calibrate it.
        folder: Where the model is written.
        exported: The file that messages name.
    Returns:
        The model's xml file, and its weights.
    Raises:
        TargetError: NNCF could not quantize it.
    """
    calibration, model = folder / "calibration.npz", folder / "nncf.xml"
    arrays = {}
    for key, feed in feeds.items():
        for name, array in feed.items():
            arrays[f"{key}/{name}"] = array
    with scratch_errors():
        np.savez(calibration, **arrays)
    command = [sys.executable, "-P", str(_NNCF_WORKER), str(graph), str(calibration), str(model)]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            ending_with_this_process(command),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            # NNCF sends statistics about its use, except where it runs in CI.
            env={**os.environ, "CI": "true"},
            check=False,
            timeout=_NNCF_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"NNCF did not quantize {exported} within {error.timeout:g} s", hint=_NNCF_HINT
        ) from error
    if done.returncode != 0 or not model.is_file():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = printable(lines[-1]) if lines else "it printed nothing"
        raise TargetError(f"NNCF could not quantize {exported}: {reason}", hint=_NNCF_HINT)
    return [model, model.with_suffix(".bin")]

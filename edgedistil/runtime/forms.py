"""Table of the forms in which a runtime computes an artefact, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from edgedistil.runtime.protocol import Arithmetic, RuntimeName


@dataclass(frozen=True)
class RuntimeForm:
    """A runtime, and what it makes of an artefact.

    Attributes:
        runtime: Name of the runtime in jobs.
        title: Name of the runtime in rows and messages.
        words: After the precision in tables; empty for onnxruntime, which computes the artefact as
            it is.
        suffix: After the precision in the labels of jobs.
        arithmetic: Of what is not int8.
        bounds: Key of the parity check's bounds, where they are not those of the precision.
        ours: Whether the graph computes what the exported one does.
    """

    runtime: RuntimeName
    title: str
    words: str
    suffix: str
    arithmetic: Arithmetic = "f32"
    bounds: str | None = None
    ours: bool = True


ONNXRUNTIME = RuntimeForm("onnxruntime", "onnxruntime", "", "")
OPENVINO = RuntimeForm("openvino", "OpenVINO", "OpenVINO", ".openvino")
OPENVINO_BF16 = RuntimeForm(
    "openvino", "OpenVINO", "OpenVINO bf16", ".openvino-bf16", arithmetic="bf16", bounds="bf16"
)
OPENVINO_NNCF = RuntimeForm("openvino", "OpenVINO", "OpenVINO NNCF", ".openvino-nncf", ours=False)

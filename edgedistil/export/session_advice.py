"""Recommended onnxruntime session options of an artefact, with reasons."""

from __future__ import annotations

from edgedistil.core.device import HOST
from edgedistil.core.export_records import ExportRecord
from edgedistil.core.precision import PRECISIONS
from edgedistil.core.session import ALLOW_SPINNING, EXACT_INT8, SessionAdvice, SessionOptions


def advise_session(record: ExportRecord) -> SessionAdvice:
    """Returns session options for an artefact on its target device."""
    # On the host the model usually has the machine for itself; on a board an application runs.
    on_host = record.target_device == HOST
    exact_int8 = PRECISIONS[record.precision].integer_matmul
    return SessionAdvice(
        session=SessionOptions(spinning=on_host, exact_int8=exact_int8),
        reasons=_reasons(on_host=on_host, exact_int8=exact_int8),
        precision=record.precision,
        target_device=record.target_device,
        opset=record.opset,
        ir_version=record.ir_version,
    )


def _reasons(*, on_host: bool, exact_int8: bool) -> dict[str, str]:
    """Option → why; the keys are onnxruntime's names, as in session.json."""
    reasons = {
        "graph_optimization_level": "the graph leaves to the runtime what only a runtime can fuse",
        "execution_mode": "an encoder is one chain of operators: nothing can run in parallel",
        "intra_op_num_threads": "0: one thread per physical core; set 1 if several requests run "
        "at once",
    }
    if on_host:
        reasons[ALLOW_SPINNING] = "waiting threads respond faster if no other program needs the CPU"
    else:
        reasons[ALLOW_SPINNING] = (
            "spinning threads cost energy on a board and take the cores from the application"
        )
    # Other precisions multiply floats, which the option does not concern.
    if exact_int8:
        reasons[EXACT_INT8] = (
            "x86 without VNNI adds pairs of products in 16 bits and saturates; this option keeps "
            "them exact there and changes nothing elsewhere"
        )
    return reasons

"""session.json: the onnxruntime session options that we recommend for each artefact, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedistil.core.precision import PRECISIONS
from edgedistil.core.records import ExportRecord


def session_advice(records: Sequence[ExportRecord]) -> dict[str, Any]:
    """By file: providers, attributes of `SessionOptions`, entries for `add_session_config_entry`, reasons."""
    return {"format": 1, "artefacts": {record.files[0].path: _advice(record) for record in records}}


def _advice(record: ExportRecord) -> dict[str, Any]:
    entries = {"session.intra_op.allow_spinning": "1" if record.target_device == "host" else "0"}
    reasons = {
        "graph_optimization_level": "the graph leaves to the runtime what only the runtime can fuse",
        "execution_mode": "an encoder is one chain: operators side by side have nothing to do",
        "intra_op_num_threads": "0: one thread per physical core; set 1 where several requests run at once",
        "session.intra_op.allow_spinning": (
            "waiting threads answer faster where the machine is the model's own"
            if record.target_device == "host"
            else "spinning threads cost energy on a board and take the cores from the application"
        ),
    }
    if PRECISIONS[record.precision].integer_matmul:
        entries["session.x64quantprecision"] = "1"
        reasons["session.x64quantprecision"] = (
            "x86 without VNNI adds pairs of products in 16 bits and saturates; this keeps them exact there and changes"
            " nothing elsewhere"
        )
    return {
        "precision": record.precision,
        "opset": record.opset,
        "ir_version": record.ir_version,
        "target_device": record.target_device,
        "providers": ["CPUExecutionProvider"],
        "options": {
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "execution_mode": "ORT_SEQUENTIAL",
            "inter_op_num_threads": 1,
            "intra_op_num_threads": 0,
        },
        "config_entries": entries,
        "reasons": reasons,
    }

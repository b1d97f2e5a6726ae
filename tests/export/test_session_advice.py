from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.precision import Precision
from edgedistil.core.session import (
    ALLOW_SPINNING,
    EXACT_INT8,
    read_session_file,
    write_session_file,
)
from edgedistil.export.session_advice import advise_session
from tests.fixtures.small_package import export_record


@pytest.mark.parametrize(
    ("precision", "target", "entries"),
    [
        ("fp32", "host", {ALLOW_SPINNING: "1"}),
        ("int8", "rpi4", {ALLOW_SPINNING: "0", EXACT_INT8: "1"}),
    ],
)
def test_options_follow_precision_and_device_and_every_entry_has_a_reason(
    graphs: Path, precision: Precision, target: str, entries: dict[str, str]
) -> None:
    record = export_record(graphs, precision, target=target)
    advice = advise_session(record)
    assert advice.session.config_entries() == entries
    assert set(entries) <= set(advice.reasons)
    assert (advice.opset, advice.ir_version, advice.target_device) == (17, 8, target)


def test_advice_is_read_back_from_session_json(graphs: Path) -> None:
    advice = {"onnx/model.onnx": advise_session(export_record(graphs, "fp32"))}
    write_session_file(graphs / "session.json", advice)
    assert read_session_file(graphs / "session.json") == advice

"""Session options: onnxruntime's names, one schema of session.json for every writer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from edgedistil.core.errors import StorageError
from edgedistil.core.session import (
    GRAPH_LEVELS,
    SessionAdvice,
    SessionOptions,
    read_session_file,
    session_file,
    write_session_file,
)

UNUSUAL = SessionOptions(
    threads=3,
    spinning=False,
    arena=False,
    graph_level="extended",
    prepacking=False,
    exact_int8=True,
)


def advice(session: SessionOptions = UNUSUAL) -> SessionAdvice:
    return SessionAdvice(
        session=session, reasons={"arena": "a reason"}, precision="int8", target_device="rpi4"
    )


def entry_of(options: onnxruntime.SessionOptions, key: str) -> str | None:
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:
        return None


def test_defaults_are_those_of_onnxruntime() -> None:
    ours, theirs = SessionOptions().to_onnxruntime(), onnxruntime.SessionOptions()
    for name in ("graph_optimization_level", "execution_mode", "enable_cpu_mem_arena"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.intra_op_num_threads == theirs.intra_op_num_threads == 0
    assert ours.log_severity_level == 3


def test_every_option_reaches_onnxruntime() -> None:
    options = UNUSUAL.to_onnxruntime()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert not options.enable_cpu_mem_arena
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    assert options.graph_optimization_level == level
    assert entry_of(options, "session.intra_op.allow_spinning") == "0"
    assert entry_of(options, "session.disable_prepacking") == "1"
    assert entry_of(options, "session.x64quantprecision") == "1"
    defaults = SessionOptions().to_onnxruntime()
    assert entry_of(defaults, "session.intra_op.allow_spinning") == "1"
    assert entry_of(defaults, "session.x64quantprecision") is None


@pytest.mark.parametrize("member", GRAPH_LEVELS.values())
def test_graph_levels_are_members_of_onnxruntimes_enumeration(member: str) -> None:
    assert hasattr(onnxruntime.GraphOptimizationLevel, member)


@pytest.mark.parametrize("session", [SessionOptions(), UNUSUAL, SessionOptions(threads=2)])
def test_session_file_round_trips(session: SessionOptions, tmp_path: Path) -> None:
    artefacts = {"onnx/model_int8.onnx": advice(session)}
    write_session_file(tmp_path / "session.json", artefacts)
    assert read_session_file(tmp_path / "session.json") == artefacts


def test_session_file_uses_onnxruntimes_names() -> None:
    entry = session_file({"x": advice()})["artefacts"]["x"]
    assert entry["options"] == {
        "graph_optimization_level": "ORT_ENABLE_EXTENDED",
        "execution_mode": "ORT_SEQUENTIAL",
        "inter_op_num_threads": 1,
        "intra_op_num_threads": 3,
        "enable_cpu_mem_arena": False,
    }
    assert entry["config_entries"] == {
        "session.intra_op.allow_spinning": "0",
        "session.disable_prepacking": "1",
        "session.x64quantprecision": "1",
    }
    assert "opset" not in entry


def test_an_option_that_is_absent_has_its_default(tmp_path: Path) -> None:
    """Exports before enable_cpu_mem_arena was written are still readable."""
    data = session_file({"x": advice(SessionOptions())})
    del data["artefacts"]["x"]["options"]["enable_cpu_mem_arena"]
    (tmp_path / "session.json").write_text(json.dumps(data))
    assert read_session_file(tmp_path / "session.json")["x"].session == SessionOptions()


def _with_option(name: str, value: Any) -> dict[str, Any]:
    data = session_file({"x": advice()})
    data["artefacts"]["x"]["options"][name] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"format": 2, "artefacts": {}}, "format 2, expected 1"),
        ({"device": "host", "sessions": {}}, "'format' is missing"),
        ([], "not a valid session.json"),
        ({"format": 1, "artefacts": {"x": {"options": {}}}}, "'config_entries' is missing"),
        (_with_option("graph_level", "all"), "unknown option graph_level; expected one of: graph_"),
        (_with_option("intra_op_num_threads", -1), "threads: got -1; expected 0 or more"),
    ],
)
def test_a_malformed_session_file_is_refused(data: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "session.json").write_text(json.dumps(data))
    with pytest.raises(StorageError, match=message):
        read_session_file(tmp_path / "session.json")


def test_options_are_described_in_one_line() -> None:
    assert UNUSUAL.describe() == (
        "3 threads, arena off, spinning off, pre-packing off, graph level extended, exact int8 sums"
    )
    assert SessionOptions(threads=1).describe().startswith("1 thread, arena on")


def test_importing_the_module_does_not_load_onnxruntime() -> None:
    script = "import edgedistil.core.session, sys; print('onnxruntime' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"

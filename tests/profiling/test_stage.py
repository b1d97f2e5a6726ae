"""The door: every way to a device for real (this host), flags that exclude each other, nothing mixed."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.errors import DeviceFileError, InputError, ModelError, RunError
from edgedistil.core.records import (
    Band,
    LatencyStats,
    MemoryStats,
    NotMeasured,
    ProfileRecord,
    read_record,
    write_record,
)
from edgedistil.core.rundir import RunDir, create_run, write_text
from edgedistil.profiling import calibrate, stage, tune
from edgedistil.profiling import measured as measure
from edgedistil.runtime.host import dispatched_kernels


def profile(**flags: object) -> tuple[RunDir | None, list[ProfileRecord]]:
    standard: dict[str, object] = {"lengths": [5, 17], "threads": [1], "sentence_pairs": 30}
    return stage.profile("latest", **{**standard, **flags})  # type: ignore[arg-type]


def test_this_host_is_measured(exported: RunDir) -> None:
    run, (record,) = profile()
    assert run is not None and run.name == "small"
    assert read_record(run.profile("host", "measured"), ProfileRecord) == record
    assert {(row.device, row.method, row.length) for row in record.rows} == {
        ("host", "measured", length) for length in (5, 17, "sentence-pairs")
    }
    assert len(record.rows) == 4 * 3
    for row in record.rows:
        assert isinstance(row.latency, LatencyStats) and row.latency.calls >= 20 and row.valid
        assert row.latency_ms == row.latency.p50_ms
        assert isinstance(row.memory, MemoryStats) and row.peak_memory_bytes
        assert (
            "kernels" in row.conditions
            and "governor" in row.conditions
            and "energy" in row.conditions
        )
        assert isinstance(row.first_call_ms, float) == (row.length == 5)
    claims = {claim.claim: claim for claim in record.claims}
    assert set(claims) == {"speed", "deploy", "int8-pays", "size"}
    assert claims["size"].value == pytest.approx(
        1 - record.rows[-1].parameters / record.rows[0].parameters
    )
    speed = claims["speed"]
    assert (
        isinstance(speed.value, float)
        and isinstance(speed.low, float)
        and isinstance(speed.high, float)
    )
    assert speed.low <= speed.value <= speed.high
    label = "teacher-feature-extraction.fp32"
    assert sum(each.share for each in record.op_times[label]) == pytest.approx(1)
    assert [each.name for each in record.layer_times[label]] == [
        "embeddings",
        *(f"layer {i}" for i in range(4)),
    ]


def test_a_board_without_a_board_is_predicted_and_says_so_in_every_row(exported: RunDir) -> None:
    run, (record,) = profile(device="rpi4", threads=None)
    assert run is not None and run.profile("rpi4", "predicted").is_file()
    assert {row.threads for row in record.rows} == {1, 4}
    for row in record.rows:
        assert (row.device, row.method) == ("rpi4", "predicted")
        assert isinstance(row.latency_ms, Band) and isinstance(row.peak_memory_bytes, Band)
        for absent in (row.latency, row.load_ms, row.first_call_ms, row.start_to_first_result_ms):
            assert isinstance(absent, NotMeasured), "no host millisecond under a board's name"
        assert set(row.conditions) >= {"runtime", "clock", "threads", "calibration"}
        assert "uncalibrated" in row.conditions["calibration"]
    assert all(claim.method == "predicted" and claim.device == "rpi4" for claim in record.claims)
    assert not run.profile("host", "measured").exists()


def test_what_was_measured_there_is_shown_beside_the_prediction_until_it_is_stale(
    exported: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    _, (host,) = profile(model=model, lengths=[5], sentence_pairs=3)
    board = host.model_copy(
        update={
            "device": "rpi4",
            "rows": [row.model_copy(update={"device": "rpi4"}) for row in host.rows],
        }
    )
    path = exported.profile("rpi4", "measured")
    write_text(path, board.model_dump_json())
    _, found = profile(device="rpi4")
    assert [record.method for record in found] == ["predicted", "measured"]
    stale = [row.model_copy(update={"artefact_sha256": "cd"}) for row in board.rows]
    write_text(path, board.model_copy(update={"rows": stale}).model_dump_json())
    _, found = profile(device="rpi4")
    assert [record.method for record in found] == ["predicted"]
    assert "exported again since" in capsys.readouterr().err


def test_one_file_without_a_run(exported: RunDir, tmp_path: Path) -> None:
    model = exported.export("student", "feature-extraction") / "onnx" / "model_int8.onnx"
    run, (record,) = profile(model=model)
    assert run is None
    assert {(row.model, row.role, row.precision) for row in record.rows} == {
        ("model_int8", "other", "int8")
    }
    assert record.claims == [] and "built-in sample text" in record.notes[0]
    (tmp_path / "alone.onnx").write_bytes(model.read_bytes())
    with pytest.raises(ModelError, match=r"no tokenizer\.json beside"):
        profile(model=tmp_path / "alone.onnx")
    with pytest.raises(ModelError, match="no model file"):
        profile(model=tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="is no ONNX model"):
        profile(model=exported.heldout_text)


def test_the_users_text_is_used(exported: RunDir, tmp_path: Path) -> None:
    text = tmp_path / "mine; $(id).txt"
    text.write_text("the boat left the harbour before sunrise\n", encoding="utf-8")
    _, (record,) = profile(text=text, device="rpi5")
    assert f"workload: {text}" in record.notes


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"emulate": True, "ssh": "pi@board", "device": "rpi4"}, "exclude each other"),
        ({"emulate": True}, "--emulate needs a board"),
        ({"bootstrap": True}, "--bootstrap goes with --ssh"),
        ({"tune": True, "device": "rpi4"}, "--tune needs a real run"),
        ({"calibrate": True, "emulate": True, "device": "rpi4"}, "--calibrate needs a real run"),
        ({"memory_limit": "512M", "device": "rpi4"}, "--memory-limit runs something"),
        ({"memory_limit": "512M", "ssh": "pi@board"}, "a board has its own memory"),
        ({"memory_limit": "lots"}, "expected a size such as 512M"),
        ({"lengths": [900]}, "positions for 67"),
    ],
)
def test_flags_that_make_no_sense(exported: RunDir, flags: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        profile(**flags)


def test_an_unknown_device_and_a_run_without_exports(exported: RunDir) -> None:
    with pytest.raises(DeviceFileError, match=r"did you mean 'rpi4'\?"):
        profile(device="rpi44")
    create_run("empty")
    with pytest.raises(RunError, match="create it with: edgedistil export"):
        stage.profile("empty")


def test_an_export_that_was_changed_is_refused(exported: RunDir) -> None:
    path = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RunError, match="was changed since it was exported"):
        profile()
    path.unlink()
    with pytest.raises(RunError, match="is gone"):
        profile()


def test_tuning_writes_a_session_with_its_reasons(
    exported: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "_BLOCKS", 5)
    monkeypatch.chdir(tmp_path)
    session, record = tuned(exported, "model.onnx", "model-other.fp32")
    assert session["intra_op_num_threads"] in (1, 2)
    assert set(session["config"]) == {
        "session.intra_op.allow_spinning",
        "session.disable_prepacking",
    }
    assert {"arena off", "pre-packing off", "graph level basic", "2 threads"} <= set(
        session["reasons"]
    )
    assert "exact 8-bit products" not in session["reasons"]
    assert any("session options" in note for note in record.notes)


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="session.x64quantprecision is about x86-64"
)
def test_exact_products_are_tried_and_set_for_integers_on_x86(
    exported: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "_BLOCKS", 5)
    monkeypatch.chdir(tmp_path)
    session, _ = tuned(exported, "model_int8.onnx", "model_int8-other.int8")
    assert session["config"]["session.x64quantprecision"] == "1"
    assert "times as fast as the defaults" in session["reasons"]["exact 8-bit products"]
    assert "exact 8-bit products" in session["in_words"]


def tuned(run: RunDir, file: str, label: str) -> tuple[dict[str, Any], ProfileRecord]:
    model = run.export("student", "feature-extraction") / "onnx" / file
    _, (record,) = profile(model=model, tune=True, threads=[2], lengths=[5], sentence_pairs=6)
    written = json.loads(Path("session.json").read_text(encoding="utf-8"))
    return written["sessions"][label], record


def middle(band: Band) -> float:
    return math.sqrt(band.low * band.high)


def test_calibration_narrows_later_predictions(exported: RunDir) -> None:
    from edgedistil.profiling.artefacts import run_artefacts

    spec = load_device("rpi4")
    _, (before,) = profile(device="rpi4", lengths=[5, 11, 17])
    # A board that is 1.3 times slower than the middle of its band, exactly.
    rows = [
        row.model_copy(
            update={
                "method": "measured",
                "latency_ms": 1.3 * (row.latency_ms.low * row.latency_ms.high) ** 0.5,
            }
        )
        for row in before.rows
        if isinstance(row.latency_ms, Band)
    ]
    measured = before.model_copy(update={"rows": rows, "method": "measured"})
    calibrate.calibrate(spec, run_artefacts(exported), measured, source="pi@board")
    _, (after,) = profile(device="rpi4", lengths=[5, 11, 17])
    for row, real in zip(after.rows, rows, strict=True):
        assert isinstance(row.latency_ms, Band) and isinstance(real.latency_ms, float)
        assert row.latency_ms.low <= real.latency_ms <= row.latency_ms.high
        assert row.latency_ms.high / row.latency_ms.low < 1.4
        assert "calibrated on pi@board" in row.conditions["calibration"]


def test_runs_that_contradict_each_other_calibrate_nothing(exported: RunDir) -> None:
    from edgedistil.profiling.artefacts import run_artefacts

    _, (before,) = profile(device="rpi4")
    rows = [
        row.model_copy(update={"latency_ms": 1.0 if i % 2 else 900.0})
        for i, row in enumerate(before.rows)
    ]
    with pytest.raises(InputError, match="contradict each other"):
        calibrate.calibrate(
            load_device("rpi4"),
            run_artefacts(exported),
            before.model_copy(update={"rows": rows}),
            source="x",
        )
    with pytest.raises(InputError, match="needs 4 valid measured rows"):
        calibrate.calibrate(
            load_device("rpi4"),
            run_artefacts(exported),
            before.model_copy(update={"rows": []}),
            source="x",
        )


def test_a_calibration_of_another_model_is_refused(exported: RunDir) -> None:
    spec = load_device("rpi4")
    origin = {
        "device": "rpi4",
        "spread": 1.2,
        "origin": "pi@board",
        "runs": 9,
        "largest_error": 0.1,
    }
    old = calibrate.Calibration(constants={"fp32_efficiency": 0.5}, **origin)  # type: ignore[arg-type]
    write_record(calibrate.calibration_path("rpi4"), old)
    with pytest.raises(InputError, match=r"rpi4\.json was calibrated with another version"):
        calibrate.load(spec)
    assert calibrate.load(load_device("rpi5")) is None


def test_a_requirement_is_read_before_anything_is_measured(exported: RunDir) -> None:
    from typer.testing import CliRunner

    from edgedistil.cli import app

    told = CliRunner().invoke(app, ["profile", "--require", "speedup=>1"])
    assert (
        isinstance(told.exception, InputError) and "expected NAME>=FIGURE" in told.exception.message
    )
    assert not exported.profile("host", "measured").exists()


def test_many_cases_share_the_time_that_one_model_has_for_itself() -> None:
    effort = measure.DEFAULT_EFFORT
    assert effort.share(1) == effort.longest_share
    assert 60 * effort.share(60) == pytest.approx(effort.steady_seconds)
    assert effort.desired_calls >= 100, "p99"


@pytest.mark.parametrize(
    ("machine", "flags", "told"),
    [
        ("x86_64", ["avx2", "avx512f", "avx512_vnni", "amx_int8"], "int8 AMX"),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], "int8 AVX-512 VNNI"),
        ("x86_64", ["avx2", "avx512f"], "without VNNI (saturates"),
        ("x86_64", ["avx2", "avx_vnni"], "AVX-VNNI"),
        ("aarch64", ["asimd"], "int8 NEON"),
        ("aarch64", ["asimd", "asimddp"], "dot product"),
        ("x86_64", [], "not reported"),
    ],
)
def test_which_kernels_are_told_from_the_flags(machine: str, flags: list[str], told: str) -> None:
    assert told in dispatched_kernels(machine, flags)


def test_the_device_side_leaves_torch_out() -> None:
    code = (
        "import sys, edgedistil.profiling.stage, edgedistil.profiling.devices, edgedistil.profiling.predicted\n"
        "import edgedistil.runtime.ssh.target, edgedistil.profiling.emulated\n"
        "heavy = {'torch', 'transformers', 'optimum', 'datasets', 'accelerate', 'scipy', 'sklearn'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(subprocess.CalledProcessError):  # the check can fail
        subprocess.run(
            [sys.executable, "-c", "import scipy\n" + code], check=True, capture_output=True
        )


def test_help_imports_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, contextlib\nsys.argv = ['edgedistil', 'profile', '--help']\nfrom edgedistil.cli import app\n"
        "with contextlib.suppress(SystemExit):\n    app()\n"
        "assert not {'torch', 'onnxruntime', 'onnx', 'transformers', 'optimum'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_two_runs_have_their_own_records(
    make_run: Callable[[str], RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_run("one"), make_run("two")
    stage.profile("one", device="rpi3", lengths=[5], sentence_pairs=3)
    assert (
        one.profile("rpi3", "predicted").is_file() and not two.profile("rpi3", "predicted").exists()
    )

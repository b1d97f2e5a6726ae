"""`profile`: which method it chooses, options that exclude each other, and what it imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.errors import DeviceFileError, InputError, ModelError, RunError
from edgedistil.core.options import ProfileOptions
from edgedistil.core.rundir import RunDir, create_run, write_text
from edgedistil.profiling import stage
from edgedistil.profiling.artefacts import run_artefacts
from tests.profiling.conftest import letter_tokenizer, profile_latest


def test_an_earlier_measurement_is_returned_until_the_artefacts_change(
    exported: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    _, (host,) = profile_latest(model=model, lengths=[5], sentence_pairs=3)
    rows = [row.model_copy(update={"device": "rpi4"}) for row in host.rows]
    board = host.model_copy(update={"device": "rpi4", "rows": rows})
    path = exported.profile("rpi4", "measured")
    write_text(path, board.model_dump_json())
    _, records = profile_latest(device="rpi4")
    assert [record.method for record in records] == ["predicted", "measured"]

    stale = [row.model_copy(update={"artefact_sha256": "cd"}) for row in board.rows]
    write_text(path, board.model_copy(update={"rows": stale}).model_dump_json())
    _, records = profile_latest(device="rpi4")
    assert [record.method for record in records] == ["predicted"]
    assert "its artefacts were exported again since" in capsys.readouterr().err


def test_a_single_file_needs_no_run(exported: RunDir) -> None:
    model = exported.export("student", "feature-extraction") / "onnx" / "model_int8.onnx"
    run, (record,) = profile_latest(model=model)
    assert run is None
    assert {(row.model, row.role, row.precision) for row in record.rows} == {
        ("model_int8", "other", "int8")
    }
    assert record.claims == [] and "built-in sample text" in record.notes[0]
    assert not exported.profiles.exists(), "records of a single file are not written"


def test_the_users_text_is_used(exported: RunDir, tmp_path: Path) -> None:
    text = tmp_path / "mine; $(id).txt"
    text.write_text("the boat left the harbour before sunrise\n", encoding="utf-8")
    _, (record,) = profile_latest(text=text, device="rpi5")
    assert f"workload: {text}" in record.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emulate": True, "ssh": "pi@board", "device": "rpi4"}, "--ssh exclude each other"),
        ({"emulate": True}, "--emulate needs a board"),
        ({"bootstrap": True}, "--bootstrap needs --ssh"),
        ({"tune": True, "device": "rpi4"}, "--tune has to measure"),
        ({"tune": True, "emulate": True, "device": "rpi4"}, "--tune has to measure"),
        ({"calibrate": True, "device": "rpi4"}, "--calibrate has to measure"),
        ({"calibrate": True, "emulate": True, "device": "rpi4"}, "--calibrate has to measure"),
        ({"memory_limit": "512M", "device": "rpi4"}, "--memory-limit has to run the artefacts"),
        ({"memory_limit": "512M", "ssh": "pi@board"}, "a board has its own memory"),
        ({"memory_limit": "lots"}, "expected a size such as 512M"),
        ({"lengths": [900]}, "positions for 67"),
    ],
)
def test_options_that_make_no_sense_are_errors(
    exported: RunDir, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        profile_latest(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"device": "rpi4"},
        {"device": "rpi4", "emulate": True, "memory_limit": "512M"},
        {"memory_limit": "512M"},
        {"tune": True, "calibrate": True},
        {"ssh": "pi@board", "bootstrap": True, "tune": True, "calibrate": True},
        {"ssh": "pi@board", "device": "rpi4"},
    ],
)
def test_options_that_go_together(options: dict[str, Any]) -> None:
    stage.check_options(ProfileOptions(**options))


def test_an_unknown_device_gets_a_suggestion(exported: RunDir) -> None:
    with pytest.raises(DeviceFileError, match=r"did you mean 'rpi4'\?"):
        profile_latest(device="rpi44")


def test_a_missing_model_or_export_is_an_error(exported: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file"):
        profile_latest(model=tmp_path / "absent.onnx")
    create_run("empty")
    with pytest.raises(RunError, match="create it with: edgedistil export"):
        stage.profile("empty", ProfileOptions())


def test_every_run_has_its_own_records(make_run: Callable[[str], RunDir]) -> None:
    one, two = make_run("one"), make_run("two")
    stage.profile("one", ProfileOptions(device="rpi3", lengths=[5], sentence_pairs=3))
    assert one.profile("rpi3", "predicted").is_file()
    assert not two.profile("rpi3", "predicted").exists()


# --- interrupted ---------------------------------------------------------------------------------


# A process in the background of a shell ignores SIGINT.
MAIN = (
    "import signal, edgedistil.cli\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "edgedistil.cli.main()\n"
)


@pytest.mark.parametrize(
    ("options", "number"),
    [([], signal.SIGTERM), (["--runtime", "openvino"], signal.SIGINT)],
    ids=["host", "openvino"],
)
def test_an_interrupted_profile_says_that_nothing_was_stored(
    exported: RunDir, options: list[str], number: signal.Signals
) -> None:
    command = [sys.executable, "-c", MAIN, "profile", "--run", exported.name, *options]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0
    )
    assert process.stderr is not None
    # The artefacts were found: loading, preparing or measuring has begun.
    assert process.stderr.readline().startswith(f"run {exported.name}")
    # As a terminal does: the jobs of the profile get the signal, too.
    os.killpg(process.pid, number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert "so nothing was stored" in error and "the same command measures again" in error
    assert "Traceback" not in error
    assert not exported.profiles.exists()


# --- imports -------------------------------------------------------------------------------------


def test_profiling_never_imports_torch() -> None:
    code = (
        "import sys\n"
        "import edgedistil.profiling.stage, edgedistil.profiling.devices\n"
        "import edgedistil.profiling.emulated, edgedistil.runtime.ssh.target\n"
        "heavy = {'torch', 'transformers', 'optimum', 'datasets', 'accelerate', 'scipy', "
        "'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    # The check can fail.
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [sys.executable, "-c", "import scipy\n" + code], check=True, capture_output=True
        )


def test_help_imports_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, contextlib\n"
        "sys.argv = ['edgedistil', 'profile', '--help']\n"
        "from edgedistil.cli import app\n"
        "with contextlib.suppress(SystemExit):\n"
        "    app()\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'transformers', 'optimum'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_each_model_gets_the_texts_in_its_own_tokens(exported: RunDir, tmp_path: Path) -> None:
    artefacts = run_artefacts(exported)
    letters = letter_tokenizer(artefacts[0].tokenizer, tmp_path)
    mixed = [replace(a, tokenizer=letters) if a.role == "student" else a for a in artefacts]
    workloads = stage._make_workloads(None, mixed, ProfileOptions(sentence_pairs=7))
    assert workloads.differ
    teacher, student = workloads.of(mixed[0]), workloads.of(mixed[-1])
    assert teacher.inputs.keys() == student.inputs.keys()
    assert teacher.lengths == student.lengths and teacher.pairs == student.pairs
    words, characters = (w.pair_lengths() for w in (teacher, student))
    # A word is a token of the first, and as many of the second as it has letters; both end at the
    # positions of the models.
    assert all(count < more <= 67 for count, more in zip(words, characters, strict=True))
    # Folders with the same tokenizer share their inputs.
    same = stage._make_workloads(None, artefacts, ProfileOptions(sentence_pairs=7))
    assert not same.differ and len(same.by_tokenizer) == 2


def test_ids_that_a_graph_lacks_are_an_error(
    exported: RunDir, tokenizer_folders: dict[str, Path]
) -> None:
    artefacts = run_artefacts(exported)
    larger = [replace(artefacts[0], tokenizer=tokenizer_folders["bert"])]
    with pytest.raises(ModelError, match="has a vocabulary of 53 tokens"):
        stage._make_workloads(None, larger, ProfileOptions())

"""The command line: frozen, light, and with messages and exit codes of its own."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A new flag is a decision: change this list together with docs/decisions.md.
COMMANDS = {
    "run": {"--set", "--run"},
    "distill": {"--set", "--run", "--plan", "--resume"},
    "evaluate": {
        "--task",
        "--seeds",
        "--model",
        "--cell",
        "--artefact",
        "--data",
        "--jobs",
        "--run",
    },
    "export": {
        *(
            "--quantize",
            "--target",
            "--model",
            "--task",
            "--max-drop",
            "--explain",
            "--text",
            "--format",
        ),
        *("--single-file", "--push", "--run"),
    },
    "profile": {
        *(
            "--device",
            "--ssh",
            "--emulate",
            "--model",
            "--threads",
            "--length",
            "--text",
            "--require",
        ),
        *("--memory-limit", "--tune", "--bootstrap", "--calibrate", "--run"),
    },
    "ablate": {"--task", "--seeds", "--data", "--jobs"},
    "report": {"--run", "--against"},
    "devices": {"--ssh"},
    "doctor": set(),
}


def edgedistil(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed command, as a user calls it."""
    program = Path(sys.executable).with_name("edgedistil")
    return subprocess.run(
        [str(program), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_commands_and_flags_are_frozen() -> None:
    from typer.main import get_command

    from edgedistil.cli import app

    group = get_command(app)
    found = {
        name: {
            option
            for p in command.params
            for option in p.opts
            if option.startswith("--") and option != "--help"
        }
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    assert found == COMMANDS


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.argv = ['edgedistil', '--help']\nfrom edgedistil.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = ['torch', 'onnxruntime', 'transformers', 'numpy', 'pydantic', 'matplotlib', 'onnx']\n"
        "print(code, [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    code, loaded = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert (code, ast.literal_eval(loaded)) == ("0", [])


@pytest.mark.parametrize(
    "command", ["profile", "export", "distill", "evaluate", "report", "devices"]
)
def test_help_of_a_command_imports_no_torch(command: str, tmp_path: Path) -> None:
    script = (
        f"import sys\nsys.argv = ['edgedistil', {command!r}, '--help']\nfrom edgedistil.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'transformers', 'optimum', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "No such command 'distil'"),
        (["distill"], "RECIPE"),
        (["distill", "nowhere.toml"], "error: no recipe 'nowhere.toml'"),
        (["distill", "tiny", "--set", "loss.mlm"], "expected key=value"),
        (["distill", "tiny", "--set", "loss.temprature=2.0"], "did you mean 'temperature'?"),
        (["distill", "tiny", "--run", "../x"], "cannot name a run"),
        (["distill", "tiny", "--bogus"], "No such option"),
        (["export"], "there is no finished run"),
        (["profile"], "there is no finished run"),
        (["evaluate"], "there is no finished run"),
        (["report"], "there is no finished run"),
        (["report", "--run", "nope"], "no run 'nope'"),
        (["devices", "rpi44"], "did you mean 'rpi4'?"),
        (["profile", "--device", "rpi44"], "did you mean 'rpi4'?"),
        (["export", "--quantize", "int7"], "int7"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = edgedistil(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "bad input leaves nothing behind"


def test_broken_toml_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("name = \n")
    done = edgedistil("distill", "x.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "x.toml is no TOML" in done.stderr
    assert "line 1, column 8" in done.stderr


def test_version(tmp_path: Path) -> None:
    import edgedistil as package

    assert edgedistil("--version", cwd=tmp_path).stdout == f"edgedistil {package.__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130(number: int, tmp_path: Path) -> None:
    script = (
        "import signal, time\nfrom edgedistil import cli, doctor\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job is born deaf to it
        "def wait():\n    print('working', flush=True)\n    time.sleep(60)\n"
        "doctor.examine = wait\nimport sys\nsys.argv = ['edgedistil', 'doctor']\ncli.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == "interrupted"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("edgedistil")
    done = subprocess.run(
        f"{program} devices | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_doctor_looks_at_everything(tmp_path: Path) -> None:
    done = edgedistil("doctor", cwd=tmp_path, EDGEDISTIL_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout
    for part in ("torch", "onnxruntime", "cache", "assets", "not cached"):
        assert part in done.stdout


def test_profile_alone_writes_the_model_cards_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from edgedistil.cli import app
    from edgedistil.core.rundir import RunDir
    from edgedistil.export import package
    from edgedistil.profiling import stage
    from edgedistil.report import profile_tables

    run, written = RunDir(tmp_path), []
    monkeypatch.setattr(
        stage, "profile", lambda *_args, model, **_options: (None if model else run, [])
    )
    monkeypatch.setattr(profile_tables, "show_profiles", lambda *_args: None)
    monkeypatch.setattr(package, "refresh_cards", written.append)
    assert CliRunner().invoke(app, ["profile"]).exit_code == 0
    assert written == [run]
    assert CliRunner().invoke(app, ["profile", "--model", "some.onnx"]).exit_code == 0
    assert written == [run], "one file belongs to no run and has no card"

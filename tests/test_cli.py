"""The command line: frozen, light, and with messages and exit codes of its own."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# A new flag is a decision: change this list together with docs/decisions.md.
COMMANDS = {
    "run": {"--set", "--run"},
    "search": {
        "--device",
        "--under",
        "--memory",
        "--length",
        "--threads",
        "--keep",
        "--measure",
        "--train",
        "--tokens",
        "--ssh",
        "--bootstrap",
        "--set",
        "--run",
    },
    "answers": {"--out", "--texts-only", "--set"},
    "distill": {"--set", "--run", "--plan", "--resume"},
    "evaluate": {
        "--task",
        "--seeds",
        "--data",
        "--jobs",
        "--model",
        "--cell",
        "--artefact",
        "--seed-run",
        "--untrimmed-run",
        "--run",
    },
    "ablate": {"--task", "--seeds", "--data", "--jobs"},
    "export": {
        "--quantize",
        "--target",
        "--model",
        "--task",
        "--pooling",
        "--normalize",
        "--dimension",
        "--max-drop",
        "--explain",
        "--text",
        "--format",
        "--single-file",
        "--push",
        "--run",
    },
    "trim": {"--text", "--size", "--coverage", "--out", "--device"},
    "inspect": {"--json"},
    "embed": {"--out", "--model", "--precision", "--side", "--threads", "--max-length", "--run"},
    "bundle": {"--for", "--precision", "--target", "--model", "--out", "--run"},
    "profile": {
        "--device",
        "--browser",
        "--cpp",
        "--runtime",
        "--batch",
        "--ssh",
        "--emulate",
        "--model",
        "--threads",
        "--length",
        "--text",
        "--memory-limit",
        "--sustained",
        "--tune",
        "--bootstrap",
        "--calibrate",
        "--require",
        "--allow-predicted",
        "--run",
    },
    "report": {"--run", "--against"},
    "doctor": set(),
    "devices list": set(),
    "devices show": set(),
    "devices probe": {"--ssh"},
    "recipe list": set(),
    "recipe explain": {"--of"},
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
        errors="replace",
        check=False,
        timeout=120,
    )


def all_commands() -> dict[str, Any]:
    """Name → command of typer, with "group command" for the commands of a group."""
    from typer.main import get_command

    from edgedistil.cli import app

    commands = {}
    for name, command in get_command(app).commands.items():
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            commands[name] = command
        else:
            commands |= {f"{name} {sub}": child for sub, child in subcommands.items()}
    return commands


def flags(command: Any) -> set[str]:
    names = {name for parameter in command.params for name in parameter.opts}
    return {name for name in names if name.startswith("--")} - {"--help"}


def test_commands_and_flags_are_frozen() -> None:
    assert {name: flags(command) for name, command in all_commands().items()} == COMMANDS


def test_every_option_says_what_happens_without_it() -> None:
    """A switch is off by default; any other option names its default, or typer shows it."""
    silent = []
    for name, command in all_commands().items():
        for option in command.params:
            text = option.help or ""
            switch = getattr(option, "is_flag", False)
            explained = switch or option.required or "Default:" in text
            shown = option.show_default and option.default is not None
            if option.name != "help" and not (explained or shown or "without it" in text):
                silent.append(f"{name} {option.name}")
    assert silent == []


@pytest.mark.parametrize(
    ("flag", "choices"),
    [
        (
            "export --quantize",
            ["fp32", "fp16", "int8", "uint8", "int8-dynamic", "int8-static", "int4", "auto"],
        ),
        ("export --format", ["onnx", "ort"]),
        (
            "evaluate --artefact",
            ["fp32", "fp16", "int8", "uint8", "int8-dynamic", "int8-static", "int4"],
        ),
        ("recipe explain --of", ["recipe", "task", "device"]),
    ],
)
def test_choices_are_typed(flag: str, choices: list[str], tmp_path: Path) -> None:
    """The parser knows the values: they are in the error message and in completion."""
    done = edgedistil(*flag.split(), "bogus", cwd=tmp_path)
    assert done.returncode == 2
    assert ", ".join(f"'{choice}'" for choice in choices) in done.stderr
    assert complete(f"edgedistil {flag} ", cwd=tmp_path) == choices


def test_shell_completion_is_offered(tmp_path: Path) -> None:
    assert set(complete("edgedistil devices ", cwd=tmp_path)) >= {"list", "show", "probe"}
    assert "--show-completion" in edgedistil("--help", cwd=tmp_path).stdout


def complete(line: str, cwd: Path) -> list[str]:
    """Completions of a line, as bash asks for them."""
    words = str(len(line.split()))
    environment = {"_EDGEDISTIL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": words}
    return edgedistil(cwd=cwd, **environment).stdout.split()


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.argv = ['edgedistil', '--help']\nfrom edgedistil.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = ['torch', 'onnxruntime', 'transformers', 'numpy', 'pydantic', 'matplotlib', "
        "'onnx']\n"
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
        f"import sys\nsys.argv = ['edgedistil', {command!r}, '--help']\nfrom edgedistil.cli import "
        f"main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'transformers', 'optimum', 'onnxruntime') if m in "
        "sys.modules])"
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
        (["distill", "nowhere.toml"], "error: unknown recipe 'nowhere.toml'"),
        (["distill", "tiny", "--set", "loss.mlm"], "expected key=value"),
        (["distill", "tiny", "--set", "loss.temprature=2.0"], "did you mean 'temperature'?"),
        (["distill", "tiny", "--run", "../x"], "is not a valid name of a run"),
        (["distill", "tiny", "--bogus"], "No such option"),
        (["export"], "has no finished run yet"),
        (["profile"], "has no finished run yet"),
        (["evaluate"], "has no finished run yet"),
        (["report"], "has no finished run yet"),
        (["report", "--run", "nope"], "unknown run 'nope'"),
        (["devices", "show", "rpi44"], "did you mean 'rpi4'?"),
        (["profile", "--device", "rpi44"], "did you mean 'rpi4'?"),
        (["profile", "--cpp", "nowhere"], "nowhere is not a bundle in C++"),
        (["profile", "--runtime", "tvm"], "Invalid value for '--runtime': 'tvm' is not"),
        (["export", "--quantize", "int7"], "Invalid value for '--quantize': 'int7' is not one of"),
        (["recipe", "explain", "--of", "x"], "Invalid value for '--of': 'x' is not one of"),
        (["distill", "tiny", "--run", ""], "argument 4 (after --run) is empty"),
        (["export", "--target="], "argument 2 (after export) is empty"),
        (["export", "--max-drop", "nan"], "--max-drop is nan: expected 0 to 1"),
        (["export", "--max-drop", "-1"], "--max-drop is -1.0: expected 0 to 1"),
        (["evaluate", "--seeds", "1000000000000"], "--seeds is 1000000000000: expected 1 to 1000"),
        (["profile", "--length", "9" * 5000], "--length"),
        (["export", "--model", "m", "--push", "nonsense"], "cannot push to 'nonsense'"),
        (["export", "--model", "m", "--push", "file://[x"], "cannot push to 'file://[x'"),
        (["export", "--model", "~no-such-user-here/x"], "no such folder"),
        (["export", "--text", "x" * 300], "File name too long"),
        (["distill", "x" * 300], "unknown recipe 'xxx"),
        (["devices", "show", "x" * 300], "unknown device 'xxx"),
        (["run", "tiny", "--set", "evaluate.tasks=['nope']"], "unknown task 'nope'"),
        (["run", "tiny", "--set", "profile.devices=['nope']"], "unknown device 'nope'"),
        (
            ["run", "tiny", "--set", "profile.devices=['rpi4']", "--set", "profile.threads=[17]"],
            "profile.threads is 17: rpi4 has 4 cores; expected at most 16",
        ),
        (["run", "tiny", "--run", "../x"], "is not a valid name of a run"),
        (["distill", "tiny", "--run", "\udcff"], "argument 4 is not UTF-8: ?"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_a_message_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = edgedistil(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) < 1100
    assert list(tmp_path.iterdir()) == [], "bad input leaves nothing behind"


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[31m"],
        ["--\x1b[31m"],
        ["report", "--run", "a\x1b[31mb"],
        ["report", "\x1b[31m"],
        ["export", "--quantize", "\x1b[31m"],
        ["profile", "--threads", "\x1b[31m"],
        ["distill", "\x1b[31m.toml"],
        ["distill", "tiny", "--set", "\x1b[31m=1"],
        ["recipe", "explain", "\x1b[31m"],
    ],
)
def test_messages_have_no_control_characters(arguments: list[str], tmp_path: Path) -> None:
    done = edgedistil(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "arguments", [["x" * 5000], ["--" + "x" * 5000], ["report", "--run", "x" * 5000]]
)
def test_messages_repeat_no_long_argument(arguments: list[str], tmp_path: Path) -> None:
    done = edgedistil(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "x" * 250 not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda environment: "-".join(environment.values()),
)
@pytest.mark.parametrize(
    "arguments", [["--help"], ["devices", "list"], ["devices", "show", "rpi4"]]
)
def test_an_output_that_is_not_utf8(
    arguments: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    done = edgedistil(*arguments, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


FAILURES = {
    "MemoryError()": (1, "error: out of memory: MemoryError"),
    "RuntimeError('could not create a primitive')": (1, "error: out of memory: could not create"),
    "OSError(28, 'No space left on device', '/tmp/x')": (
        1,
        "error: No space left on device: /tmp/x",
    ),
    "ImportError('/x/libtorch.so: failed to map segment from shared object')": (
        1,
        "error: out of memory: /x/libtorch.so",
    ),
    "ImportError('/x/y.so: cannot open shared object file')": (
        1,
        "error: cannot load a library: /x/y.so",
    ),
    "SyntaxError('expected', ('/x/library.py', 1, 1, 'x'))": (1, "error: cannot load a library"),
    "SyntaxError('expected', (cli.__file__, 1, 1, 'x'))": (1, "SyntaxError: expected"),
    "ImportError('cannot import name x')": (1, "ImportError: cannot import name x"),
    "EOFError('cut file')": (1, "EOFError: cut file"),
    "ZeroDivisionError('a fault of ours')": (1, "ZeroDivisionError: a fault of ours"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_machines_failures_are_one_message_and_ours_are_tracebacks(
    failure: str, tmp_path: Path
) -> None:
    script = (
        f"import sys\nsys.argv = ['edgedistil', 'doctor']\nfrom edgedistil import cli, doctor\n"
        f"def fail():\n    raise {failure}\n"
        "doctor.examine = fail\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    code, message = FAILURES[failure]
    assert done.returncode == code
    assert message in done.stderr
    assert ("Traceback" in done.stderr) == (not message.startswith("error:"))


@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
def test_an_output_that_takes_nothing(redirection: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("edgedistil")
    done = subprocess.run(
        f"{program} devices list {redirection}",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == (1 if "full" in redirection else 0)


def test_broken_toml_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("name = \n")
    done = edgedistil("distill", "x.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "x.toml is not valid TOML" in done.stderr
    assert "line 1, column 8" in done.stderr


def test_version(tmp_path: Path) -> None:
    import edgedistil as package

    assert edgedistil("--version", cwd=tmp_path).stdout == f"edgedistil {package.__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130(number: int, tmp_path: Path) -> None:
    script = (
        "import signal, time\nfrom edgedistil import cli, doctor\n"
        # a shell's background job is born deaf to it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
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
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.strip() == "interrupted"


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("edgedistil")
    done = subprocess.run(
        f"{program} devices list | head -1",
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
    (tmp_path / "file").touch()
    done = edgedistil("doctor", cwd=tmp_path, EDGEDISTIL_CACHE=str(tmp_path / "file" / "cache"))
    assert done.returncode == 2, done.stdout
    assert "missing: cache" in done.stdout

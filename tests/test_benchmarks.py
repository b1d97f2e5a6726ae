"""Scripts of benchmarks load, their pages have raw records, and their documented calls parse."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgedistil.core.records import provenance

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
QUIET = ROOT / "scripts" / "quiet_benchmarks.sh"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
# Packages of an optional comparison, which no environment of the tests has.
OPTIONAL = {"datasets", "mwparserfromhell", "pyarrow"}


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def load(stem: str) -> ModuleType:
    # The suite of planted faults is run as a module of a package.
    return importlib.import_module(f"benchmarks.{stem}" if stem == "planted_faults" else stem)


@pytest.mark.parametrize("stem", SCRIPTS)
def test_every_script_loads(stem: str) -> None:
    try:
        load(stem)
    except ModuleNotFoundError as error:
        assert error.name in OPTIONAL, error


@pytest.mark.parametrize("stem", [stem for stem in SCRIPTS if stem != "page"])
def test_a_page_has_a_raw_record(stem: str) -> None:
    source = (BENCHMARKS / f"{stem}.py").read_text(encoding="utf-8")
    if "write_page(" in source:
        assert "write_raw(" in source


def test_a_record_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Times:
        wall: list[float]

    page = load("page")
    secret = "/home/somebody/texts/corpus.txt"
    monkeypatch.setattr(sys, "argv", ["/home/somebody/benchmarks/x.py", "--text", secret])
    content = {
        "times": Times([1.5, 2.25]),
        "file": Path("/home/somebody/model.onnx"),
        # It has the command line of this process.
        "records": [provenance()],
    }
    path = page.write_raw(tmp_path, "x", content)
    text = path.read_text(encoding="utf-8")
    assert "somebody" not in text
    record = json.loads(text)
    assert record["times"] == {"wall": [1.5, 2.25]} and record["file"] == "model.onnx"
    assert record["records"][0]["command"].endswith(" --text corpus.txt")
    measured = record["measured"]
    assert measured["command"] == "python benchmarks/x.py --text corpus.txt"
    assert path.name == f"x-{measured['date']}.json"
    assert measured["cores"] == os.cpu_count() and measured["machine"] and measured["load"]
    assert measured["versions"]["onnxruntime"]


def test_a_record_refuses_what_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold set"):
        load("page").write_raw(tmp_path, "x", {"names": {"a"}})


# --- the script for an idle machine --------------------------------------------------------------


def quiet(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with an interpreter that prints its arguments and does nothing."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho CALL "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return subprocess.run(
        ["bash", str(QUIET), *arguments],
        env={**os.environ, "PYTHON": str(python), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def calls(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("CALL ")]
    return [shlex.split(line)[1:] for line in lines]


def steps() -> list[str]:
    match = re.search(r'^STEPS="(.+)"$', QUIET.read_text(encoding="utf-8"), re.MULTILINE)
    assert match is not None
    return match[1].split()


def test_every_step_is_a_call_that_its_script_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = quiet(tmp_path, "--small", "prepare", *steps())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": done after") == len(steps()) + 1
    accepted = calls(done)
    assert len({Path(call[0]).stem for call in accepted}) >= 8
    for script, *arguments in accepted:
        module: Any = load(Path(script).stem)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        if hasattr(module, "parse_arguments"):
            module.parse_arguments()


def test_the_bounds_of_all_steps_are_what_the_script_states(tmp_path: Path) -> None:
    timeout = tmp_path / "timeout"
    timeout.write_text('#!/bin/sh\necho BOUND "$3"\nshift 3\nexec "$@"\n', encoding="utf-8")
    timeout.chmod(0o755)
    done = quiet(tmp_path, "--small", *steps(), PATH=f"{tmp_path}:{os.environ['PATH']}")
    bounds = [int(line.split()[1]) for line in done.stdout.splitlines() if "BOUND" in line]
    assert len(bounds) == len(calls(done)), "every call has a bound"
    stated = re.search(r"all steps, at most (\d+) minutes", QUIET.read_text(encoding="utf-8"))
    assert stated is not None
    assert 0 < sum(bounds) <= 60 * int(stated[1])


def test_an_unknown_step_is_refused_before_any_other_runs(tmp_path: Path) -> None:
    done = quiet(tmp_path, "--small", "turns", "nonsense")
    assert (done.returncode, calls(done)) == (2, [])
    assert "unknown step 'nonsense': expected prepare or one of turns" in done.stderr


def test_a_failing_step_is_reported_and_the_others_run(tmp_path: Path) -> None:
    python = tmp_path / "failing"
    python.write_text('#!/bin/sh\ncase "$1" in *turns*) exit 3;; esac\necho CALL "$@"\n')
    python.chmod(0o755)
    done = quiet(tmp_path, "--small", "turns", "repeat", PYTHON=str(python))
    assert done.returncode == 1
    assert "== turns: failed with code 3" in done.stdout
    assert len(calls(done)) == 1 and "== repeat: done" in done.stdout

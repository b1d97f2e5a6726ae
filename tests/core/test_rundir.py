"""The run directory: names, refusals, and files that appear complete or not at all."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.rundir import (
    checked_name,
    create_run,
    mark_latest,
    open_run,
    replacing,
    run_names,
    sha256_file,
    tree_manifest,
    write_json,
    write_text,
)


def test_a_new_run_and_the_latest(runs: Path) -> None:
    first, second = create_run("first"), create_run("second")
    mark_latest(first)
    assert open_run().name == "first"
    mark_latest(second)
    assert open_run().name == "second"
    assert open_run("first").path == runs / "first"
    assert run_names() == ["first", "second"]


def test_a_run_that_exists_is_refused_and_unchanged(runs: Path) -> None:
    run = create_run("mine")
    write_text(run.recipe, "precious")
    with pytest.raises(RunError, match="run 'mine' already exists"):
        create_run("mine")
    assert run.recipe.read_text() == "precious"
    assert create_run("mine", resume=True).recipe.read_text() == "precious"


def test_no_run_yet(runs: Path) -> None:
    with pytest.raises(RunError, match="has no finished run yet") as caught:
        open_run()
    assert caught.value.exit_code == 2
    create_run("half")
    with pytest.raises(RunError, match="unfinished: half"):
        open_run()


def test_an_unknown_run_lists_the_existing_ones(runs: Path) -> None:
    create_run("a")
    create_run("b")
    with pytest.raises(RunError, match=r"unknown run 'c' in .*; existing: a, b"):
        open_run("c")


@pytest.mark.parametrize(
    "name", ["", "latest", "../up", "a/b", "-x", ".hidden", "a b", "x" * 101, "$(id)", "a;b"]
)
def test_a_name_that_is_not_a_plain_file_name_is_refused(name: str) -> None:
    with pytest.raises(RunError, match="is not a valid name of a run"):
        checked_name(name)


def test_a_latest_file_that_points_outside_is_refused(runs: Path) -> None:
    create_run("a")
    (runs / "latest").write_text("../../etc\n")
    with pytest.raises(RunError, match="is not a valid name of a run"):
        open_run()


def test_what_a_stage_reads_is_required(runs: Path) -> None:
    run = create_run("x")
    with pytest.raises(
        RunError, match=r"has no distill.json yet\n  create it with: edgedistil distill"
    ):
        run.require(run.distill, "edgedistil distill")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as unfinished:
        unfinished.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_completely(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("old", "new"):
        with replacing(folder) as unfinished:
            unfinished.mkdir()
            (unfinished / content).write_text(content)
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    script = (
        "import sys, time; from pathlib import Path; from edgedistil.core.rundir import replacing\n"
        f"with replacing(Path({str(path)!r})) as unfinished:\n"
        "    unfinished.write_text('half'); print('writing', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"


def test_an_unwritable_folder_is_a_storage_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("I am not a folder")
    with pytest.raises(StorageError, match=r"cannot write (.|\n)*existing files are unchanged"):
        write_text(blocked / "inner", "x")
    assert blocked.read_text() == "I am not a folder"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_nan_and_infinity(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"ms": value})
    assert not (tmp_path / "x.json").exists()


def test_json_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "größe", "n": [1, 2]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {
        "name": "größe",
        "n": [1, 2],
    }


def test_files_get_ordinary_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~mask


def test_manifest_names_every_file_with_its_digest(tmp_path: Path) -> None:
    write_text(tmp_path / "b" / "two", "2")
    write_text(tmp_path / "one", "1")
    manifest = tree_manifest(tmp_path)
    assert list(manifest) == ["b/two", "one"]
    assert manifest["one"] == sha256_file(tmp_path / "one")
    assert manifest["one"] == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"

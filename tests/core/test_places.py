"""Where cache and runs are, and what moves them."""

from __future__ import annotations

import errno
from pathlib import Path

import platformdirs
import pytest

from edgedistil.core.errors import StorageError
from edgedistil.core.places import cache_root, moving_advice, runs_root
from edgedistil.core.rundir import write_text


def test_the_variables_move_cache_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("EDGEDISTIL_RUNS", str(tmp_path / "r"))
    assert (cache_root(), runs_root()) == (tmp_path / "c", tmp_path / "r")


def test_without_a_home_folder_the_cache_needs_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTIL_CACHE", "")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: Path(f"~/.cache/{name}"))
    with pytest.raises(StorageError, match=r"no home folder\n  set EDGEDISTIL_CACHE to a folder"):
        cache_root()
    # Advice about other files is still possible.
    assert moving_advice(tmp_path / "x", OSError()) == "choose another folder"


@pytest.mark.parametrize("variable", ["EDGEDISTIL_CACHE", "EDGEDISTIL_RUNS"])
def test_what_cannot_be_written_names_the_variable_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    monkeypatch.setenv(variable, str(blocked / "folder"))
    with pytest.raises(StorageError, match=f"(?s)cannot write {blocked}.* set {variable} to"):
        write_text(blocked / "folder" / "x.json", "x")


def test_space_is_the_advice_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTIL_RUNS", str(tmp_path))
    full, read_only = OSError(errno.ENOSPC, ""), OSError(errno.EROFS, "")
    to_move = "set EDGEDISTIL_RUNS to another folder for the runs"
    assert moving_advice(tmp_path / "x", full) == f"free some space, or {to_move}"
    assert moving_advice(tmp_path / "x", read_only) == to_move

"""One builder of a folder at a time, and what a killed one left is removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgedistil.core.errors import StorageError
from edgedistil.data.building import only_builder, remove_remains

TRIES = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1], "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("taken")
else:
    print("free")
"""


def _tried(folder: Path) -> str:
    lock = str(folder.with_name(f"{folder.name}.lock"))
    return subprocess.run(
        [sys.executable, "-c", TRIES, lock], check=True, capture_output=True, text=True
    ).stdout


def test_another_process_waits_until_the_builder_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "made"
    with only_builder(folder):
        assert _tried(folder) == "taken\n"
    assert _tried(folder) == "free\n"


def test_remains_of_this_folder_go_and_others_stay(tmp_path: Path) -> None:
    for name in (".made.abc", ".made.def", ".other.abc", "made"):
        (tmp_path / name / "deep").mkdir(parents=True)
    remove_remains(tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abc", "made"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"made\.lock"), only_builder(tmp_path / "file" / "made"):
        pass

"""Scratch folders: removed at the end, and by the next process after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgedistil.core.errors import StorageError
from edgedistil.core.scratch import scratch_errors, scratch_folder

HOLDER = """
import sys, time
from pathlib import Path
from edgedistil.core.scratch import scratch_folder
with scratch_folder("test", parent=Path(sys.argv[1])) as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_removed_at_the_end(tmp_path: Path) -> None:
    with scratch_folder("test", parent=tmp_path) as folder:
        (folder / "file").write_text("x")
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_it_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch_folder("test", parent=tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with scratch_folder("test", parent=tmp_path):
            assert (folder / "file").exists(), "its process is alive"
        process.send_signal(signal.SIGKILL)
    assert folder.exists()
    with scratch_folder("other", parent=tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_other_folders_and_links_are_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("x")
    base = tmp_path / "base"
    base.mkdir()
    (base / "edgedistil-tmp-test-abcdefgh").symlink_to(elsewhere)
    (base / "edgedistil-inputs").mkdir()
    with scratch_folder("test", parent=base):
        pass
    assert len(list(base.iterdir())) == 2 and (elsewhere / "mine").exists()


def test_a_folder_that_cannot_be_created_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    message = r"cannot write temporary files in .*absent: No such"
    with pytest.raises(StorageError, match=message), scratch_folder("test"):
        pytest.fail("it was not created")


def test_a_full_disk_names_the_variable() -> None:
    with pytest.raises(StorageError, match="set TMPDIR to another folder"), scratch_errors():
        raise OSError(28, "No space left on device")

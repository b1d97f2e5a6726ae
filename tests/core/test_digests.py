"""What was digested is compared, and a file that looks the same is not read again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from edgedistil.core import digests
from edgedistil.core.digests import (
    MANIFEST,
    changed_file,
    is_intact,
    remembered_sha256,
    require_initial_files,
    run_digests,
    write_manifest,
)
from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.rundir import create_run, sha256_file, tree_manifest, write_json


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("one\n")
    age(tmp_path / "a.txt", 100)
    return tmp_path / "a.txt"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read for their digest."""
    paths: list[Path] = []

    def read(path: Path) -> str:
        paths.append(path)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", read)
    return paths


# --- one file ------------------------------------------------------------------------------------


def test_a_settled_file_is_read_once_and_again_when_it_changes(
    path: Path, cache: Path, reads: list[Path]
) -> None:
    first = remembered_sha256(path, cache=cache)
    assert remembered_sha256(path, cache=cache) == first == sha256_file(path)
    assert len(reads) == 1
    path.write_text("two\n")
    age(path, 50)
    assert remembered_sha256(path, cache=cache) == sha256_file(path) != first
    assert len(reads) == 2


def test_a_change_with_the_old_time_stamp_and_size_is_seen(path: Path, cache: Path) -> None:
    stat = path.stat()
    first = remembered_sha256(path, cache=cache)
    with path.open("r+") as file:
        file.write("TWO")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert remembered_sha256(path, cache=cache) == sha256_file(path) != first


def test_a_file_that_has_just_changed_is_not_remembered(
    path: Path, cache: Path, reads: list[Path]
) -> None:
    age(path, 0)
    for _ in range(2):
        remembered_sha256(path, cache=cache)
    assert len(reads) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"sha256": 1', "\x00\x00"])
def test_a_corrupt_memo_is_computed_again(path: Path, cache: Path, content: str) -> None:
    expected = remembered_sha256(path, cache=cache)
    (memo,) = (cache / "hashes").iterdir()
    memo.write_text(content)
    assert remembered_sha256(path, cache=cache) == expected
    assert json.loads(memo.read_text())["sha256"] == expected


def test_a_corrupt_memo_is_warned_of(
    path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remembered_sha256(path, cache=cache)
    (memo,) = (cache / "hashes").iterdir()
    memo.write_text("[]")
    remembered_sha256(path, cache=cache)
    assert "a remembered digest is corrupt and is computed again" in capsys.readouterr().err


def test_without_a_cache_that_can_be_written_it_is_computed_each_time(
    path: Path, tmp_path: Path, reads: list[Path]
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    for _ in range(2):
        assert remembered_sha256(path, cache=blocked / "cache") == sha256_file(path)
    assert len(reads) == 2


def test_without_a_home_folder_it_is_computed_each_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Path:
        raise StorageError("no home folder")

    monkeypatch.setattr(digests, "cache_root", fail)
    assert remembered_sha256(path) == sha256_file(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remembered_sha256(tmp_path / "gone", cache=cache)


# --- recorded digests ----------------------------------------------------------------------------


def test_a_changed_and_a_missing_file_are_named(path: Path, cache: Path) -> None:
    recorded = {"a.txt": sha256_file(path)}
    assert changed_file(path.parent, recorded, cache=cache) is None
    path.write_text("two\n")
    change = changed_file(path.parent, recorded, cache=cache)
    assert change is not None
    assert f"{path} was changed: expected sha256 {recorded['a.txt'][:12]}" in change
    path.unlink()
    assert "cannot be read: No such file" in str(changed_file(path.parent, recorded, cache=cache))


def test_the_files_that_a_run_starts_from_are_compared(runs: Path) -> None:
    run = create_run("mine")
    require_initial_files(run)
    run.teacher.mkdir()
    weights = run.teacher / "model.safetensors"
    weights.write_bytes(b"weights")
    run.heldout_text.write_text("text")
    write_json(run.initial_digests, run_digests(run, [run.teacher, run.heldout_text]))
    assert list(json.loads(run.initial_digests.read_text())) == [
        "teacher/model.safetensors",
        "heldout.txt",
    ]
    require_initial_files(run)
    weights.write_bytes(b"WEIGHTS")
    with pytest.raises(
        RunError, match=r"teacher/model\.safetensors was changed(.|\n)*--run NEW-NA"
    ):
        require_initial_files(run)
    run.initial_digests.write_text("[]")
    with pytest.raises(StorageError, match=r"digests\.json contains a JSON list(.|\n)*remove it"):
        require_initial_files(run)


# --- folders of the cache ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(b"weights")
    (folder / "config").write_bytes(b"config")
    write_manifest(folder)
    return folder


def test_an_intact_folder_and_a_missing_one(
    folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_intact(folder, cache=cache)
    assert not is_intact(folder / "missing", cache=cache)
    assert capsys.readouterr().err == ""
    # The format of the command sha256sum.
    digest = tree_manifest(folder)["config"]
    assert f"{digest}  config" in (folder / MANIFEST).read_text()


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xfe", b"\n", None])
def test_a_damaged_manifest_is_a_damaged_folder(
    folder: Path, cache: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)
    assert not is_intact(folder, cache=cache)
    assert "a cached folder is corrupt and is made again" in capsys.readouterr().err


def test_a_changed_file_of_the_same_size_is_seen(folder: Path, cache: Path) -> None:
    (folder / "deep" / "weights").write_bytes(b"wEights")
    assert not is_intact(folder, cache=cache)

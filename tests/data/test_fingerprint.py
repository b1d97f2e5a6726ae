"""The digest follows the content, and a file that looks the same is not read again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgedistil.core.assets import find_asset
from edgedistil.core.errors import CorpusError
from edgedistil.core.recipe import SourceSpec
from edgedistil.core.rundir import sha256_file
from edgedistil.data import fingerprint as module
from edgedistil.data.fingerprint import cached_sha256, source_fingerprint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("one\n")
    return tmp_path / "a.txt"


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read for their hash."""
    paths: list[Path] = []

    def noting(path: Path) -> str:
        paths.append(path)
        return sha256_file(path)

    monkeypatch.setattr(module, "sha256_file", noting)
    return paths


def test_a_settled_file_is_read_once_and_again_when_it_changes(
    path: Path, tmp_path: Path, reads: list[Path]
) -> None:
    age(path, 100)
    first = cached_sha256(path, cache=tmp_path / "cache")
    assert cached_sha256(path, cache=tmp_path / "cache") == first == sha256_file(path)
    assert len(reads) == 1
    path.write_text("two\n")
    age(path, 50)
    assert cached_sha256(path, cache=tmp_path / "cache") == sha256_file(path) != first
    assert len(reads) == 2


def test_a_file_that_has_just_changed_is_not_trusted(
    path: Path, tmp_path: Path, reads: list[Path]
) -> None:
    for _ in range(2):
        cached_sha256(path, cache=tmp_path / "cache")
    assert len(reads) == 2


def test_the_identity_is_of_the_content_not_of_the_place(path: Path, tmp_path: Path) -> None:
    moved = tmp_path / "b.txt"
    moved.write_bytes(path.read_bytes())
    one, other = (
        source_fingerprint(SourceSpec(files=str(p)), cache=tmp_path / "cache")
        for p in (path, moved)
    )
    assert one == other
    moved.write_text("changed\n")
    assert source_fingerprint(SourceSpec(files=str(moved)), cache=tmp_path / "cache") != one


def test_assets_and_hub_data_sets_are_known_without_reading(tmp_path: Path) -> None:
    assert (
        source_fingerprint(SourceSpec(asset="reviews"), cache=tmp_path)
        == find_asset("reviews").sha256
    )
    hubs = [
        {"hub": "a/b"},
        {"hub": "a/b", "config": "en"},
        {"hub": "a/b", "revision": "v1"},
        {"hub": "a/b", "split": "x"},
    ]
    specs = [SourceSpec(**spec) for spec in hubs]  # type: ignore[arg-type]
    assert len({source_fingerprint(spec, cache=tmp_path) for spec in specs}) == 4


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read .*gone\.txt: No such file"):
        cached_sha256(tmp_path / "gone.txt", cache=tmp_path)

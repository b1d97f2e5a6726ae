from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

environments = sys.modules[
    "interop_environments"
]  # loaded by conftest.py, as no test imports another file


def test_a_finished_environment_is_used_without_an_installer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path))
    environment = environments.ENVIRONMENTS["plain"]
    environment.folder.mkdir(parents=True)
    (environment.folder / environments.READY).touch()
    monkeypatch.setattr(
        environments.subprocess,
        "run",
        lambda *_args, **_more: pytest.fail("an installer was called"),
    )
    assert environments.build(environment) == environment.folder


def test_an_interrupted_build_starts_over_and_a_failed_one_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path))
    environment = environments.ENVIRONMENTS["plain"]
    environment.folder.mkdir(parents=True)
    (environment.folder / "half").touch()

    def fail(command, **_more):
        is_install = "install" in command
        return subprocess.CompletedProcess(
            command, int(is_install), "", "no matching distribution" if is_install else ""
        )

    monkeypatch.setattr(environments.subprocess, "run", fail)
    with pytest.raises(
        RuntimeError, match=r"pip install .* ended with 1:\nno matching distribution"
    ):
        environments.build(environment)
    assert not environment.is_ready
    assert not (environment.folder / "half").exists()


def test_the_folder_changes_with_the_packages_only() -> None:
    plain = environments.ENVIRONMENTS["plain"]
    assert dataclasses.replace(plain).folder == plain.folder
    assert (
        dataclasses.replace(plain, packages=(*plain.packages, "six==1.17.0")).folder != plain.folder
    )

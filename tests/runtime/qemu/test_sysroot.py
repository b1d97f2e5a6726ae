from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from edgedistil.core.errors import InputError, OfflineError
from edgedistil.runtime.qemu import sysroot
from edgedistil.runtime.qemu.sysroot import ensure_site, ensure_sysroot

AARCH64, X86_64 = 183, 62


def python_in(root: Path, *, machine: int, where: str = "usr/bin/python3.12") -> Path:
    path = root / where
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x7fELF" + bytes(14) + struct.pack("<H", machine) + bytes(40))
    return path


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEDISTIL_ARM64_ROOT", raising=False)
    return tmp_path / "cache"


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.needs("apt-get", "dpkg-deb")
def test_the_sysroot_is_arm64_and_its_packages_are_on_record() -> None:
    built = ensure_sysroot()
    assert built.interpreter.name == f"python{built.python}"
    assert (built.home / "lib" / built.interpreter.name / "json").is_dir()
    record = json.loads((built.root.parent / "sysroot.json").read_text())
    names = {each["package"] for each in record["packages"]}
    assert set(sysroot.PACKAGES) <= names
    assert all(len(each["sha256"]) == 64 and each["version"] for each in record["packages"])
    assert not (built.root / "proc").exists()


@pytest.mark.needs("apt-get", "dpkg-deb")
def test_its_site_has_the_pinned_pair() -> None:
    site = ensure_site(ensure_sysroot().python)
    assert (site.path / "onnxruntime" / "__init__.py").is_file()
    assert (site.path / "numpy" / "__init__.py").is_file()
    assert site.onnxruntime == "1.32.0"


def test_ones_own_root_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_in(tmp_path, machine=AARCH64, where="usr/local/bin/python3.12")
    monkeypatch.setenv("EDGEDISTIL_ARM64_ROOT", str(tmp_path))
    found = ensure_sysroot()
    assert (found.python, found.home) == ("3.12", tmp_path / "usr/local")


def test_a_root_of_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_in(tmp_path, machine=X86_64)
    monkeypatch.setenv("EDGEDISTIL_ARM64_ROOT", str(tmp_path))
    with pytest.raises(
        InputError, match=r"holds no 64-bit ARM Python: .*, found usr/bin/python3\.12"
    ) as told:
        ensure_sysroot()
    assert "docker export" in str(told.value)


def test_without_apt_it_says_what_to_do(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OfflineError, match="this machine has no apt-get and no dpkg-deb") as told:
        ensure_sysroot()
    assert "EDGEDISTIL_ARM64_ROOT" in str(told.value)


def test_without_a_network_it_tells_what_apt_said_and_leaves_nothing(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path / "bin", "apt-get", "echo 'E: Unable to locate package python3-minimal'; exit 100"
    )
    program(tmp_path / "bin", "dpkg-deb", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(
        OfflineError, match="apt-get update says: E: Unable to locate package python3-minimal"
    ):
        ensure_sysroot()
    assert [path.name for path in (empty_cache / "sysroot").iterdir() if path.is_dir()] == []


def test_apt_gets_a_private_state_and_the_packages_are_recorded(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = '$(sed -n \'s/^Dir::Cache "\\(.*\\)";/\\1/p\' "$APT_CONFIG")/archives'
    program(
        tmp_path / "bin",
        "apt-get",
        f'cp "$APT_CONFIG" {tmp_path}/seen.conf\n'
        f'case "$*" in *install*) printf deb > "{archives}/python3_3.11.2-1%2bb1_arm64.deb";; esac',
    )
    source = python_in(tmp_path / "made", machine=AARCH64)
    program(
        tmp_path / "bin",
        "dpkg-deb",
        f'mkdir -p "$3/usr/bin" && cp {source} "$3/usr/bin/python3.12"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    built = ensure_sysroot()
    record = json.loads((built.root.parent / "sysroot.json").read_text())
    assert [(each["package"], each["version"]) for each in record["packages"]] == [
        ("python3", "3.11.2-1+b1")
    ]
    assert (built.root / "bin").is_symlink()
    assert not (built.root / "lib").exists()  # the made package brought none
    configuration = (tmp_path / "seen.conf").read_text()
    assert 'APT::Architectures { "arm64"; };' in configuration
    assert "/var/lib" not in configuration
    (tmp_path / "bin" / "apt-get").unlink()
    assert ensure_sysroot() == built  # cached: apt is not asked again

"""The sysroot: real apt where it is installed, a fake one for failures."""

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
    names = {package["package"] for package in record["packages"]}
    assert set(sysroot.PACKAGES) <= names
    for package in record["packages"]:
        assert len(package["sha256"]) == 64 and package["version"]
    assert not (built.root / "proc").exists()


@pytest.mark.needs("apt-get", "dpkg-deb")
def test_its_site_has_the_pinned_pair() -> None:
    site = ensure_site(ensure_sysroot().python)
    assert (site.path / "onnxruntime" / "__init__.py").is_file()
    assert (site.path / "numpy" / "__init__.py").is_file()
    assert site.onnxruntime == "1.32.0"


def test_a_configured_root_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_in(tmp_path, machine=AARCH64, where="usr/local/bin/python3.12")
    monkeypatch.setenv("EDGEDISTIL_ARM64_ROOT", str(tmp_path))
    configured = ensure_sysroot()
    assert (configured.python, configured.home) == ("3.12", tmp_path / "usr/local")


def test_a_root_of_another_architecture_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_in(tmp_path, machine=X86_64)
    monkeypatch.setenv("EDGEDISTIL_ARM64_ROOT", str(tmp_path))
    with pytest.raises(
        InputError, match=r"contains no 64-bit ARM Python: .*, found usr/bin/python3\.12"
    ) as error:
        ensure_sysroot()
    assert "docker export" in str(error.value)


def test_without_apt_the_error_says_what_to_do(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OfflineError, match="this machine has no apt-get and no dpkg-deb") as error:
        ensure_sysroot()
    assert "EDGEDISTIL_ARM64_ROOT" in str(error.value)


def test_without_a_network_the_error_has_apts_reason_and_nothing_is_left(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path / "bin", "apt-get", "echo 'E: Unable to locate package python3-minimal'; exit 100"
    )
    program(tmp_path / "bin", "dpkg-deb", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(
        OfflineError, match="apt-get update failed: E: Unable to locate package python3-minimal"
    ):
        ensure_sysroot()
    assert [path.name for path in (empty_cache / "sysroot").iterdir() if path.is_dir()] == []


def test_apt_gets_a_private_state_and_the_packages_are_recorded(
    empty_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archives = '$(sed -n \'s/^Dir::Cache "\\(.*\\)";/\\1/p\' "$APT_CONFIG")/archives'
    program(
        tmp_path / "bin",
        "apt-get",
        f'cp "$APT_CONFIG" {tmp_path}/seen.conf\n'
        f'case "$*" in *install*) printf deb > "{archives}/python3_3.11.2-1%2bb1_arm64.deb";; esac',
    )
    source = python_in(tmp_path / "packed", machine=AARCH64)
    program(
        tmp_path / "bin",
        "dpkg-deb",
        f'mkdir -p "$3/usr/bin" && cp {source} "$3/usr/bin/python3.12"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    built = ensure_sysroot()
    record = json.loads((built.root.parent / "sysroot.json").read_text())
    (package,) = record["packages"]
    assert (package["package"], package["version"]) == ("python3", "3.11.2-1+b1")
    assert (built.root / "bin").is_symlink()
    assert not (built.root / "lib").exists()  # the package contained none
    configuration = (tmp_path / "seen.conf").read_text()
    assert 'APT::Architectures { "arm64"; };' in configuration
    assert "/var/lib" not in configuration
    # A corrupt list of packages: the sysroot is built again, with a warning.
    facts = built.root.parent / "sysroot.json"
    intact = facts.read_bytes()
    for content in (b"", b"[]", b"{}", b'{"packages": 1}', intact[:-9]):
        facts.write_bytes(content)
        assert ensure_sysroot() == built
        assert facts.read_bytes() == intact
        assert "the cached sysroot is corrupt and will be rebuilt" in capsys.readouterr().err
    (tmp_path / "bin" / "apt-get").unlink()
    assert ensure_sysroot() == built  # cached: apt does not run again

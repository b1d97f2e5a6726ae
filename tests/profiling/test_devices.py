"""The commands of `edgedistil devices`: list, show and probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.device import device_names, load_device
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.profiling import devices
from tests.profiling.conftest import fp32_gmacs_per_s


def test_an_invalid_device_file_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices").mkdir()
    Path("devices/mine.toml").write_text('name = "mine"\n', encoding="utf-8")
    devices.list_devices()
    printed = capsys.readouterr().out
    assert "the file has problems" in printed
    for name in ("host", *device_names()):
        assert name in printed


@pytest.mark.parametrize("name", device_names())
def test_every_figure_is_shown_with_its_source(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    devices.show_device(name)
    printed = " ".join(capsys.readouterr().out.split())
    spec = load_device(name)
    clock = f"{spec.clusters[0].clock_ghz.value:g} GHz"
    assert spec.title in printed and clock in printed and "assumed" in printed
    assert "predictions of onnxruntime" in printed
    arm = spec.identity.machine == "aarch64"
    assert ("uncalibrated: assumed" in printed) == arm, "constants of no ARM core were measured"


def test_the_host_is_shown_with_its_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    devices.show_device("host")
    printed = capsys.readouterr().out
    assert printed.startswith("title: ") and "kernels: " in printed


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(DeviceFileError, match="'rpi9'"):
        devices.show_device("rpi9")


def test_probing_this_machine_writes_a_file_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    devices.probe_device()
    (path,) = Path("devices").iterdir()
    spec = load_device(path)
    assert "measured" in str(spec.memory.bandwidth_gb_per_s.source)
    assert fp32_gmacs_per_s(spec) > 0.1
    assert str(path) in capsys.readouterr().out
    with pytest.raises(InputError, match="exists already"):
        devices.probe_device()

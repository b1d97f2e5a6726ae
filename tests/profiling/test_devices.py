"""Listing, explaining, recognising and drafting devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.device import DeviceSpec, device_names, load_device
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.profiling import devices
from edgedistil.profiling.device_probe import Measured, draft
from edgedistil.runtime import match
from edgedistil.runtime.protocol import Bandwidth, CacheFacts, MachineIdentity
from edgedistil.runtime.qemu.guest import cpu_features, cpuinfo, emulated_cpu


def test_every_device_is_listed_and_a_broken_one_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices").mkdir()
    Path("devices/mine.toml").write_text('name = "mine"\n', encoding="utf-8")
    devices.list_devices()
    told = capsys.readouterr().out
    assert "the file has problems" in told
    for name in ("host", *device_names()):
        assert name in told


@pytest.mark.parametrize("name", device_names())
def test_every_device_explains_its_figures_with_sources(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    devices.explain_device(name)
    told = " ".join(capsys.readouterr().out.split())
    spec = load_device(name)
    assert (
        spec.title in told
        and f"{spec.clusters[0].clock_ghz.value:g} GHz" in told
        and "assumed" in told
    )
    assert "predictions of onnxruntime" in told
    arm = spec.identity.machine == "aarch64"
    assert ("uncalibrated: assumed" in told) == arm, "constants of no ARM core were measured"


def test_an_unknown_device_is_told() -> None:
    with pytest.raises(DeviceFileError, match="unknown device 'rpi9'"):
        devices.explain_device("rpi9")


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (MachineIdentity(machine="aarch64", board="Raspberry Pi 4 Model B Rev 1.4"), "rpi4"),
        (MachineIdentity(machine="aarch64", board="Raspberry Pi 5 Model B Rev 1.0"), "rpi5"),
        (MachineIdentity(machine="aarch64", board="Raspberry Pi Zero 2 W Rev 1.0"), "zero2w"),
        (MachineIdentity(machine="aarch64", board="Some other board"), None),
        (MachineIdentity(machine="aarch64"), None),
        (MachineIdentity(machine="x86_64", flags=["avx2", "fma"]), "x86-avx2"),
        (
            MachineIdentity(machine="x86_64", flags=["avx2", "fma", "avx512f", "avx512_vnni"]),
            "x86-avx512-vnni",
        ),
        (
            MachineIdentity(
                machine="x86_64", flags=["avx2", "fma", "avx512f", "avx512_vnni", "amx_int8"]
            ),
            "x86-amx",
        ),
        (MachineIdentity(machine="x86_64", flags=["sse2"]), None),
    ],
)
def test_a_machine_is_recognised(identity: MachineIdentity, name: str | None) -> None:
    found = match.match_device(identity)
    assert (found.name if found else None) == name


def test_a_draft_keeps_what_was_told_and_marks_what_was_not() -> None:
    identity = MachineIdentity(
        machine="aarch64",
        board="Radxa Test Board 3",
        cpu_part="0xd05",
        flags=["asimd", "asimddp", "asimdhp"],
        onnxruntime="1.32.0",
        page_bytes=4096,
        memory_bytes=2**31,
        caches=[
            CacheFacts(level=1, kind="Data", bytes=2**15, shared_by="0"),
            CacheFacts(level=2, kind="Unified", bytes=2**19, shared_by="0-3"),
        ],
    )
    rates = {"fp32": 4.4e9, "int8": 17e9}
    copies = Bandwidth(one_core=2.1e9, all_cores=3.4e9, threads=4)
    spec = draft(Measured(identity, rates, [1.0, 1.9, 2.7, 3.3], copies), cores=4)
    assert (spec.name, spec.in_order, spec.cores, spec.qemu_cpu) == (
        "radxa-test-board-3",
        True,
        4,
        "cortex-a55",
    )
    assert spec.isa.dot_product and spec.isa.fp16 and not spec.isa.i8mm
    assert spec.clusters[0].clock_ghz.assumed is not None, "the board did not tell its clock"
    assert fp32_gmacs_per_s(spec) == pytest.approx(4.4)
    assert spec.caches.l2_shared and spec.memory.size_gib.value == 2
    assert spec.thread_scaling.of(4) == 3.3
    assert match.matches(spec, identity)


def fp32_gmacs_per_s(spec: DeviceSpec) -> float:
    """Peak of one core of the first cluster, in 10⁹ multiply-adds per second."""
    cluster = spec.clusters[0]
    return cluster.macs_per_cycle.fp32.value * cluster.clock_ghz.value


def test_a_device_file_drafted_on_a_graviton2_can_be_emulated() -> None:
    graviton2 = load_device("graviton2")
    identity = MachineIdentity(
        machine="aarch64",
        board="Amazon EC2 m6g.xlarge",
        cpu_part="0xd0c",
        flags=cpu_features(graviton2.isa),
        onnxruntime="1.32.0",
    )
    copies = Bandwidth(one_core=2.1e9, all_cores=3.4e9, threads=4)
    spec = draft(Measured(identity, {"fp32": 4e10, "int8": 1e11}, [1.0], copies), cores=1)
    assert spec.clusters[0].core == graviton2.clusters[0].core
    assert emulated_cpu(spec) == "neoverse-n1"
    assert "CPU part\t: 0xd0c" in cpuinfo(spec)


def test_probing_this_machine_writes_a_file_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    devices.probe_device()
    (path,) = Path("devices").iterdir()
    spec = load_device(path)
    assert (
        spec.memory.bandwidth_gb_per_s.source is not None
        and "measured" in spec.memory.bandwidth_gb_per_s.source
    )
    assert fp32_gmacs_per_s(spec) > 0.1
    assert str(path) in capsys.readouterr().out
    with pytest.raises(InputError, match="is there already"):
        devices.probe_device()

"""Reading a processor from /proc/cpuinfo, and the table of ARM cores."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgedistil.core import cpu
from edgedistil.core.cpu import ARM_CORES, find_arm_core, isa_features, parse_cpuinfo, read_cpu
from edgedistil.core.device import Isa, device_names, load_device
from edgedistil.runtime import runner

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni

processor\t: 1
model name\t: another one
flags\t\t: fpu
"""
GRAVITON3 = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def cpu_in(tmp_path: Path, text: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> cpu.Cpu:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "processor", lambda: "")
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    return read_cpu(path)


def test_an_x86_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = cpu_in(tmp_path, X86, "x86_64", monkeypatch)
    assert read.name == "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"
    assert not read.is_arm
    assert [read.has(name) for name in ("avx2", "avx512", "vnni", "amx")] == [True] * 3 + [False]
    assert not read.has("dot_product"), "a feature of the other architecture"


def test_an_arm_server_has_no_model_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = cpu_in(tmp_path, GRAVITON3, "aarch64", monkeypatch)
    assert (read.name, read.is_arm) == ("aarch64", True)
    features = isa_features(read.machine, read.flags)
    assert features == dict.fromkeys(("dot_product", "i8mm", "fp16", "bf16", "sve"), True)
    core = find_arm_core(parse_cpuinfo(GRAVITON3)["cpu part"])
    assert core is not None
    assert core.name == "Neoverse V1"


def test_a_system_without_cpuinfo_has_no_features(tmp_path: Path) -> None:
    read = read_cpu(tmp_path / "missing")
    assert read.flags == frozenset()
    assert read.name
    assert not read.has("vnni")


def test_the_runner_reads_the_same_as_the_host() -> None:
    """runner.py has a reader of its own, because it is sent to boards as one file."""
    identity = runner.read_identity()
    here = cpu.this_cpu()
    assert frozenset(identity["flags"]) == here.flags
    assert identity["machine"] == here.machine
    assert identity.get("cpu", here.name) == here.name


def test_part_numbers_are_unique_and_found_as_the_kernel_prints_them() -> None:
    assert len({core.part for core in ARM_CORES.values()}) == len(ARM_CORES)
    for core in ARM_CORES.values():
        assert find_arm_core(hex(core.part)) == core
    assert find_arm_core("0xd08") == ARM_CORES["Cortex-A72"]
    assert find_arm_core("0x001") is None
    assert find_arm_core(None) is None


@pytest.mark.parametrize("name", device_names())
def test_shipped_device_files_name_cores_of_the_table(name: str) -> None:
    spec = load_device(name)
    if spec.identity.machine == "aarch64":
        for cluster in spec.clusters:
            assert ARM_CORES[cluster.core].pipeline == cluster.pipeline
        assert spec.qemu_cpu == ARM_CORES[spec.clusters[0].core].qemu_cpu


def test_features_are_fields_of_a_device_file() -> None:
    assert {*cpu.ARM_FEATURES, *cpu.X86_FEATURES} <= set(Isa.model_fields)

"""What an emulated process sees of its device."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.device import device_names, load_device
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.runtime.qemu.guest import (
    build_guest_root,
    cpu_features,
    cpuinfo,
    emulated_cpu,
    usable_memory_bytes,
)
from edgedistil.runtime.qemu.sysroot import Sysroot

BOARDS = ["graviton2", "jetson-orin-nano", "rk3588", "rpi3", "rpi4", "rpi5", "zero2w"]


def sysroot_in(folder: Path) -> Sysroot:
    for name in ("usr/bin", "lib"):
        (folder / name).mkdir(parents=True)
    return Sysroot(folder, folder / "usr/bin/python3.11", "3.11", "a test")


def root_of(name: str, tmp_path: Path) -> Path:
    root = tmp_path / "guest"
    root.mkdir()
    return build_guest_root(root, sysroot_in(tmp_path / "sysroot"), load_device(name))


def test_every_arm_board_can_be_shown_to_a_guest(tmp_path: Path) -> None:
    arm = [name for name in device_names() if load_device(name).identity.machine == "aarch64"]
    assert arm == BOARDS
    for name in arm:
        assert cpuinfo(load_device(name)).count("processor") == sum(
            int(cluster.cores.value) for cluster in load_device(name).clusters
        )


def test_a_pi_4_is_a_cortex_a72_without_dot_products() -> None:
    blocks = cpuinfo(load_device("rpi4")).split("\n\n")
    assert len([block for block in blocks if block.strip()]) == 4
    assert "CPU part\t: 0xd08" in blocks[0]
    assert "CPU implementer\t: 0x41" in blocks[0]
    assert "asimddp" not in blocks[0]
    assert "model name" not in blocks[0]  # arm64 kernels print none


def test_features_follow_the_instruction_set() -> None:
    assert {"asimddp", "asimdhp", "fphp", "atomics"} <= set(cpu_features(load_device("rpi5").isa))
    assert {"asimddp", "asimdhp", "atomics", "i8mm"}.isdisjoint(
        cpu_features(load_device("rpi3").isa)
    )


def test_small_cores_come_first_as_on_the_board() -> None:
    parts = [
        line[-5:]
        for line in cpuinfo(load_device("rk3588")).splitlines()
        if line.startswith("CPU part")
    ]
    assert parts == ["0xd05"] * 4 + ["0xd0b"] * 4


def test_the_guest_sees_the_device_and_nothing_of_the_host(tmp_path: Path) -> None:
    root = root_of("zero2w", tmp_path)
    assert (root / "proc/device-tree/model").read_text() == "Raspberry Pi Zero 2 W\0"
    assert "MemTotal:         524288 kB" in (root / "proc/meminfo").read_text()
    assert (root / "sys/devices/system/cpu/possible").read_text() == "0-3\n"
    assert (
        root / "sys/devices/system/cpu/cpu3/cpufreq/cpuinfo_max_freq"
    ).read_text() == "1000000\n"
    assert (
        root / "sys/devices/system/cpu/cpu0/cache/index1/shared_cpu_list"
    ).read_text() == "0-3\n"
    assert list((root / "sys/class/thermal").iterdir()) == []
    assert (root / "lib").resolve() == (tmp_path / "sysroot/lib").resolve()


def test_a_512_mb_board_has_410_mb_for_one_process() -> None:
    assert usable_memory_bytes(load_device("zero2w")) == int(512 * 2**20 * 0.8)


def test_a_device_that_cannot_be_emulated_is_rejected() -> None:
    with pytest.raises(InputError, match="x86-avx2 cannot be emulated"):
        emulated_cpu(load_device("x86-avx2"))
    with pytest.raises(InputError, match="expected a 64-bit ARM device with qemu_cpu"):
        emulated_cpu(load_device("rpi4").model_copy(update={"qemu_cpu": None}))
    assert emulated_cpu(load_device("rpi4")) == "cortex-a72"


def test_an_unknown_core_is_an_error() -> None:
    spec = load_device("rpi4")
    other = spec.clusters[0].model_copy(update={"core": "Cortex-Z9000"})
    with pytest.raises(
        DeviceFileError,
        match="unknown core 'Cortex-Z9000'; expected one of: Cortex-A53",
    ):
        cpuinfo(spec.model_copy(update={"clusters": [other]}))

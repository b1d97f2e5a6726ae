"""What an emulated process sees of its machine: `/proc` and `/sys` as the device would show them, and no more.

onnxruntime asks `/proc/cpuinfo` and `/sys/devices/system/cpu` which cores it runs on, and aborts or picks other kernels
when the host answers instead of the device. `qemu-aarch64 -L PREFIX` redirects every path that exists below PREFIX: so
a device is one tiny folder of such files, with links to the sysroot for everything else.
"""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.cpu import ARM_CORES, ArmCore
from edgedistil.core.device import Cluster, DeviceSpec, Isa
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.runtime.qemu.sysroot import Sysroot

# What the kernel, firmware and services of a board without a desktop keep for themselves: a 1 GB Pi has 0.8 to give.
USABLE_MEMORY_SHARE = 0.8
_ARM, _LINKED = 0x41, ("bin", "etc", "lib", "sbin", "usr")


def emulated_cpu(spec: DeviceSpec) -> str:
    """The `-cpu` that a device is emulated with.

    Raises:
        InputError: The device is no 64-bit ARM board.
        DeviceFileError: Its `qemu_cpu` would not be the device: `max` has every feature that qemu knows.
    """
    if spec.identity.machine != "aarch64" or spec.qemu_cpu is None:
        raise InputError(
            f"{spec.name} cannot be emulated: expected a 64-bit ARM device with qemu_cpu, got {spec.identity.machine}",
            hint="leave --emulate out for a prediction; on such a machine itself, use --device host",
        )
    if spec.qemu_cpu in ("max", "host"):
        raise DeviceFileError(
            f"device {spec.name}: qemu_cpu = '{spec.qemu_cpu}' has instructions that no board has, and qemu 7.2 "
            f"computes wrong int8 results with them",
            hint="name the device's own core: cortex-a53, cortex-a72, cortex-a76, neoverse-n1",
        )
    return spec.qemu_cpu


def usable_memory_bytes(spec: DeviceSpec) -> int:
    """What a device has to give to one process, `USABLE_MEMORY_SHARE` of its memory."""
    return int(spec.memory_bytes * USABLE_MEMORY_SHARE)


def build_guest_root(folder: Path, sysroot: Sysroot, spec: DeviceSpec) -> Path:
    """Fills `folder` so that `qemu-aarch64 -L folder` shows the device; returns it.

    Raises:
        DeviceFileError: A core of the device is not in `core.cpu.ARM_CORES`.
    """
    for name in _LINKED:
        if (sysroot.root / name).exists():
            (folder / name).symlink_to(sysroot.root / name)
    _write(folder / "proc/cpuinfo", cpuinfo(spec))
    _write(folder / "proc/meminfo", _meminfo(spec))
    if spec.identity.boards:
        _write(folder / "proc/device-tree/model", f"{spec.identity.boards[0]}\0")
    for name in ("sys_vendor", "product_name"):
        _write(folder / "sys/class/dmi/id" / name, "")  # the host's are not the device's
    (folder / "sys/class/thermal").mkdir(
        parents=True
    )  # empty: the host's temperatures are not the device's
    (folder / "sys/class/powercap").mkdir(parents=True)
    _write_cpus(folder / "sys/devices/system/cpu", spec)
    return folder


def cpuinfo(spec: DeviceSpec) -> str:
    """`/proc/cpuinfo` as an arm64 kernel writes it: no model name, part numbers and features instead."""
    features = " ".join(cpu_features(spec.isa))
    blocks = []
    for number, cluster in enumerate(_cores(spec)):
        core = _arm_core(spec, cluster)
        blocks.append(
            f"processor\t: {number}\n"
            f"BogoMIPS\t: 108.00\n"
            f"Features\t: {features}\n"
            f"CPU implementer\t: {_ARM:#04x}\n"
            f"CPU architecture: 8\n"
            f"CPU variant\t: {core.variant:#x}\n"
            f"CPU part\t: {core.part:#05x}\n"
            f"CPU revision\t: {core.revision}\n"
        )
    return "\n".join(blocks) + "\n"


def cpu_features(isa: Isa) -> list[str]:
    """The kernel's names of what a core can do, as far as the device file tells."""
    later = not isa.level.startswith("ARMv8.0")
    told = {
        "atomics": later,
        "fphp": isa.fp16,
        "asimdhp": isa.fp16,
        "asimdrdm": later,
        "asimddp": isa.dot_product,
        "sve": isa.sve,
        "i8mm": isa.i8mm,
        "bf16": isa.bf16,
    }
    return [
        "fp",
        "asimd",
        "evtstrm",
        "crc32",
        "cpuid",
        *(name for name, there in told.items() if there),
    ]


def _cores(spec: DeviceSpec) -> list[Cluster]:
    """One entry a core; boards with two kinds of cores number the small ones first."""
    return [cluster for cluster in reversed(spec.clusters) for _ in range(int(cluster.cores.value))]


def _arm_core(spec: DeviceSpec, cluster: Cluster) -> ArmCore:
    core = ARM_CORES.get(cluster.core)
    if core is None:
        raise DeviceFileError(
            f"device {spec.name}: the part number of a {cluster.core} is not known; "
            f"known are {', '.join(ARM_CORES)}",
            hint="add it to ARM_CORES in edgedistil/core/cpu.py from Arm's technical reference manual",
        )
    return core


def _meminfo(spec: DeviceSpec) -> str:
    total, usable = spec.memory_bytes // 1024, usable_memory_bytes(spec) // 1024
    lines = {
        "MemTotal": total,
        "MemFree": usable,
        "MemAvailable": usable,
        "SwapTotal": 0,
        "SwapFree": 0,
    }
    return "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in lines.items())


def _write_cpus(folder: Path, spec: DeviceSpec) -> None:
    cores = _cores(spec)
    for name in ("possible", "present", "online"):
        _write(folder / name, _span(0, len(cores) - 1))
    first = 0
    for package, cluster in enumerate(reversed(spec.clusters)):
        last = first + int(cluster.cores.value) - 1
        for number in range(first, last + 1):
            _write_cpu(folder / f"cpu{number}", spec, cluster, package, number, _span(first, last))
        first = last + 1


def _write_cpu(
    folder: Path, spec: DeviceSpec, cluster: Cluster, package: int, number: int, siblings: str
) -> None:
    khz = f"{cluster.clock_ghz.value * 1e6:.0f}\n"
    for name in ("cpuinfo_max_freq", "scaling_max_freq"):
        _write(folder / "cpufreq" / name, khz)
    topology = {
        "core_id": f"{number}\n",
        "physical_package_id": f"{package}\n",
        "core_siblings_list": siblings,
        "thread_siblings_list": f"{number}\n",
    }
    for name, text in topology.items():
        _write(folder / "topology" / name, text)
    caches = spec.caches
    kinds = [("1", "Data", caches.l1d_kib.value, f"{number}\n")]
    kinds.append(
        ("2", "Unified", caches.l2_kib.value, siblings if caches.l2_shared else f"{number}\n")
    )
    for index, (level, kind, kib, shared) in enumerate(kinds):
        place = folder / "cache" / f"index{index}"
        for name, text in (
            ("level", f"{level}\n"),
            ("type", f"{kind}\n"),
            ("size", f"{kib:.0f}K\n"),
        ):
            _write(place / name, text)
        _write(place / "shared_cpu_list", shared)


def _span(first: int, last: int) -> str:
    return f"{first}-{last}\n" if last > first else f"{first}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

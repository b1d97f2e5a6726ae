"""Files of /proc and /sys of a device, for emulated processes.

onnxruntime reads /proc/cpuinfo and /sys/devices/system/cpu to learn which cores it runs on, and
aborts or picks other kernels if it sees the host's. `qemu-aarch64 -L PREFIX` redirects every path
that exists below PREFIX. So a device is one small folder of such files, with links to the sysroot
for everything else.
"""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.cpu import ARM_CORES, ArmCore
from edgedistil.core.device import Cluster, DeviceSpec, Isa
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.runtime.qemu.sysroot import Sysroot

# The kernel, firmware and services of a board without a desktop use the rest: a Raspberry Pi with
# 1 GB has 0.8 GB for one process.
USABLE_MEMORY_SHARE = 0.8
# `CPU implementer` of Arm Ltd. in /proc/cpuinfo.
_ARM_IMPLEMENTER = 0x41
_LINKED_FOLDERS = ("bin", "etc", "lib", "sbin", "usr")
# Cores of qemu that are no device's: `max` has every feature that qemu knows.
_GENERIC_CPUS = ("max", "host")


def emulated_cpu(spec: DeviceSpec) -> str:
    """Returns the `-cpu` of qemu for a device.

    Raises:
        InputError: The device is not a 64-bit ARM board.
        DeviceFileError: Its `qemu_cpu` is not a real core.
    """
    if spec.identity.machine != "aarch64" or spec.qemu_cpu is None:
        raise InputError(
            f"{spec.name} cannot be emulated: expected a 64-bit ARM device with qemu_cpu, got "
            f"{spec.identity.machine}",
            hint="without --emulate there is a prediction; on such a machine, use --device host",
        )
    if spec.qemu_cpu in _GENERIC_CPUS:
        raise DeviceFileError(
            f"device {spec.name}: qemu_cpu = '{spec.qemu_cpu}' has instructions that no board has, "
            f"and qemu 7.2 computes wrong int8 results with them",
            hint="expected the device's own core: cortex-a53, cortex-a72, cortex-a76, neoverse-n1",
        )
    return spec.qemu_cpu


def usable_memory_bytes(spec: DeviceSpec) -> int:
    """Returns the memory that a device has for one process, in bytes."""
    return int(spec.memory_bytes * USABLE_MEMORY_SHARE)


def build_guest_root(folder: Path, sysroot: Sysroot, spec: DeviceSpec) -> Path:
    """Fills and returns a folder that `qemu-aarch64 -L` shows as the device.

    Raises:
        DeviceFileError: A core of the device is not in `core.cpu.ARM_CORES`.
    """
    for name in _LINKED_FOLDERS:
        if (sysroot.root / name).exists():
            (folder / name).symlink_to(sysroot.root / name)
    _write(folder / "proc/cpuinfo", cpuinfo(spec))
    _write(folder / "proc/meminfo", _meminfo(spec))
    if spec.identity.boards:
        # The kernel ends strings of the device tree with a zero byte.
        _write(folder / "proc/device-tree/model", f"{spec.identity.boards[0]}\0")
    # Empty, so that the guest does not see the host's vendor, temperatures and energy counters:
    # they are not the device's.
    for name in ("sys_vendor", "product_name"):
        _write(folder / "sys/class/dmi/id" / name, "")
    for name in ("thermal", "powercap"):
        (folder / "sys/class" / name).mkdir(parents=True)
    _write_cpus(folder / "sys/devices/system/cpu", spec)
    return folder


# --- /proc ---------------------------------------------------------------------------------------


def cpuinfo(spec: DeviceSpec) -> str:
    """Returns /proc/cpuinfo of a device, as an arm64 kernel writes it.

    Such a kernel prints no model name: a core is identified by its part number and features.
    """
    features = " ".join(cpu_features(spec.isa))
    blocks = []
    for number, cluster in enumerate(_clusters_by_core(spec)):
        core = _find_core(spec, cluster)
        blocks.append(
            f"processor\t: {number}\n"
            f"BogoMIPS\t: 108.00\n"
            f"Features\t: {features}\n"
            f"CPU implementer\t: {_ARM_IMPLEMENTER:#04x}\n"
            f"CPU architecture: 8\n"
            f"CPU variant\t: {core.variant:#x}\n"
            f"CPU part\t: {core.part:#05x}\n"
            f"CPU revision\t: {core.revision}\n"
        )
    return "\n".join(blocks) + "\n"


def cpu_features(isa: Isa) -> list[str]:
    """Returns the kernel's names of the features that a device file describes."""
    # ARMv8.1 added atomics and the rounding multiplies together.
    is_later = not isa.level.startswith("ARMv8.0")
    optional = {
        "atomics": is_later,
        "fphp": isa.fp16,
        "asimdhp": isa.fp16,
        "asimdrdm": is_later,
        "asimddp": isa.dot_product,
        "sve": isa.sve,
        "i8mm": isa.i8mm,
        "bf16": isa.bf16,
    }
    # These five are on every 64-bit ARM board in devices/.
    features = ["fp", "asimd", "evtstrm", "crc32", "cpuid"]
    features += [name for name, present in optional.items() if present]
    return features


def _clusters_by_core(spec: DeviceSpec) -> list[Cluster]:
    """Returns the cluster of every core, by core number."""
    clusters: list[Cluster] = []
    # Device files list the fast cluster first; boards number the cores of the slow one first.
    for cluster in reversed(spec.clusters):
        clusters += [cluster] * int(cluster.cores.value)
    return clusters


def _find_core(spec: DeviceSpec, cluster: Cluster) -> ArmCore:
    core = ARM_CORES.get(cluster.core)
    if core is None:
        raise DeviceFileError(
            f"device {spec.name}: unknown core '{cluster.core}'; expected one of: "
            f"{', '.join(ARM_CORES)}",
            hint="add its part number to ARM_CORES in edgedistil/core/cpu.py, from Arm's technical "
            "reference manual",
        )
    return core


def _meminfo(spec: DeviceSpec) -> str:
    usable_kib = usable_memory_bytes(spec) // 1024
    values = {
        "MemTotal": spec.memory_bytes // 1024,
        "MemFree": usable_kib,
        "MemAvailable": usable_kib,
        # No swap: limits and figures are about resident memory.
        "SwapTotal": 0,
        "SwapFree": 0,
    }
    return "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in values.items())


# --- /sys ----------------------------------------------------------------------------------------


def _write_cpus(folder: Path, spec: DeviceSpec) -> None:
    """Writes /sys/devices/system/cpu."""
    count = len(_clusters_by_core(spec))
    for name in ("possible", "present", "online"):
        _write(folder / name, _core_range(0, count - 1))
    first = 0
    for package, cluster in enumerate(reversed(spec.clusters)):
        last = first + int(cluster.cores.value) - 1
        siblings = _core_range(first, last)
        for number in range(first, last + 1):
            _write_frequencies(folder / f"cpu{number}/cpufreq", cluster)
            _write_topology(folder / f"cpu{number}/topology", number, package, siblings)
            _write_caches(folder / f"cpu{number}/cache", spec, number, siblings)
        first = last + 1


def _write_frequencies(folder: Path, cluster: Cluster) -> None:
    khz = f"{cluster.clock_ghz.value * 1e6:.0f}\n"
    for name in ("cpuinfo_max_freq", "scaling_max_freq"):
        _write(folder / name, khz)


def _write_topology(folder: Path, number: int, package: int, siblings: str) -> None:
    _write(folder / "core_id", f"{number}\n")
    _write(folder / "physical_package_id", f"{package}\n")
    _write(folder / "core_siblings_list", siblings)
    _write(folder / "thread_siblings_list", f"{number}\n")


def _write_caches(folder: Path, spec: DeviceSpec, number: int, siblings: str) -> None:
    caches = spec.caches
    own = f"{number}\n"
    l2_cores = siblings if caches.l2_shared else own
    _write_cache(folder / "index0", "1", "Data", caches.l1d_kib.value, own)
    _write_cache(folder / "index1", "2", "Unified", caches.l2_kib.value, l2_cores)


def _write_cache(folder: Path, level: str, kind: str, kib: float, cores: str) -> None:
    _write(folder / "level", f"{level}\n")
    _write(folder / "type", f"{kind}\n")
    _write(folder / "size", f"{kib:.0f}K\n")
    _write(folder / "shared_cpu_list", cores)


def _core_range(first: int, last: int) -> str:
    """Returns a range of cores as the kernel prints it: `0-3`."""
    return f"{first}-{last}\n" if last > first else f"{first}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

"""Facts about processors: this machine's, and the table of ARM cores.

`/proc/cpuinfo` is read here and nowhere else on the host. `runtime/runner.py` has a reader of its
own because it is sent to boards as a single file; what it reports is interpreted here too.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

CPUINFO = Path("/proc/cpuinfo")
Pipeline = Literal["in-order", "out-of-order"]

# Feature, as the [isa] section of a device file calls it → flags of which one is enough.
ARM_FEATURES: Mapping[str, tuple[str, ...]] = {
    "dot_product": ("asimddp",),
    "i8mm": ("i8mm",),
    "fp16": ("asimdhp",),
    "bf16": ("bf16",),
    "sve": ("sve",),
}
X86_FEATURES: Mapping[str, tuple[str, ...]] = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "amx": ("amx_int8",),
}
# Instructions that multiply bfloat16, of either architecture.
BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
# Instructions that add four 8-bit products into 32 bits at once, of either architecture.
INT8_FLAGS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm"})

# int8 multiply-adds in the time of one of fp32, by the best feature that a core has. The kernels of
# onnxruntime use it; without any, products are widened to 16 bits.
_ARM_INT8_PRODUCTS = (("i8mm", 8), ("dot_product", 4))  # 32 and 16 an instruction, fmla 4
_X86_INT8_PRODUCTS = (("amx", 32), ("vnni", 4))  # 1,024 a cycle of TDPBUSD, two FMA 32
_WIDENING_PRODUCTS = 2


def is_arm(machine: str | None) -> bool:
    """Whether a machine name, as `uname -m` prints it, is that of a 64-bit ARM."""
    return (machine or "").lower() in {"aarch64", "arm64"}


def isa_features(machine: str | None, flags: Collection[str]) -> dict[str, bool]:
    """Instruction-set features of a processor, by their names in a device file.

    Args:
        machine: Machine name, as `uname -m` prints it.
        flags: Flags of /proc/cpuinfo.
    """
    table = ARM_FEATURES if is_arm(machine) else X86_FEATURES
    return {name: not set(flags).isdisjoint(any_of) for name, any_of in table.items()}


def int8_products(machine: str | None, features: Collection[str]) -> tuple[str, int]:
    """Returns int8 multiply-adds per multiply-add of fp32, and what they follow from.

    Args:
        machine: Machine name, as `uname -m` prints it.
        features: Features of the processor, by their names in a device file.
    """
    table = _ARM_INT8_PRODUCTS if is_arm(machine) else _X86_INT8_PRODUCTS
    for name, products in table:
        if name in features:
            return name, products
    return "widening products", _WIDENING_PRODUCTS


@dataclass(frozen=True)
class Cpu:
    """The processor of a machine, as its kernel describes it.

    Attributes:
        machine: Machine name, as `uname -m` prints it.
        name: Model name; the machine name where the kernel gives none, as on ARM.
        flags: Instruction-set flags; empty where the system has no /proc/cpuinfo.
    """

    machine: str
    name: str
    flags: frozenset[str]

    @property
    def is_arm(self) -> bool:
        return is_arm(self.machine)

    def has(self, feature: str) -> bool:
        """Whether the processor has a feature of a device file's [isa] section."""
        return isa_features(self.machine, self.flags).get(feature, False)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """First value of every key in /proc/cpuinfo, keys in lower case."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip().lower(), value.strip())
    return values


def read_cpu(path: Path = CPUINFO) -> Cpu:
    """Reads the processor from a file in the format of /proc/cpuinfo."""
    try:
        values = parse_cpuinfo(path.read_text(encoding="utf-8"))
    except OSError:
        values = {}  # not Linux
    return Cpu(
        machine=platform.machine(),
        name=values.get("model name") or platform.processor() or platform.machine(),
        flags=frozenset((values.get("flags") or values.get("features") or "").split()),
    )


@cache
def this_cpu() -> Cpu:
    """The processor of this machine, read once."""
    return read_cpu()


# --- ARM cores -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmCore:
    """A core design of Arm.

    Attributes:
        name: Name as Arm writes it and device files use it.
        part: Part number, the field `CPU part` of /proc/cpuinfo.
        variant: Major revision (the n of rnpm) on the boards in devices/.
        revision: Minor revision (the m of rnpm) on the boards in devices/.
        pipeline: Whether the core reorders instructions.
        qemu_cpu: Core of qemu 7.2 for which onnxruntime picks the same kernels.
    """

    name: str
    part: int
    variant: int
    revision: int
    pipeline: Pipeline
    qemu_cpu: str


# Part numbers, variants and revisions: Arm's technical reference manuals, register MIDR_EL1.
ARM_CORES: dict[str, ArmCore] = {
    core.name: core
    for core in (
        ArmCore("Cortex-A53", 0xD03, 0, 4, "in-order", "cortex-a53"),
        ArmCore("Cortex-A55", 0xD05, 2, 0, "in-order", "cortex-a55"),
        ArmCore("Cortex-A57", 0xD07, 1, 3, "out-of-order", "cortex-a57"),
        ArmCore("Cortex-A72", 0xD08, 0, 3, "out-of-order", "cortex-a72"),
        ArmCore("Cortex-A73", 0xD09, 0, 2, "out-of-order", "cortex-a72"),
        ArmCore("Cortex-A76", 0xD0B, 4, 1, "out-of-order", "cortex-a76"),
        ArmCore("Cortex-A78", 0xD41, 1, 1, "out-of-order", "cortex-a76"),
        ArmCore("Cortex-A78AE", 0xD42, 0, 1, "out-of-order", "cortex-a76"),
        ArmCore("Neoverse N1", 0xD0C, 3, 1, "out-of-order", "neoverse-n1"),
        ArmCore("Neoverse V1", 0xD40, 1, 1, "out-of-order", "neoverse-n1"),
    )
}


def find_arm_core(part: str | None) -> ArmCore | None:
    """The core with a part number as the kernel prints it (`0xd08`); None if it is unknown."""
    for core in ARM_CORES.values():
        if part is not None and part.lower() == f"{core.part:#05x}":
            return core
    return None

"""TOML → DeviceSpec: frozen, strict, with every problem told at once, and every figure with its source.

A figure in a device file is `{ value = 1.8, source = "where it is from" }` or `{ value = 10, assumed = "why that" }`:
nobody can later mistake a guess for a measurement. Whoever quantizes asks `spec.isa` (`spec.isa.dot_product`,
`spec.isa.vnni`), whoever predicts asks `spec.clusters`, `spec.caches`, `spec.memory`.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistil.core.errors import DeviceFileError
from edgedistil.core.recipe import tell_problems
from edgedistil.core.shipped import find_shipped, shipped_names

HOST = "host"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Figure(Section):
    """A positive figure, and either where it is from or why it was assumed."""

    value: Annotated[float, Field(gt=0)]
    source: Annotated[str, Field(min_length=3)] | None = None
    assumed: Annotated[str, Field(min_length=3)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers_too(cls, data: Any) -> Any:
        if isinstance(data, dict) and type(data.get("value")) is int:
            return {**data, "value": float(data["value"])}
        return data

    @model_validator(mode="after")
    def _told(self) -> Self:
        if (self.source is None) == (self.assumed is None):
            raise ValueError(
                "expected exactly one of source, assumed: a figure says where it is from"
            )
        return self

    @property
    def origin(self) -> str:
        return self.source if self.source is not None else f"assumed: {self.assumed}"


class Identity(Section):
    """How the machine names itself."""

    machine: Literal["aarch64", "x86_64"]
    boards: list[str] = Field(default=[], description="beginnings of /proc/device-tree/model")
    flags: list[str] = Field(default=[], description="x86: instruction-set flags that it must have")
    without_flags: list[str] = Field(default=[], description="x86: flags that it must not have")
    source: str


class Isa(Section):
    """Instruction-set features that decide which kernels run."""

    level: str = Field(description="ARMv8.0-A, x86-64-v3 …")
    dot_product: bool = Field(
        default=False, description="ARM: sdot and udot, four int8 products a lane"
    )
    i8mm: bool = Field(default=False, description="ARM: smmla, int8 matrix products")
    fp16: bool = Field(default=False, description="ARM: half-precision arithmetic")
    bf16: bool = False
    sve: bool = False
    avx2: bool = False
    avx512: bool = False
    vnni: bool = Field(
        default=False,
        description="x86: vpdpbusd; without it unsigned × signed saturates in 16 bits",
    )
    amx: bool = False
    source: str


class MacsPerCycle(Section):
    """Multiply-adds a cycle of one core, at most."""

    fp32: Figure
    int8: Figure
    fp16: Figure | None = None


class Cluster(Section):
    """Cores of one kind. The first cluster is the one that programs get first."""

    core: str = Field(description="Cortex-A72 …")
    pipeline: Literal["in-order", "out-of-order"]
    cores: Figure
    clock_ghz: Figure
    macs_per_cycle: MacsPerCycle

    @property
    def fp32_gmacs_per_s(self) -> float:
        """Peak of one core."""
        return self.macs_per_cycle.fp32.value * self.clock_ghz.value


class Caches(Section):
    l1d_kib: Figure = Field(description="of one core of the first cluster")
    l2_kib: Figure = Field(description="of one core, or of the first cluster where it is shared")
    l2_shared: bool
    l3_kib: Figure | None = None

    @property
    def last_level_bytes(self) -> float:
        return (self.l3_kib or self.l2_kib).value * 1024


class Memory(Section):
    size_gib: Figure = Field(description="of the model that the file is about")
    bandwidth_gb_per_s: Figure = Field(description="read by all cores, as STREAM measures it")
    one_core_gb_per_s: Figure
    page_kib: Figure


class ThreadScaling(Section):
    """Speed-up with 1, 2, 3 … threads, as onnxruntime reaches it on a transformer."""

    speedups: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    source: str | None = None
    assumed: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers_too(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("speedups"), list):
            speedups = [float(each) if type(each) is int else each for each in data["speedups"]]
            return {**data, "speedups": speedups}
        return data

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.source is None) == (self.assumed is None):
            raise ValueError("expected exactly one of source, assumed")
        if self.speedups[0] != 1:
            raise ValueError(
                f"the first speed-up is of one thread and must be 1; got {self.speedups[0]}"
            )
        return self

    def of(self, threads: int) -> float:
        """Speed-up with `threads`; beyond the last one known it does not grow."""
        return self.speedups[min(threads, len(self.speedups)) - 1]


class Runtime(Section):
    """Which onnxruntime runs there."""

    onnxruntime: str = Field(
        pattern=r"^>=\d+(\.\d+)*$", description="oldest version that is known to run: >=1.22"
    )
    refused: dict[str, str] = Field(
        default={}, description="version → why it must not be used there"
    )
    source: str


class DeviceSpec(Section):
    """One board, or one class of processors."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: str
    identity: Identity
    isa: Isa
    clusters: list[Cluster] = Field(min_length=1)
    caches: Caches
    memory: Memory
    thread_scaling: ThreadScaling
    runtime: Runtime
    qemu_cpu: str | None = Field(
        default=None, description="-cpu of qemu-user; none where emulation makes no sense"
    )
    notes: list[str] = []

    @property
    def cores(self) -> int:
        """Cores of the first cluster: what `all threads` means there."""
        return int(self.clusters[0].cores.value)

    @property
    def in_order(self) -> bool:
        return self.clusters[0].pipeline == "in-order"

    @property
    def memory_bytes(self) -> int:
        return int(self.memory.size_gib.value * 2**30)


def load_device(name: str | Path) -> DeviceSpec:
    """The device in a file: a path, or the name of one (`rpi4`); the user's own file wins over a shipped one.

    Raises:
        DeviceFileError: Unknown (did you mean …?), no TOML, or problems: all of them.
    """
    found = find_shipped("devices", str(name))
    if found is None:
        close = difflib.get_close_matches(str(name), [HOST, *device_names()], n=1, cutoff=0.5)
        advice = f"; did you mean '{close[0]}'?" if close else ""
        raise DeviceFileError(
            f"no device '{name}'{advice}",
            hint=f"there are: {', '.join([HOST, *device_names()])}; docs/adding-a-device.md tells how to add one",
        )
    try:
        data = tomllib.loads(found.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DeviceFileError(f"{found} is not UTF-8 text: byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise DeviceFileError(f"{found} is no TOML: {error}") from error
    return parse_device(data, where=str(name))


def parse_device(data: dict[str, Any], *, where: str) -> DeviceSpec:
    """A DeviceSpec from parsed TOML.

    Raises:
        DeviceFileError: One line a problem, all problems.
    """
    try:
        return DeviceSpec.model_validate(data)
    except ValidationError as error:
        raise DeviceFileError(f"device {where}: {tell_problems(error, DeviceSpec)}") from error


def dump_device(spec: DeviceSpec) -> str:
    """The device as TOML."""
    return tomlkit.dumps(spec.model_dump(mode="json", exclude_none=True))


def device_names() -> list[str]:
    """Names of the shipped and the user's own device files."""
    return shipped_names("devices")

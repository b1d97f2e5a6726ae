"""Device files: TOML files with the facts about a board or a class of processors.

Every figure is `{ value = 1.8, source = "..." }` or `{ value = 10, assumed = "..." }`, so that an
assumption cannot be mistaken for a measurement. Quantization reads `spec.isa`; prediction reads
`spec.clusters`, `spec.caches` and `spec.memory`. `edgedistil recipe explain --of device` prints the
descriptions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit
from pydantic import Field, model_validator

from edgedistil.core.cpu import Pipeline, int8_products
from edgedistil.core.echo import echo
from edgedistil.core.errors import DeviceFileError
from edgedistil.core.shipped import find_shipped, plain_name, shipped_names
from edgedistil.core.toml import StrictSection, did_you_mean, parse_section, read_toml

# The machine that the program runs on; it has no device file.
HOST = "host"

# More than any processor of today; a prediction has a row for each thread count.
_MAX_CORES = 4096
# Long enough to rule out an empty or one-letter source.
SourceText = Annotated[str, Field(min_length=3)]


class Figure(StrictSection):
    """A positive figure, and where it is from or why it was assumed."""

    written_as = "{ value, source or assumed }"

    # Wide enough for bytes and for seconds; outside of it, a prediction would overflow.
    value: Annotated[float, Field(ge=1e-9, le=1e15)] = Field(description="The figure.")
    source: SourceText | None = Field(None, description="Publication or measurement.")
    assumed: SourceText | None = Field(None, description="Reason for an assumed figure.")

    @model_validator(mode="before")
    @classmethod
    def _integers_to_floats(cls, data: Any) -> Any:
        """TOML's `4` is an integer, and strict mode does not convert it."""
        # `type` rather than isinstance, because bool is a subclass of int.
        if isinstance(data, dict) and type(data.get("value")) is int:
            return {**data, "value": float(data["value"])}
        return data

    @model_validator(mode="after")
    def _check_origin(self) -> Self:
        if (self.source is None) == (self.assumed is None):
            raise ValueError(
                "expected exactly one of source, assumed: every figure says where it is from"
            )
        return self

    @property
    def origin(self) -> str:
        """The source, or `assumed: ` and the reason."""
        if self.source is not None:
            return self.source
        return f"assumed: {self.assumed}"


class DeviceIdentity(StrictSection):
    """How the machine identifies itself."""

    machine: Literal["aarch64", "x86_64"] = Field(description="Machine name as `uname -m` prints.")
    boards: list[str] = Field([], description="Prefixes of /proc/device-tree/model.")
    flags: list[str] = Field([], description="x86: flags of /proc/cpuinfo that it has.")
    without_flags: list[str] = Field([], description="x86: flags that it does not have.")
    source: str = Field(description="Where these names are from.")


class Isa(StrictSection):
    """Instruction-set features that decide which kernels run."""

    level: str = Field(description="Architecture version, such as ARMv8.0-A or x86-64-v3.")
    # Names of the features as in core/cpu.py; a test compares them.
    dot_product: bool = Field(
        False, description="ARM: sdot and udot, four int8 products per 32-bit lane."
    )
    i8mm: bool = Field(False, description="ARM: smmla, int8 matrix products.")
    fp16: bool = Field(False, description="ARM: arithmetic in float16.")
    bf16: bool = Field(False, description="ARM: bfloat16 dot and matrix products.")
    sve: bool = Field(False, description="ARM: scalable vectors.")
    avx2: bool = Field(False, description="x86: 256-bit integer vectors.")
    avx512: bool = Field(False, description="x86: 512-bit vectors (AVX-512F).")
    vnni: bool = Field(
        False,
        description="x86: vpdpbusd; without it, unsigned × signed products saturate in 16 bits.",
    )
    amx: bool = Field(False, description="x86: int8 matrix tiles.")
    source: str = Field(description="Where the features are from.")


class MacsPerCycle(StrictSection):
    """Peak multiply-adds per cycle of one core, which no product exceeds."""

    fp32: Figure = Field(description="Multiply-adds in float32.")
    int8: Figure | None = Field(
        None,
        description="Multiply-adds of int8 products; absent where fp32 and instruction set imply "
        "them.",
    )
    fp16: Figure | None = Field(None, description="Multiply-adds in float16.")


class Cluster(StrictSection):
    """Cores of one kind; programs run on the first cluster first."""

    core: str = Field(description="Core design, such as Cortex-A72.")
    pipeline: Pipeline = Field(description="Whether the core reorders instructions.")
    cores: Figure = Field(description="Number of cores.")
    clock_ghz: Figure = Field(description="Clock with all cores busy, in GHz.")
    macs_per_cycle: MacsPerCycle = Field(description="Peak multiply-adds per cycle of one core.")

    @model_validator(mode="after")
    def _check_cores(self) -> Self:
        if self.cores.value not in range(1, _MAX_CORES + 1):
            raise ValueError(
                f"cores is {self.cores.value:g}: expected an integer from 1 to {_MAX_CORES}"
            )
        return self


class Caches(StrictSection):
    """Sizes of the data caches."""

    l1d_kib: Figure = Field(description="L1 data cache of one core of the first cluster, in KiB.")
    l2_kib: Figure = Field(
        description="L2 cache in KiB: of one core, or of the first cluster if it is shared."
    )
    l2_shared: bool = Field(description="Whether the cores of a cluster share the L2 cache.")
    l3_kib: Figure | None = Field(None, description="L3 cache in KiB.")

    @property
    def last_level_bytes(self) -> float:
        """Size of the cache next to memory."""
        return (self.l3_kib or self.l2_kib).value * 1024


class DeviceMemory(StrictSection):
    """Size and bandwidth of the main memory."""

    size_gib: Figure = Field(description="Size in GiB of the model that the file is about.")
    bandwidth_gb_per_s: Figure = Field(
        description="Bandwidth of all cores in GB/s, as STREAM measures it."
    )
    one_core_gb_per_s: Figure = Field(description="Bandwidth of one core in GB/s.")
    page_kib: Figure = Field(description="Page size in KiB.")


class ThreadScaling(StrictSection):
    """Speed-up of large float32 MatMuls with 1, 2, 3, ... threads, as onnxruntime reaches it."""

    speedups: list[Annotated[float, Field(ge=0.01, le=_MAX_CORES)]] = Field(
        min_length=1,
        max_length=_MAX_CORES,
        description="Speed-up with 1, 2, 3, ... threads; the first is 1.",
    )
    source: str | None = Field(None, description="Publication or measurement.")
    assumed: str | None = Field(None, description="Reason for assumed figures.")

    @model_validator(mode="before")
    @classmethod
    def _integers_to_floats(cls, data: Any) -> Any:
        """TOML's `1` is an integer, and strict mode does not convert it."""
        if not isinstance(data, dict) or not isinstance(data.get("speedups"), list):
            return data
        # bool, a subclass of int, stays as it is and is refused.
        speedups = [
            float(speedup) if type(speedup) is int else speedup for speedup in data["speedups"]
        ]
        return {**data, "speedups": speedups}

    @model_validator(mode="after")
    def _check_origin_and_first(self) -> Self:
        if (self.source is None) == (self.assumed is None):
            raise ValueError("expected exactly one of source, assumed")
        if self.speedups[0] != 1:
            raise ValueError(
                f"the first speed-up is of one thread and must be 1; got {self.speedups[0]}"
            )
        return self

    def of(self, threads: int) -> float:
        """Speed-up with `threads`; constant beyond the last known count."""
        return self.speedups[min(threads, len(self.speedups)) - 1]


class Runtime(StrictSection):
    """Versions of onnxruntime that run on the device."""

    onnxruntime: str = Field(
        pattern=r"^>=[0-9]{1,6}(\.[0-9]{1,6}){0,3}$",
        description="Oldest version that is known to run: >=1.22.",
    )
    # Releases that start on other machines of the architecture but crash on this one.
    refused: dict[str, str] = Field(
        {}, description="Version → why it must not be used on the device."
    )
    source: str = Field(description="Where the versions are from.")


class DeviceSpec(StrictSection):
    """One board, or one class of processors."""

    # Part of the names of files and tables.
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,59}$")] = Field(
        description="Name on the command line: lower-case letters, digits, '.', '-'."
    )
    title: str = Field(description="Name for people.")
    identity: DeviceIdentity = Field(description="How the machine identifies itself.")
    isa: Isa = Field(description="Instruction-set features that decide which kernels run.")
    clusters: list[Cluster] = Field(
        min_length=1, description="Kinds of cores; programs run on the first one first."
    )
    caches: Caches = Field(description="Sizes of the data caches.")
    memory: DeviceMemory = Field(description="Size and bandwidth of the main memory.")
    thread_scaling: ThreadScaling = Field(description="Speed-up by number of threads.")
    runtime: Runtime = Field(description="Versions of onnxruntime that run on the device.")
    qemu_cpu: str | None = Field(
        None, description="-cpu of qemu-user; absent if the device cannot be emulated."
    )
    notes: list[str] = Field([], description="Remarks for people.")

    @property
    def cores(self) -> int:
        """Cores of the first cluster; "all threads" means this many."""
        return int(self.clusters[0].cores.value)

    @property
    def in_order(self) -> bool:
        """Whether the first cluster executes instructions in order."""
        return self.clusters[0].pipeline == "in-order"

    def macs_per_cycle(self, arithmetic: Literal["fp32", "int8"]) -> float:
        """Peak multiply-adds per cycle of one core of the first cluster."""
        return (
            self.int8_figure(self.clusters[0]).value
            if arithmetic == "int8"
            else (self.clusters[0].macs_per_cycle.fp32.value)
        )

    def int8_figure(self, cluster: Cluster) -> Figure:
        """int8 multiply-adds of a cluster: its own figure, or what the instruction set does."""
        peak = cluster.macs_per_cycle
        if peak.int8 is not None:
            return peak.int8
        features = {name for name, value in self.isa if value is True}
        name, products = int8_products(self.identity.machine, features)
        return Figure(
            value=products * peak.fp32.value,
            source=f"{name}: {products} int8 products for each of fp32",
        )

    @property
    def memory_bytes(self) -> int:
        """Size of the main memory."""
        return int(self.memory.size_gib.value * 2**30)


def load_device(name: str | Path) -> DeviceSpec:
    """Reads a device file, or a shipped one by its name (`rpi4`).

    Args:
        name: Path or name; the user's own file has precedence over a shipped one.
    Raises:
        DeviceFileError: The device is unknown ("did you mean"), or its file is not valid TOML or
            has problems; all of them are listed.
    """
    file = find_shipped("devices", str(name))
    if file is None:
        names = [HOST, *device_names()]
        advice = did_you_mean(plain_name("devices", str(name)), names)
        raise DeviceFileError(
            f"unknown device '{echo(name)}'{advice}",
            hint=f"expected one of: {', '.join(names)}; "
            "docs/adding-a-device.md explains how to add one",
        )
    return parse_device(read_toml(file, error=DeviceFileError), where=str(name))


def parse_device(data: dict[str, Any], *, where: str) -> DeviceSpec:
    """Returns the device in parsed TOML.

    Raises:
        DeviceFileError: All problems, one line for each.
    """
    return parse_section(DeviceSpec, data, where=f"device {where}", error=DeviceFileError)


def dump_device(spec: DeviceSpec) -> str:
    """The device as TOML."""
    return tomlkit.dumps(spec.model_dump(mode="json", exclude_none=True))


def device_names() -> list[str]:
    """Names of the shipped and the user's own device files."""
    return shipped_names("devices")

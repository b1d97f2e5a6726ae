"""Facts that a machine reports about itself, with bounds on what can be true.

Parts of a reply (`protocol`), which is untrusted input where it comes from a board.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from edgedistil.core.records import Record

NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0)]
# Bounds of what a machine can plausibly report: 11 days, a pebibyte, 100 GHz.
Nanoseconds = Annotated[int, Field(ge=0, le=10**15)]
# No call takes no time.
CallNanoseconds = Annotated[int, Field(gt=0, le=10**15)]
ByteCount = Annotated[int, Field(ge=0, le=2**50)]
EventCount = Annotated[int, Field(ge=0, le=2**53)]
Cores = Annotated[int, Field(gt=0, le=2**16)]
Megahertz = Annotated[float, Field(ge=0, le=100_000)]
# Some sensors report the smallest 32-bit integer of milli-degrees when they are absent.
Celsius = Annotated[float, Field(ge=-1e7, le=1e7)]
BytesPerSecond = Annotated[float, Field(gt=0, le=1e15)]
Text = Annotated[str, Field(max_length=1000)]
# Messages of the runtime, and names of nodes.
LongText = Annotated[str, Field(max_length=20_000)]
# No list of facts or names is longer.
MOST_FACTS = 10_000


class ReplyPart(Record):
    """Part of a reply; unlike other records it accepts unknown fields."""

    # A runner that is newer than this host may report more.
    model_config = ConfigDict(extra="ignore")


class CacheFacts(ReplyPart):
    """One cache of the first core."""

    level: NonNegativeInt
    kind: Text = Field(description="Data, Instruction, Unified")
    bytes: ByteCount
    shared_by: Text = Field(description="cores, as the kernel lists them: 0-3")


class MachineIdentity(ReplyPart):
    """Description of a machine by its own kernel and Python."""

    machine: Text | None = None
    system: Text | None = None
    kernel: Text | None = None
    python: Text | None = None
    numpy: Text | None = None
    onnxruntime: Text | None = None
    openvino: Text | None = None
    providers: list[Text] = Field(default=[], max_length=MOST_FACTS)
    board: Text | None = Field(default=None, description="/proc/device-tree/model")
    cpu: Text | None = None
    cpu_part: Text | None = Field(
        default=None, description="ARM's part number: 0xd08 is a Cortex-A72"
    )
    flags: list[Text] = Field(
        default=[],
        max_length=MOST_FACTS,
        description="instruction-set flags of /proc/cpuinfo",
    )
    cores: Cores | None = Field(default=None, description="logical cores of the machine")
    cores_allowed: Cores | None = Field(
        default=None, description="logical cores that the runner may run on (its affinity)"
    )
    usable_threads: Cores | None = Field(
        default=None,
        description="allowed physical cores of the fastest kind, as far as a CPU quota reaches",
    )
    cpu_quota: Annotated[float, Field(gt=0, le=2**16)] | None = Field(
        default=None, description="cores that the control groups allow, such as 1.5"
    )
    page_bytes: ByteCount | None = None
    clock_max_mhz: Megahertz | None = None
    caches: list[CacheFacts] = Field(default=[], max_length=MOST_FACTS)
    memory_bytes: ByteCount | None = None
    memory_available_bytes: ByteCount | None = None
    swap_used_bytes: ByteCount | None = None


class Condition(ReplyPart):
    """Clock, temperature and throttling at one moment."""

    governor: Text | None = None
    clock_mhz: list[Megahertz] | None = Field(default=None, max_length=2**16)
    temperature_c: dict[Text, Celsius] | None = Field(default=None, max_length=MOST_FACTS)
    throttled_bits: EventCount | None = Field(
        default=None, description="vcgencmd get_throttled; bits 0-3 are now, 16-19 since boot"
    )
    throttle_count: EventCount | None = Field(
        default=None, description="x86: thermal throttling events since boot, all cores"
    )
    load_1min: Annotated[float, Field(ge=0, le=1e6)] | None = None
    memory_available_bytes: ByteCount | None = None

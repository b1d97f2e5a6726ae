"""Job and reply, the messages between the host and a runner.

A job is a JSON object in a folder with the files it names; a reply is one JSON object. runner.py is
the other end. Times are raw nanoseconds of every call, memory is in bytes. A field that a machine
does not report is missing, never 0. A reply from a board is untrusted input: every figure and text
has bounds here, and reply.py compares it with the job.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field

from edgedistil.core.records import Record
from edgedistil.core.session import SessionOptions
from edgedistil.runtime.machine_facts import (
    MOST_FACTS,
    ByteCount,
    BytesPerSecond,
    CallNanoseconds,
    Condition,
    Cores,
    EventCount,
    LongText,
    MachineIdentity,
    Nanoseconds,
    NonNegativeInt,
    PositiveInt,
    ReplyPart,
    Text,
)

RUNNER = Path(__file__).with_name("runner.py")
# Environment variable of the process id that a runner ends with; runner.py has the same name.
PARENT_ENV = "EDGEDISTIL_PARENT_PID"
# Key of onnxruntime's `add_session_config_entry`.
_STOP_SPINNING = "session.force_spinning_stop"

Phase = Literal["steady", "outputs", "energy", "ops", "clock", "bandwidth", "trace", "sustained"]


# --- host → runner -------------------------------------------------------------------------------


RuntimeName = Literal["onnxruntime", "openvino"]
# OpenVINO's `INFERENCE_PRECISION_HINT`.
Arithmetic = Literal["f32", "bf16"]


class JobModel(Record):
    """One model of a job."""

    file: str = Field(
        description="path of the graph, relative to the job's folder; external data is next to it"
    )
    session: SessionOptions = Field(
        default=SessionOptions(), description="0 threads: as many as the job has"
    )
    inputs: dict[str, str] = Field(
        default={}, description="graph's name of an input → name in the npz, where they differ"
    )
    batch: PositiveInt = Field(
        default=1, description="sequences per call, for graphs with a fixed batch: the row repeats"
    )
    key_prefix: str = Field(
        default="",
        description="before the keys of this model's inputs in the npz, where models of a job have "
        "different tokenizers",
    )
    runtime: RuntimeName = "onnxruntime"
    arithmetic: Arithmetic = Field(
        default="f32", description="of what is not int8, in OpenVINO; onnxruntime has its graph's"
    )


class Case(Record):
    """Inputs that are timed together.

    `steady` cycles through them until both minima are met, `pass` goes through them once.
    """

    name: str
    keys: list[str] = Field(
        min_length=1, description="inputs in the npz: arrays are named KEY/INPUT, or packed"
    )
    mode: Literal["steady", "pass"] = "steady"
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        description="limit of a pass: it ends there, and the reply reports it as truncated",
    )


class Alternation(Record):
    """Alternating blocks of calls of two models on the same inputs.

    Each block begins with an untimed call, which brings the model's weights back into the cache.
    """

    name: str
    first: str = Field(description="label of a model, the teacher in a speed claim")
    second: str
    keys: list[str] = Field(min_length=1)
    blocks: PositiveInt = 20
    calls_per_block: PositiveInt = 5
    max_seconds: float = Field(default=60, gt=0)


class Job(Record):
    """Models, inputs, phases and budgets that a machine runs.

    Without `isolate`, the runner works in its own process, for machines where a process cannot
    start another one (an emulator without binfmt). Then `start_to_first_result_ns` is missing, and
    a crash leaves the reply as it was when the last phase started: `phase` names it, but `ok` is
    still true, and only the exit status reports the crash.
    """

    format: Literal[1] = 1
    models: dict[str, JobModel] = Field(
        min_length=1, description="by label; memory figures need one model per job"
    )
    inputs: str = "inputs.npz"
    cases: list[Case] = Field(
        min_length=1, description="the first key of the first case is the first call"
    )
    alternate: list[Alternation] = Field(default=[])
    phases: list[Phase] = Field(default=["steady"])
    threads: PositiveInt = 1
    # Budget of a steady case.
    warmup_calls: NonNegativeInt = 3
    warmup_seconds: float = Field(
        default=0.3,
        ge=0,
        description="timed calls begin after this time of calls without a pause: a governor has "
        "raised the clock by then",
    )
    min_calls: PositiveInt = 20
    min_seconds: float = Field(default=0.5, ge=0)
    desired_calls: NonNegativeInt = Field(
        default=0, description="calls beyond the minima, as far as `desired_seconds` allow"
    )
    desired_seconds: float = Field(default=0, ge=0)
    max_seconds: float = Field(
        default=10,
        gt=0,
        description="limit of a steady case with at least 5 calls, even below its minima",
    )
    # Process of the worker.
    timeout_seconds: float | None = Field(
        default=None, description="the supervisor kills the worker after this time"
    )
    isolate: bool = True
    pin_unlike_cores: bool = Field(
        default=True, description="where cores differ, run on the fastest ones only"
    )
    memory_limit_bytes: PositiveInt | None = Field(
        default=None, description="RLIMIT_AS of the worker"
    )
    private_memory_bytes: PositiveInt | None = Field(
        default=None, description="RLIMIT_DATA of the worker: memory of its own, without files"
    )
    first_result_seconds: float | None = Field(
        default=None,
        gt=0,
        description="limit for loading a model and its first call together",
    )
    guest_range: tuple[NonNegativeInt, NonNegativeInt] | None = Field(
        default=None,
        description="count resident memory only between these addresses (an emulated process)",
    )
    # Phases after the timed calls.
    outputs: str | None = Field(
        default=None, description="npz that the phase `outputs` writes: arrays LABEL/KEY/OUTPUT"
    )
    output_keys: list[str] | None = Field(
        default=None, description="inputs whose outputs are written; all if missing"
    )
    ops_calls: PositiveInt = 10
    ops_keys: list[str] | None = None
    energy_seconds: float = Field(default=2, gt=0)
    sustained_seconds: float | None = Field(
        default=None, gt=0, description="duration of the phase `sustained`"
    )

    def to_json(self) -> str:
        """Returns the text of job.json, with session options in onnxruntime's own names.

        So the runner can apply them without a list of options of its own.
        """
        data = self.model_dump(mode="json")
        for label, model in self.models.items():
            data["models"][label]["session"] = self._session_settings(model)
        return json.dumps(data, allow_nan=False)

    def _session_settings(self, model: JobModel) -> dict[str, Any]:
        threads = model.session.threads or self.threads
        session = replace(model.session, threads=threads)
        entries = session.config_entries()
        # All models of a job are loaded at once: the threads of the idle ones must not spin during
        # the calls of the other.
        if self.alternate:
            entries[_STOP_SPINNING] = "1"
        return {"options": session.attributes(), "config_entries": entries}


# --- runner → host -------------------------------------------------------------------------------


class Failure(ReplyPart):
    """Reason and phase of a job's failure: 'load student-…', 'steady …'."""

    kind: Literal["memory", "exception", "signal", "exit", "timeout"]
    phase: Text
    message: LongText
    details: LongText = ""
    signal: Text | None = None
    status: int | None = None


class PageFaults(ReplyPart):
    """Page faults of a process during one phase."""

    minor: EventCount
    major: EventCount


class PhaseMemory(ReplyPart):
    """Resident bytes after each phase of a fresh process."""

    start: ByteCount | None = None
    # `import` is a keyword of Python.
    imported: ByteCount | None = Field(default=None, alias="import")
    inputs: ByteCount | None = None
    load: ByteCount | None = None
    first_call: ByteCount | None = None
    run: ByteCount | None = None
    anonymous: ByteCount | None = Field(
        default=None, description="part of `run` that is the process's own"
    )
    file: ByteCount | None = Field(
        default=None, description="part of `run` that is mapped from files, and can be dropped"
    )
    pss: ByteCount | None = Field(
        default=None,
        description="`run`, with shared pages divided by the processes that share them",
    )
    peak_before_pass: Annotated[ByteCount, Field(gt=0)] | None = None
    peak: Annotated[ByteCount, Field(gt=0)] | None = None


class Interference(ReplyPart):
    """What the system did to the runner's process during a series of timed calls."""

    involuntary_switches: EventCount | None = Field(
        default=None, description="times that a thread had to leave its core, all threads"
    )
    waiting_ns: EventCount | None = Field(
        default=None, description="time that threads waited for a core, all threads"
    )
    stolen_ns: EventCount | None = Field(
        default=None, description="time that a hypervisor took from the allowed cores"
    )
    throttled_periods: EventCount | None = Field(
        default=None, description="times that a CPU quota stopped the process"
    )


class CaseTimes(ReplyPart):
    """Raw times of one case."""

    # More than a pass over any workload has; bounds what a reply can make this host allocate.
    samples_ns: Annotated[list[CallNanoseconds], FailFast()] = Field(max_length=2_000_000)
    wall_ns: Nanoseconds
    cpu_ns: EventCount
    faults: PageFaults
    interference: Interference = Interference()
    truncated: bool = Field(description="max_seconds ended it before min_calls")


class NodeTime(ReplyPart):
    """Time of one node, summed over the profiled calls."""

    node: LongText
    op: Text
    calls: EventCount
    total_us: Nanoseconds


class ExecutedNode(ReplyPart):
    """One node as the runtime executed it; shapes by element type, as its profiler reports them."""

    node: LongText
    op: Text
    inputs: list[dict[str, list[EventCount]]]
    outputs: list[dict[str, list[EventCount]]]


class Energy(ReplyPart):
    """Energy of a series of calls, or why it is absent."""

    absent: Text | None = None
    counter: Text | None = None
    joules: Annotated[float, Field(ge=0, le=1e9)] | None = None
    calls: EventCount | None = None
    wall_ns: Nanoseconds | None = None


class SustainedTimes(ReplyPart):
    """Calls of the first and the last minute of a long series; its halves if it is short."""

    first_ns: Annotated[list[CallNanoseconds], FailFast()] = Field(
        min_length=1, max_length=2_000_000
    )
    last_ns: Annotated[list[CallNanoseconds], FailFast()] = Field(
        min_length=1, max_length=2_000_000
    )
    window_seconds: Annotated[float, Field(gt=0, le=60)]
    calls: EventCount = Field(description="of the complete series")
    wall_ns: Nanoseconds
    cpu_ns: EventCount
    interference: Interference = Interference()
    before: Condition = Condition()
    after: Condition = Condition()


class ModelResult(ReplyPart):
    """Everything observed of one model."""

    memory: PhaseMemory = PhaseMemory()
    load_ns: CallNanoseconds | None = None
    load_cpu_ns: Nanoseconds | None = None
    load_faults: PageFaults | None = None
    first_call_ns: CallNanoseconds | None = None
    start_to_first_result_ns: CallNanoseconds | None = Field(
        default=None, description="from the start of the process; isolated jobs only"
    )
    cases: dict[Text, CaseTimes] = Field(default={}, max_length=MOST_FACTS)
    ops: list[NodeTime] = Field(default=[])
    runs: list[list[ExecutedNode]] = Field(
        default=[], description="nodes of each run of the phase `trace`"
    )
    energy: Energy | None = None
    sustained: SustainedTimes | None = None


class Block(ReplyPart):
    """Times of one block of calls of either model."""

    first_ns: list[CallNanoseconds] = Field(min_length=1, max_length=MOST_FACTS)
    second_ns: list[CallNanoseconds] = Field(min_length=1, max_length=MOST_FACTS)


class AlternationResult(ReplyPart):
    """Blocks of one `Alternation`."""

    name: Text
    first: Text
    second: Text
    blocks: list[Block] = Field(min_length=1, max_length=MOST_FACTS)
    wall_ns: Nanoseconds = Field(description="of all blocks, untimed calls included")
    cpu_ns: EventCount
    interference: Interference = Interference()


class Bandwidth(ReplyPart):
    """Bytes per second of large reads."""

    one_core: BytesPerSecond
    all_cores: BytesPerSecond
    threads: Cores


class OutputsFile(ReplyPart):
    """The npz that the phase `outputs` wrote."""

    file: Text
    sha256: Text
    arrays: EventCount


class Reply(ReplyPart):
    """Everything that a runner observed.

    If `ok` is false, `error` is the reason, and what was observed before it is still here.
    """

    format: Literal[1]
    ok: bool
    error: Failure | None = None
    phase: Text
    runner_sha256: Text
    identity: MachineIdentity = MachineIdentity()
    before: Condition = Condition()
    after: Condition | None = None
    pinned_cores: list[NonNegativeInt] | None = Field(
        default=None, max_length=2**16, description="where the cores of the machine differ"
    )
    other_load: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="mean number of other runnable tasks before the timed calls"
    )
    import_ns: Nanoseconds | None = None
    models: dict[Text, ModelResult] = Field(default={}, max_length=MOST_FACTS)
    alternation: list[AlternationResult] = Field(default=[], max_length=MOST_FACTS)
    outputs: OutputsFile | None = None
    clock_ghz: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None, description="measured; null where it cannot be"
    )
    bandwidth: Bandwidth | None = None
    conditions: dict[Text, Text] = Field(
        default={},
        max_length=MOST_FACTS,
        description="set by a target, not by the runner: facts about the run (kernels, guest cpu), "
        "in words",
    )

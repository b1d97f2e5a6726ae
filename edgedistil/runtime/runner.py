#!/usr/bin/env python3
"""Runs ONNX models as a job describes and writes a reply.

    python3 runner.py JOB.json REPLY.json

One self-contained file for Python 3.9 or newer with numpy and onnxruntime: it is sent to boards.
A model of a job may name OpenVINO instead of onnxruntime; only what a job names is imported.
`protocol.py` defines the job and the reply, field by field; this file cannot import it. All times
are raw nanoseconds of every call: percentiles and verdicts are computed on the host, by one
implementation (docs/decisions.md#one-runner-file-raw-nanoseconds-statistics-on-the-host).

The runner supervises itself: it starts a second process for the work (`--worker`), so that a crash,
a kill or an out-of-memory of the runtime still produces a reply with an `error` and everything that
was observed before. Exit status 0: a reply was written, whether the job succeeded or not. Exit
status 2: the job could not be read or the reply could not be written.
"""

from __future__ import annotations

import ctypes
import gc
import glob
import hashlib
import json
import math
import mmap
import os
import platform
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

FORMAT = 1
# A steady case makes this many calls even after its time is over: a median needs them, and an
# emulated board makes three in 10 s (docs/log.md#duration-over-ssh).
MIN_MEDIAN_CALLS = 5
# A core with less than this share of the best one's capacity is of another kind: the clocks of
# equal cores differ by a few percent, an A55 has 0.4 of an A76, Intel's E cores 0.6 of a P core.
LIKE_CORES = 0.8
# Runtimes of a job's models.
ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
STARTED_ENV = "EDGEDISTIL_STARTED_NS"
# Process that this one must not outlive; not set on boards, where `timeout` starts the runner.
PARENT_ENV = "EDGEDISTIL_PARENT_PID"
# Attributes of onnxruntime's `SessionOptions` whose values are members of an enumeration; a job has
# the names of the members.
ENUMERATIONS = {
    "graph_optimization_level": "GraphOptimizationLevel",
    "execution_mode": "ExecutionMode",
}
# Dependent additions in one loop of the clock measurement: the loop's own two instructions are then
# at most 3% of its cycles.
ADDITIONS_PER_LOOP = 64
# Axes of the inputs of multiple choice: questions, choices, tokens.
CHOICES_RANK = 3
# Types of graph inputs that token ids, masks and segments can be converted to.
INPUT_TYPES = {
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}

# OpenVINO's names of these types.
OPENVINO_TYPES = {
    "i64": "tensor(int64)",
    "i32": "tensor(int32)",
    "i16": "tensor(int16)",
    "i8": "tensor(int8)",
    "u8": "tensor(uint8)",
    "boolean": "tensor(bool)",
    "f32": "tensor(float)",
    "f16": "tensor(float16)",
}


def main(arguments: list[Any]) -> int:
    """Runs the supervisor, or the worker after `--worker`; returns the exit status."""
    is_worker = arguments[:1] == ["--worker"]
    paths = arguments[1:] if is_worker else arguments
    if len(paths) != 2:
        print("usage: python3 runner.py JOB.json REPLY.json", file=sys.stderr)
        return 2
    job_path, reply_path = os.path.abspath(paths[0]), os.path.abspath(paths[1])
    end_with_parent()
    try:
        with open(job_path, encoding="utf-8") as file:
            job = json.load(file)
    except (OSError, ValueError) as error:
        print(f"cannot read the job {job_path}: {error}", file=sys.stderr)
        return 2
    # The worker, and a job without isolation, run in this process.
    try:
        if is_worker or not job.get("isolate", True):
            reply = Worker(job, os.path.dirname(job_path), reply_path).run()
        else:
            reply = supervise(job, job_path, reply_path)
        write_json(reply_path, reply)
    except OSError as error:
        print(f"cannot write the reply {reply_path}: {error}", file=sys.stderr)
        return 2
    return 0


def end_with_parent() -> None:
    """Asks the kernel (Linux) to kill this process when the one that started it ends.

    Otherwise a job would run on after its supervisor, or the command, was killed.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
    # Python may have been built without ctypes, and other systems have no such call.
    except (ImportError, OSError, AttributeError):
        pass
    # The parent may have ended before: then this process already has another one.
    expected = os.environ.get(PARENT_ENV)
    if expected and os.getppid() != int(expected):
        sys.exit(2)


# --- the supervisor ------------------------------------------------------------------------------


def supervise(job: dict[str, Any], job_path: str, reply_path: str) -> dict[str, Any]:
    """Runs the job in a fresh process and returns its reply.

    If the process dies, the reply is what it had written before, with an `error` that describes how
    it ended.
    """
    partial_path = reply_path + ".part"
    environment = dict(os.environ)
    with tempfile.TemporaryFile() as stderr:
        # The last moment before the start: the worker reports its time to the first result.
        environment[STARTED_ENV] = str(monotonic_ns())
        environment[PARENT_ENV] = str(os.getpid())
        # stderr goes to a file: a full pipe would block a runtime that prints much.
        child = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--worker", job_path, partial_path],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        # A supervisor that is terminated must not leave its worker running on the board.
        previous_handlers = {
            number: signal.signal(number, lambda *_: child.kill())
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            status = child.wait(timeout=job.get("timeout_seconds"))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            status = None
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)
        stderr.seek(0)
        printed = stderr.read()[-4000:].decode("utf-8", "replace").strip()
    # An abnormal end becomes the error of whatever the worker had written.
    reply = read_partial_reply(partial_path)
    set_exit_error(reply, status, printed, job)
    if os.path.exists(partial_path):
        os.unlink(partial_path)
    return reply


def set_exit_error(reply: dict[str, Any], status: Any, printed: str, job: dict[str, Any]) -> None:
    """Marks a reply as failed if its worker was killed (status None) or exited abnormally."""
    if status is None:
        message = f"the worker process did not finish within {job.get('timeout_seconds')} s"
        set_error(reply, "timeout", message, printed)
    elif status == -signal.SIGALRM:
        message = f"no result within {job.get('first_result_seconds'):.0f} s"
        set_error(reply, "timeout", message, printed)
    elif status < 0:
        name = signal_name(-status)
        message = f"the worker process was terminated by {name}"
        set_error(reply, "signal", message, printed, signal=name)
    elif status > 0:
        message = f"the worker process exited with status {status}"
        set_error(reply, "exit", message, printed, status=status)


def read_partial_reply(path: str) -> dict[str, Any]:
    """Reads what a worker wrote; an empty reply if it wrote nothing."""
    try:
        with open(path, encoding="utf-8") as file:
            reply: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return new_reply()
    return reply


def new_reply() -> dict[str, Any]:
    """Returns a reply in which nothing was observed yet."""
    with open(os.path.abspath(__file__), "rb") as file:
        runner_sha256 = hashlib.sha256(file.read()).hexdigest()
    return {
        "format": FORMAT,
        "ok": True,
        "error": None,
        "phase": "start",
        "runner_sha256": runner_sha256,
        "models": {},
    }


def set_error(reply: dict[str, Any], kind: str, message: str, details: str, **more: Any) -> None:
    """Marks a reply as failed in its current phase."""
    reply["ok"] = False
    reply["error"] = {
        "kind": kind,
        "phase": reply.get("phase", "start"),
        "message": message,
        "details": details,
        **more,
    }


def signal_name(number: int) -> str:
    """Returns the name of a signal; `signal N` if it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- the worker ----------------------------------------------------------------------------------


class Worker:
    """One job in this process, and its growing reply.

    Attributes:
        job: The job, as `protocol.Job` defines it.
        folder: Folder of the job; its paths are relative to it.
        reply_path: Where the reply is written at the start of every phase.
        reply: Everything observed so far.
        sessions: Loaded models, by label.
        feeds: Inputs of the job, by key.
        warm_up: Untimed calls before each series of timed ones.
    """

    def __init__(self, job: dict[str, Any], folder: str, reply_path: str) -> None:
        self.job = job
        self.folder = folder
        self.reply_path = reply_path
        self.reply = new_reply()
        self.sessions: dict[str, ModelSession] = {}
        self.feeds: dict[str, Any] = {}
        self.warm_up = WarmUp(job.get("warmup_calls", 3), job.get("warmup_seconds", 0))

    def run(self) -> dict[str, Any]:
        """Runs the job and returns the reply, with an `error` on failure."""
        try:
            self.start_phase("start")
            if self.job.get("format") != FORMAT:
                raise ValueError(
                    f"the job has format {self.job.get('format')!r}, this runner reads {FORMAT}"
                )
            limit_memory(self.job.get("memory_limit_bytes"), self.job.get("private_memory_bytes"))
            self._run_phases()
            self.reply["phase"] = "done"
        except MemoryError as error:
            set_error(self.reply, "memory", f"out of memory: {error}", "")
        # Anything that the runtime raises is a result of the job, not a failure of the runner.
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            kind = "memory" if is_out_of_memory(text) else "exception"
            set_error(self.reply, kind, text[:2000], "")
        return self.reply

    def start_phase(self, phase: str) -> None:
        """Writes the phase to disk, so that a crash can be located."""
        self.reply["phase"] = phase
        write_json(self.reply_path, self.reply)

    def _run_phases(self) -> None:
        job, reply = self.job, self.reply
        phases = job["phases"]
        memory = ResidentMemory(job.get("guest_range"))
        process_memory = {"start": memory.current()}
        reply["identity"] = read_identity()
        reply["before"] = read_condition()
        # Before the import: the runtime's threads inherit the cores of this one.
        if job.get("pin_unlike_cores", True):
            reply["pinned_cores"] = pin_to_fastest(int(job.get("threads", 1)))
        self._import_runtime()
        process_memory["import"] = memory.current()
        self._read_inputs()
        process_memory["inputs"] = memory.current()
        # A job that counts operators times nothing.
        if "trace" in phases:
            self._trace()
            return

        # Load, first call and steady calls of every model.
        for label, model in job["models"].items():
            entry = {"memory": dict(process_memory), "cases": {}}
            reply["models"][label] = entry
            self._start_limit()
            self._load_model(label, model, entry, memory)
            self._call_first(label, entry, memory)
            self._end_limit()
            if "steady" in phases:
                for case in job["cases"]:
                    # A pass grows the arena by shapes of all lengths, and not every model has one.
                    if case.get("mode") == "pass":
                        entry["memory"].setdefault("peak_before_pass", memory.peak())
                    self.start_phase(f"steady {label} {case['name']}")
                    entry["cases"][case["name"]] = measure_case(
                        self.sessions[label], case, job, self.warm_up
                    )
                entry["memory"]["run"] = memory.current()
                entry["memory"].update(memory.parts())
            entry["memory"]["peak"] = memory.peak()
        if job.get("alternate"):
            self.start_phase("alternate")
            reply["alternation"] = [
                alternate(self.sessions, alternation, self.warm_up)
                for alternation in job["alternate"]
            ]
        if "sustained" in phases:
            for label, session in self.sessions.items():
                self.start_phase(f"sustained {label}")
                reply["models"][label]["sustained"] = measure_sustained(session, job)
        reply["other_load"] = self.warm_up.other_load
        # Everything that is timed is over: what follows may heat the machine or use its memory.
        reply["after"] = read_condition()
        self._run_later_phases(phases)

    def _run_later_phases(self, phases: list[Any]) -> None:
        """Runs the phases that would disturb the timed calls."""
        job, reply = self.job, self.reply
        if "clock" in phases:
            self.start_phase("clock")
            reply["clock_ghz"] = measure_clock(platform.machine(), self.folder)
        if "bandwidth" in phases:
            self.start_phase("bandwidth")
            reply["bandwidth"] = measure_bandwidth(int(job["threads"]))
        if "outputs" in phases:
            self.start_phase("outputs")
            reply["outputs"] = write_outputs(self.sessions, job, self.folder)
        if "energy" in phases:
            self.start_phase("energy")
            for label, session in self.sessions.items():
                reply["models"][label]["energy"] = measure_energy(session, job)
        # The profiler needs sessions with other options; two copies of a model may not fit.
        self.sessions.clear()
        if "ops" in phases:
            for label, model in job["models"].items():
                self.start_phase(f"ops {label}")
                reply["models"][label]["ops"] = profile_nodes(model, job, self.folder, self.feeds)

    def _start_limit(self) -> None:
        """Allows `first_result_seconds` from now on."""
        # The kernel's alarm ends the process whatever the runtime is doing, and costs the timed
        # calls nothing, which a thread would.
        # A signal that the caller ignores is ignored here, too, unless it is reset.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self.job.get("first_result_seconds") or 0)

    def _end_limit(self) -> None:
        """Removes the limit."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _trace(self) -> None:
        """Runs every model once per input and reports what the runtime executed."""
        for label, model in self.job["models"].items():
            self.start_phase(f"trace {label}")
            keys = [key for case in self.job["cases"] for key in case["keys"]]
            self._start_limit()
            # Every call has the limit for itself.
            events = profiler_events(
                model, self.folder, self.feeds, keys, before_call=self._start_limit
            )
            self._end_limit()
            self.reply["models"][label] = {"runs": executed_nodes(events)}

    def _import_runtime(self) -> None:
        self.start_phase("import")
        started = time.perf_counter_ns()
        # Not at the top of the file: this is a phase that is timed, and some versions crash in it.
        import numpy

        identity = {"numpy": numpy.__version__}
        runtimes = {runtime_of(model) for model in self.job["models"].values()}
        if ONNXRUNTIME in runtimes:
            import onnxruntime

            onnxruntime.set_default_logger_severity(3)  # errors only
            identity["onnxruntime"] = onnxruntime.__version__
            identity["providers"] = onnxruntime.get_available_providers()
        if OPENVINO in runtimes:
            import openvino

            identity["openvino"] = openvino.__version__.partition("-")[0]
        self.reply["import_ns"] = time.perf_counter_ns() - started
        self.reply["identity"].update(identity)

    def _read_inputs(self) -> None:
        import numpy

        path = os.path.join(self.folder, self.job["inputs"])
        with numpy.load(path, allow_pickle=False) as archive:
            self.feeds = read_feeds(archive)

    def _load_model(
        self, label: str, model: dict[str, Any], entry: dict[str, Any], memory: ResidentMemory
    ) -> None:
        self.start_phase(f"load {label}")
        create = session_creator(model, self.folder, int(self.job.get("threads", 1)))
        # From here to `load_ns`, only the session is created. The file is in the page cache.
        cpu_ns, faults = time.process_time_ns(), fault_counts()
        started = time.perf_counter_ns()
        session = create()
        entry["load_ns"] = time.perf_counter_ns() - started
        entry["load_cpu_ns"] = time.process_time_ns() - cpu_ns
        entry["load_faults"] = faults_since(faults)
        entry["memory"]["load"] = memory.current()
        self.sessions[label] = ModelSession(session, self.feeds, model)

    def _call_first(self, label: str, entry: dict[str, Any], memory: ResidentMemory) -> None:
        self.start_phase(f"first call {label}")
        # The first call does work that later ones do not repeat: it is a figure of its own.
        session = self.sessions[label]
        feed = session.feeds[self.job["cases"][0]["keys"][0]]
        started = time.perf_counter_ns()
        session.run(None, feed)
        entry["first_call_ns"] = time.perf_counter_ns() - started
        entry["start_to_first_result_ns"] = since_start_ns()
        entry["memory"]["first_call"] = memory.current()


def is_out_of_memory(text: str) -> bool:
    """Whether an error's text reports a failed allocation."""
    # onnxruntime raises no type of its own for it.
    if "bad_alloc" in text or "Failed to allocate" in text:
        return True
    return "cannot allocate" in text.lower()


def runtime_of(model: dict[str, Any]) -> str:
    """Returns the name of the runtime of a job's model."""
    return model.get("runtime") or ONNXRUNTIME


def session_creator(model: dict[str, Any], folder: str, threads: int) -> Any:
    """Returns a function that creates the session of a job's model, and does nothing else."""
    path = os.path.join(folder, model["file"])
    if runtime_of(model) == OPENVINO:
        return lambda: OpenVinoSession(path, model.get("arithmetic") or "f32", threads)
    import onnxruntime

    options = session_options(model)
    return lambda: onnxruntime.InferenceSession(
        path, sess_options=options, providers=["CPUExecutionProvider"]
    )


class OpenVinoSession:
    """A model in OpenVINO, with the part of onnxruntime's interface that is used here.

    Attributes:
        inputs: Inputs of the model, as `get_inputs` of onnxruntime describes them.
        outputs: Its outputs, likewise.
    """

    def __init__(self, path: str, arithmetic: str, threads: int) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        self.inputs = [describe_port(port) for port in model.inputs]
        # A result is named after its output: `last_hidden_state/sink_port_0`.
        names = [
            node.get_friendly_name().partition("/sink_port")[0] for node in model.get_results()
        ]
        self.outputs = [ValueFacts(name, "", []) for name in names]
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Without it, OpenVINO computes in bfloat16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": arithmetic,
            # It would take the first cores, whatever else runs there: docs/log.md#openvino.
            "ENABLE_CPU_PINNING": False,
        }
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def run(self, _names: Any, feeds: dict[str, Any]) -> list[Any]:
        """Returns all outputs; the next call writes into the same arrays."""
        results = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        return [results[index] for index in range(len(self.outputs))]

    def get_inputs(self) -> list[Any]:
        """Returns name, type and shape of each input."""
        return self.inputs

    def get_outputs(self) -> list[Any]:
        """Returns the name of each output."""
        return self.outputs


class ValueFacts(NamedTuple):
    """An input or output of a model, with onnxruntime's names for types."""

    name: str
    type: str
    shape: list[Any]


def describe_port(port: Any) -> ValueFacts:
    """Describes an input of OpenVINO's; a free dimension is -1."""
    shape = port.partial_shape
    sizes = [size.get_length() if size.is_static else -1 for size in shape]
    return ValueFacts(
        port.get_node().get_friendly_name(), OPENVINO_TYPES[port.element_type.to_string()], sizes
    )


class ModelSession:
    """A session of a runtime, and feeds with the model's inputs only.

    Attributes:
        run: `InferenceSession.run`, or that of `OpenVinoSession`.
        output_names: Names of the outputs, in the order of `run`.
        feeds: Inputs by key: {KEY: {INPUT: array}}.
    """

    def __init__(self, session: Any, feeds: dict[str, Any], model: dict[str, Any]) -> None:
        self.run = session.run
        self.output_names = [output.name for output in session.get_outputs()]
        inputs = session.get_inputs()
        # Models with different tokenizers have inputs of their own.
        prefix = model.get("key_prefix") or ""
        self.feeds = {}
        for key, feed in feeds.items():
            if key.startswith(prefix):
                self.feeds[key[len(prefix) :]] = self._select(key, feed, inputs, model)

    @staticmethod
    def _select(
        key: str, feed: dict[str, Any], inputs: list[Any], model: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the feed under the graph's names, in its types and its batch size."""
        names = model.get("inputs") or {}
        sources = {value.name: names.get(value.name, value.name) for value in inputs}
        feed = add_derived_inputs(feed, sources.values())
        missing = [name for name, source in sources.items() if source not in feed]
        if missing:
            raise ValueError(
                f"the model needs {', '.join(missing)}, which inputs '{key}' lack "
                f"(they have {', '.join(feed)})"
            )
        batch = model.get("batch") or 1
        selected = {}
        for value in inputs:
            array = feed[sources[value.name]]
            # No copy of what has the right type already.
            array = array.astype(INPUT_TYPES.get(value.type, array.dtype), copy=False)
            # Probes of multiple choice have this axis already.
            if array.ndim == CHOICES_RANK:
                selected[value.name] = array
                continue
            array = array if batch == 1 else array.repeat(batch, axis=0)
            # The row of a text is repeated: every choice of one question.
            has_choices = len(value.shape) == CHOICES_RANK
            selected[value.name] = array[None] if has_choices else array
        return selected


def add_derived_inputs(feed: dict[str, Any], sources: Any) -> dict[str, Any]:
    """Returns a feed with the numbers of positions and rows, if a graph takes them."""
    derived = {"position_ids", "row_ids"}.intersection(sources).difference(feed)
    if not derived or "input_ids" not in feed:
        return feed
    import numpy

    rows, length = feed["input_ids"].shape
    numbers = {
        "position_ids": numpy.arange(length)[None].repeat(rows, axis=0),
        "row_ids": numpy.arange(rows),
    }
    return {**feed, **{name: numbers[name] for name in derived}}


def read_feeds(archive: Any) -> dict[str, Any]:
    """Returns {KEY: {INPUT: array}} from the arrays KEY/INPUT of an npz."""
    feeds = read_packed_rows(archive)
    for name in archive.files:
        if not name.startswith("packed:"):
            key, _, input_name = name.partition("/")
            feeds.setdefault(key, {})[input_name] = archive[name]
    return feeds


def read_packed_rows(archive: Any) -> dict[str, Any]:
    """Returns {KEY: {INPUT: array}} of rows that are stored end to end.

    Opening one array for each of many short rows costs 0.1 ms a row. Instead an npz may have
    `packed:keys`, `packed:lengths` and, for every input, `packed:INPUT`. Each row becomes an array
    of shape (1, length).
    """
    packed = {name: archive[name] for name in archive.files if name.startswith("packed:")}
    keys, lengths = packed.pop("packed:keys", ()), packed.pop("packed:lengths", ())
    feeds: dict[str, Any] = {}
    start = 0
    for key, length in zip(keys, lengths):
        end = start + int(length)
        row = {}
        for name, flat in packed.items():
            row[name[len("packed:") :]] = flat[None, start:end]
        feeds[str(key)] = row
        start = end
    return feeds


def session_options(model: dict[str, Any]) -> Any:
    """Returns onnxruntime's options for a model of a job."""
    import onnxruntime

    settings = model["session"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in settings["options"].items():
        if name in ENUMERATIONS:
            value = getattr(getattr(onnxruntime, ENUMERATIONS[name]), value)
        setattr(options, name, value)
    for key, value in settings["config_entries"].items():
        options.add_session_config_entry(key, value)
    return options


# --- timed calls ---------------------------------------------------------------------------------


class CallBudget(NamedTuple):
    """Bounds of a series of timed calls.

    Attributes:
        min_calls: The series makes at least this many calls ...
        min_seconds: ... and lasts at least this long,
        max_seconds: but ends after this time, once it has MIN_MEDIAN_CALLS.
        desired_calls: Calls to make beyond the minima ...
        desired_seconds: ... as long as the series is younger than this: a high percentile, where
            calls are short.
    """

    min_calls: int
    min_seconds: float
    max_seconds: float
    desired_calls: int = 0
    desired_seconds: float = 0


def measure_case(
    session: ModelSession, case: dict[str, Any], job: dict[str, Any], warm_up: WarmUp
) -> Any:
    """Times the calls of a case after the warm-up.

    A `steady` case cycles its inputs until both minima of the job are met. A `pass` goes through
    them once; with `max_seconds` it ends at that time and reports that it was truncated.
    """
    feeds = [session.feeds[key] for key in case["keys"]]
    warm_up.run([(session.run, feeds)])
    if case.get("mode", "steady") == "pass":
        budget = CallBudget(len(feeds), 0, case.get("max_seconds") or math.inf)
    else:
        budget = CallBudget(
            job["min_calls"],
            job["min_seconds"],
            job["max_seconds"],
            job.get("desired_calls", 0),
            job.get("desired_seconds", 0),
        )
    # Only the calls run between start and end of the watch.
    watch = Watch()
    faults = fault_counts()
    samples, wall_ns = timed_calls(session.run, feeds, budget)
    interference = watch.stop()
    warm_up.note_call()
    return {
        "samples_ns": samples,
        "wall_ns": wall_ns,
        "cpu_ns": interference.pop("cpu_ns"),
        "faults": faults_since(faults),
        "interference": interference,
        "truncated": len(samples) < budget.min_calls,
    }


def measure_sustained(session: ModelSession, job: dict[str, Any]) -> dict[str, Any]:
    """Times calls without a pause, and returns those of the first and the last minute.

    No warm-up: the series is about how a cold machine becomes a hot one.
    """
    feeds = [session.feeds[key] for key in job["cases"][0]["keys"]]
    seconds = float(job["sustained_seconds"])
    # Of a short series the halves.
    window_seconds = min(60.0, seconds / 2)
    before = read_condition()
    watch = Watch()
    started = time.perf_counter_ns()
    first, _ = timed_calls(session.run, feeds, CallBudget(1, window_seconds, math.inf))
    # These times are not returned: hours of short calls would fill the memory of a board.
    calls = 0
    last_begins_ns = started + int((seconds - window_seconds) * 1e9)
    while time.perf_counter_ns() < last_begins_ns:
        session.run(None, feeds[calls % len(feeds)])
        calls += 1
    last, _ = timed_calls(session.run, feeds, CallBudget(1, window_seconds, math.inf))
    wall_ns = time.perf_counter_ns() - started
    interference = watch.stop()
    return {
        "first_ns": first,
        "last_ns": last,
        "window_seconds": window_seconds,
        "calls": len(first) + calls + len(last),
        "wall_ns": wall_ns,
        "cpu_ns": interference.pop("cpu_ns"),
        "interference": interference,
        "before": before,
        "after": read_condition(),
    }


class WarmUp:
    """Untimed calls until caches, allocations and the processor's clock have settled.

    A minimum of calls is not enough: three calls of a small model take 2 ms, and a governor such as
    `ondemand` or `schedutil` needs 50 to 200 ms to raise the clock.

    Attributes:
        calls: Fewest calls of each model before each series.
        seconds: Calls have gone on for at least this long, without a pause.
        other_load: Mean number of other tasks that wanted to run during the first warm-up; None
            where the system does not report it.
    """

    # Governors look at the load every 10 to 100 ms: a longer pause may have lowered the clock.
    longest_pause_ns = 50_000_000
    # Reading the state of all threads takes 0.1 ms: this often it is 1% of the time.
    sample_interval_ns = 10_000_000

    def __init__(self, calls: int, seconds: float) -> None:
        self.calls = calls
        self.seconds = seconds
        self.other_load: Any = None
        self.busy_since_ns = 0
        self.last_call_ns = 0

    def run(self, models: list[tuple[Any, list[Any]]]) -> None:
        """Calls every model with its feeds until both minima are met.

        Args:
            models: `run` and the feeds of each model.
        """
        clock = time.perf_counter_ns
        if clock() - self.last_call_ns > self.longest_pause_ns:
            self.busy_since_ns = clock()
        loads: list[Any] = []
        sampled_ns = 0
        index = 0
        while index < self.calls or clock() - self.busy_since_ns < self.seconds * 1e9:
            for run, feeds in models:
                run(None, feeds[index % len(feeds)])
            index += 1
            if self.other_load is None and clock() - sampled_ns > self.sample_interval_ns:
                loads.append(count_other_tasks())
                sampled_ns = clock()
        known = [load for load in loads if load is not None]
        if known:
            self.other_load = sum(known) / len(known)
        self.note_call()

    def note_call(self) -> None:
        """Notes that a call has just ended."""
        self.last_call_ns = time.perf_counter_ns()


def count_other_tasks() -> Any:
    """Returns the number of other tasks that run or wait for a core; None if unknown."""
    # `0.20 0.18 0.12 3/80 11206`: three of 80 tasks are runnable, ours among them.
    fields = (read_text("/proc/loadavg") or "").split()
    runnable = fields[3].partition("/")[0] if len(fields) > 3 else ""
    if not runnable.isdigit():
        return None
    own = 0
    for path in glob.glob("/proc/self/task/*/stat"):
        # `PID (NAME) STATE ...`; a name may have blanks and parentheses.
        own += (read_text(path) or "").rpartition(")")[2].split()[:1] == ["R"]
    return max(0, int(runnable) - own)


def timed_calls(run: Any, feeds: list[Any], budget: CallBudget) -> tuple[Any, ...]:
    """Times calls of `run`, cycling through the feeds.

    Returns:
        Nanoseconds of each call, and of the complete series. The loop adds 1.3 µs to a call
        (docs/log.md#overhead-of-the-timed-loop).
    """
    # Local names and integers: an attribute look-up in the loop would be part of what is timed.
    clock = time.perf_counter_ns
    min_calls, desired_calls = budget.min_calls, budget.desired_calls
    min_ns, max_ns = int(budget.min_seconds * 1e9), budget.max_seconds * 1e9
    desired_ns = int(budget.desired_seconds * 1e9)
    samples: list[int] = []
    count = len(feeds)
    index = 0
    # A garbage collection during a call would be counted as the model's time.
    gc.collect()
    gc.disable()
    try:
        started = ended = clock()
        while (
            index < min_calls
            or ended - started < min_ns
            or (index < desired_calls and ended - started < desired_ns)
        ):
            feed = feeds[index % count]
            call_started = clock()
            run(None, feed)
            ended = clock()
            samples.append(ended - call_started)
            index += 1
            if ended - started > max_ns and index >= MIN_MEDIAN_CALLS:
                break
    finally:
        gc.enable()
    return samples, ended - started


def alternate(
    sessions: dict[str, ModelSession], alternation: dict[str, Any], warm_up: WarmUp
) -> dict[str, Any]:
    """Times two models in alternating blocks of calls on the same inputs.

    A change of the machine (heat, other programs, the clock) reaches both models within
    milliseconds, so their ratio is stable where two separate measurements are not
    (docs/decisions.md#claims-come-from-models-that-take-turns-in-one-process).
    """
    first, second = alternation["first"], alternation["second"]
    models = []
    for label in (first, second):
        feeds = [sessions[label].feeds[key] for key in alternation["keys"]]
        models.append((sessions[label].run, feeds))
    turns = take_turns(
        models,
        blocks=alternation["blocks"],
        calls_per_block=alternation["calls_per_block"],
        max_seconds=alternation.get("max_seconds", 60),
        warm_up=warm_up,
    )
    blocks = [{"first_ns": block[0], "second_ns": block[1]} for block in turns.pop("blocks")]
    names = {"name": alternation["name"], "first": first, "second": second}
    return {**names, "blocks": blocks, **turns}


def take_turns(
    models: list[tuple[Any, list[Any]]],
    *,
    blocks: int,
    calls_per_block: int,
    max_seconds: float,
    warm_up: WarmUp,
) -> dict[str, Any]:
    """Times models in alternating blocks; every block has the same inputs for all models.

    Args:
        models: `run` and the feeds of each model, in the same order.
        blocks: Number of blocks of each model.
        calls_per_block: Timed calls of a model in a block, on consecutive feeds.
        max_seconds: No block starts after this time, once each model was first equally often.
        warm_up: Untimed calls before the first block.
    Returns:
        `blocks`: nanoseconds of each call, by block and model; `wall_ns`, `cpu_ns` and
        `interference` of all of them.
    """
    warm_up.run(models)
    deadline = time.perf_counter_ns() + max_seconds * 1e9
    watch = Watch()
    started = time.perf_counter_ns()
    results = []
    position = 0
    for number in range(blocks):
        # The models take turns in being first, so that none always runs on the caches and the
        # clock that another one left.
        order = list(range(len(models)))
        order = order[number % len(models) :] + order[: number % len(models)]
        samples: list[Any] = [None] * len(models)
        for index in order:
            run, all_feeds = models[index]
            count = len(all_feeds)
            feeds = [all_feeds[(position + k) % count] for k in range(calls_per_block)]
            # The other model's weights have displaced this one's: where a model runs alone, as on
            # a device, it reads them from the cache as far as they fit.
            run(None, feeds[-1])
            samples[index], _ = timed_calls(run, feeds, CallBudget(calls_per_block, 0, math.inf))
        position += calls_per_block
        results.append(samples)
        is_balanced = (number + 1) % len(models) == 0
        if is_balanced and time.perf_counter_ns() > deadline:
            break
    wall_ns = time.perf_counter_ns() - started
    interference = watch.stop()
    warm_up.note_call()
    cpu_ns = interference.pop("cpu_ns")
    return {"blocks": results, "wall_ns": wall_ns, "cpu_ns": cpu_ns, "interference": interference}


class Watch:
    """What the system did to this process since the start: its signs that times are not its own."""

    def __init__(self) -> None:
        self.started = self._read()

    def stop(self) -> dict[str, Any]:
        """Returns the counts since the start; one that the system does not report is missing."""
        counts = {}
        for name, value in self._read().items():
            before = self.started.get(name)
            if value is not None and before is not None:
                # A thread that ended takes its waiting time with it.
                counts[name] = max(0, value - before)
        return counts

    @staticmethod
    def _read() -> dict[str, Any]:
        return {
            "cpu_ns": time.process_time_ns(),
            "involuntary_switches": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
            "waiting_ns": read_waiting_ns(),
            "stolen_ns": read_stolen_ns(),
            "throttled_periods": read_throttled_periods(),
        }


def read_waiting_ns() -> Any:
    """Returns nanoseconds that threads of this process waited for a core; None if unknown."""
    total = None
    for path in glob.glob("/proc/self/task/*/schedstat"):
        # Time on a core, time of waiting for one, number of time slices.
        fields = (read_text(path) or "").split()
        if len(fields) == 3:
            total = (total or 0) + int(fields[1])
    return total


def read_stolen_ns() -> Any:
    """Returns nanoseconds that the hypervisor took from our cores; None if unknown."""
    # A hypervisor that runs another machine on a core counts it as `steal`, the eighth figure.
    allowed = {f"cpu{number}" for number in allowed_cores()}
    ticks = None
    for line in (read_text("/proc/stat") or "").splitlines():
        fields = line.split()
        if fields and fields[0] in allowed and len(fields) > 8:
            ticks = (ticks or 0) + int(fields[8])
    return ticks if ticks is None else ticks * 10**9 // os.sysconf("SC_CLK_TCK")


def fault_counts() -> tuple[Any, ...]:
    """Returns minor and major page faults of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def faults_since(before: tuple[Any, ...]) -> dict[str, Any]:
    """Returns the page faults since `before`, a result of `fault_counts`."""
    minor, major = fault_counts()
    return {"minor": minor - before[0], "major": major - before[1]}


def since_start_ns() -> Any:
    """Returns nanoseconds since the supervisor started this process; None without a supervisor."""
    started = os.environ.get(STARTED_ENV)
    return monotonic_ns() - int(started) if started else None


def monotonic_ns() -> int:
    """Reads a clock that the supervisor and its worker share."""
    # perf_counter may start at zero in every process; CLOCK_MONOTONIC counts from the boot.
    if hasattr(time, "clock_gettime_ns"):
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return time.monotonic_ns()


# --- outputs, nodes, clock, bandwidth ------------------------------------------------------------


def write_outputs(
    sessions: dict[str, ModelSession], job: dict[str, Any], folder: str
) -> dict[str, Any]:
    """Writes the outputs of every model for `output_keys` as npz arrays LABEL/KEY/OUTPUT."""
    import numpy

    arrays = {}
    for label, session in sessions.items():
        for key in job.get("output_keys") or list(session.feeds):
            outputs = session.run(None, session.feeds[key])
            for name, array in zip(session.output_names, outputs):
                # OpenVINO's next call writes into the same arrays.
                arrays[f"{label}/{key}/{name}"] = array.copy()
    # A file object, because numpy appends `.npz` to a path without it.
    path = os.path.join(folder, job["outputs"])
    with open(path, "wb") as file:
        numpy.savez(file, **arrays)
    with open(path, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    return {"file": job["outputs"], "sha256": sha256, "arrays": len(arrays)}


def profile_nodes(
    model: dict[str, Any], job: dict[str, Any], folder: str, feeds: dict[str, Any]
) -> list[Any]:
    """Returns calls and microseconds of every node, by onnxruntime's profiler."""
    warmup = 3
    keys = job.get("ops_keys") or job["cases"][0]["keys"]
    # The warm-up, which `node_times` skips, and the profiled calls.
    calls = [keys[index % len(keys)] for index in range(warmup)]
    calls += [keys[index % len(keys)] for index in range(int(job.get("ops_calls", 10)))]
    return node_times(profiler_events(model, folder, feeds, calls), skip_runs=warmup)


def profiler_events(
    model: dict[str, Any],
    folder: str,
    feeds: dict[str, Any],
    keys: list[str],
    before_call: Any = None,
) -> Any:
    """Runs a model once for every key and returns the events of onnxruntime's profiler."""
    import onnxruntime

    scratch = tempfile.mkdtemp(prefix="edgedistil-ops-")
    try:
        options = session_options(model)
        options.enable_profiling = True
        # Without a prefix, onnxruntime writes its file into the working directory.
        options.profile_file_prefix = os.path.join(scratch, "ops")
        path = os.path.join(folder, model["file"])
        inference = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
        session = ModelSession(inference, feeds, model)
        for key in keys:
            if before_call is not None:
                before_call()
            session.run(None, session.feeds[key])
        return read_profile(inference.end_profiling())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_profile(path: str) -> Any:
    """Reads the events of onnxruntime's profiler."""
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        # onnxruntime says nothing when it cannot write the file.
        except ValueError as error:
            raise OSError("onnxruntime's profile is incomplete: is the disk full?") from error


def executed_nodes(events: list[Any]) -> list[list[Any]]:
    """Returns the nodes of each run with the types and shapes of their inputs and outputs."""
    suffix = "_kernel_time"
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and event.get("name", "").endswith(suffix)
    ]
    # Time stamps are microseconds since the session was created.
    runs = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("name") == "model_run"
    )
    executed = []
    for begin, end in runs:
        nodes = []
        for event in kernels:
            if begin <= event["ts"] <= end:
                facts = event["args"]
                nodes.append(
                    {
                        "node": event["name"][: -len(suffix)],
                        "op": facts["op_name"],
                        "inputs": facts["input_type_shape"],
                        "outputs": facts["output_type_shape"],
                    }
                )
        executed.append(nodes)
    return executed


def node_times(events: list[Any], skip_runs: int) -> list[Any]:
    """Sums onnxruntime's kernel events by node, in order of execution.

    Args:
        events: Events of the profiler's file.
        skip_runs: Number of warm-up runs at the beginning that are left out.
    """
    suffix = "_kernel_time"
    # Time stamps are microseconds since the session was created.
    runs = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    start = runs[skip_runs] if len(runs) > skip_runs else 0
    # In the order of insertion, which is the order of execution.
    nodes: dict[str, Any] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") != "Node" or not name.endswith(suffix) or event["ts"] < start:
            continue
        name = name[: -len(suffix)]
        empty = {
            "node": name,
            "op": event["args"].get("op_name", "?"),
            "calls": 0,
            "total_us": 0,
        }
        entry = nodes.setdefault(name, empty)
        entry["calls"] += 1
        entry["total_us"] += event["dur"]
    return list(nodes.values())


def measure_clock(machine: str, folder: str) -> Any:
    """Measures the clock of one core in GHz, by additions of which each needs the one before.

    Such an addition takes one cycle on every core. Returns None where the processor's code is not
    known here, or where the system does not let a program bring code of its own.
    """
    code = addition_loop(machine)
    if code is None:
        return None
    path = os.path.join(folder, "additions.bin")
    with open(path, "wb") as file:
        file.write(code)
    # A file is mapped as code, instead of memory being written and executed: the kernel then brings
    # ARM's instruction cache up to date, and systems that forbid the latter allow this.
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        with open(path, "rb") as file:
            protection = mmap.PROT_READ | mmap.PROT_EXEC
            address = libc.mmap(None, len(code), protection, mmap.MAP_PRIVATE, file.fileno(), 0)
    except (OSError, AttributeError):
        return None
    # mmap returns -1 where the folder's file system does not allow code.
    if address is None or address == ctypes.c_void_p(-1).value:
        return None
    return fastest_clock(
        ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(address)
    )


def addition_loop(machine: str) -> Any:
    """Machine code of f(loops, 1), which makes ADDITIONS_PER_LOOP dependent additions a loop."""
    if machine == "x86_64":
        body = b"\x48\x01\xf0" * ADDITIONS_PER_LOOP  # add rax, rsi
        body += b"\x48\xff\xcf"  # dec rdi
        return body + b"\x0f\x85" + struct.pack("<i", -len(body) - 6) + b"\xc3"  # jnz, ret
    if machine in ("aarch64", "arm64"):
        words = [0x8B010042] * ADDITIONS_PER_LOOP  # add x2, x2, x1
        words.append(0xF1000400)  # subs x0, x0, #1
        offset = -len(words) & 0x7FFFF
        words += [0x54000001 | offset << 5, 0xD65F03C0]  # b.ne, ret
        return struct.pack("<%dI" % len(words), *words)
    return None


def fastest_clock(loop: Any) -> float:
    """Returns additions per nanosecond of the fastest of many short series."""
    loops = 1000
    best = 0.0
    started = time.perf_counter_ns()
    # A governor needs up to 0.2 s to raise the clock.
    while time.perf_counter_ns() - started < 0.4e9:
        before = time.perf_counter_ns()
        loop(loops, 1)
        after = time.perf_counter_ns()
        best = max(best, loops * ADDITIONS_PER_LOOP / max(after - before, 1))
    return best


def measure_bandwidth(threads: int) -> dict[str, Any]:
    """Measures the bandwidth of large reads by one and by all threads.

    Reads, because a graph reads its weights: a copy moves less, as it writes too.
    """
    import numpy

    # 128 MiB do not fit into the caches of a board; on small boards all arrays together take at
    # most half of the available memory.
    available = read_meminfo().get("MemAvailable") or 2**30
    size = int(min(2**27, available // (2 * threads)))
    arrays = [numpy.ones(size // 8, numpy.int64) for _ in range(threads)]
    # The best of three: other programs can only make a read slower.
    return {
        "one_core": max(read_rate(arrays[:1]) for _ in range(3)),
        "all_cores": max(read_rate(arrays) for _ in range(3)),
        "threads": threads,
    }


def read_rate(arrays: list[Any]) -> float:
    """Reads every array in a thread of its own; returns bytes per second."""
    import numpy

    repetitions = 3

    # Threads suffice: numpy releases the interpreter lock while it reduces.
    def read(array: Any) -> None:
        for _ in range(repetitions):
            numpy.bitwise_or.reduce(array)

    workers = [threading.Thread(target=read, args=(array,)) for array in arrays]
    started = time.perf_counter_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = (time.perf_counter_ns() - started) / 1e9
    return float(len(arrays) * repetitions * arrays[0].nbytes / seconds)


# --- energy --------------------------------------------------------------------------------------


def measure_energy(session: ModelSession, job: dict[str, Any]) -> dict[str, Any]:
    """Measures joules of a series of calls, or says why not."""
    meter = RaplMeter.find() or PmicMeter.find()
    if meter is None:
        return {
            "absent": "no readable energy counter (/sys/class/powercap, vcgencmd pmic_read_adc)"
        }
    # A series of its own: a meter's readings must not disturb the timed calls.
    feeds = [session.feeds[key] for key in job["cases"][0]["keys"]]
    seconds = float(job.get("energy_seconds", 2))
    meter.start()
    samples, wall_ns = timed_calls(session.run, feeds, CallBudget(1, seconds, seconds * 2))
    joules = meter.stop()
    # A counter that wrapped without saying where gives a negative sum.
    if joules is None or joules < 0:
        return {"absent": f"{meter.name} returned no usable reading"}
    return {"counter": meter.name, "joules": joules, "calls": len(samples), "wall_ns": wall_ns}


class RaplMeter:
    """Energy counters of Intel's and AMD's processor packages, in microjoules."""

    name = "RAPL packages"

    def __init__(self, zones: list[Any]) -> None:
        self.zones = zones
        self.started_uj: list[Any] = []

    @classmethod
    def find(cls) -> Any:
        """Returns a meter; None if no counter can be read."""
        counters = sorted(glob.glob("/sys/class/powercap/intel-rapl:?/energy_uj"))
        zones = [os.path.dirname(path) for path in counters if read_number(path) is not None]
        return cls(zones) if zones else None

    def start(self) -> None:
        """Reads the counters at the beginning."""
        self.started_uj = [read_number(os.path.join(zone, "energy_uj")) for zone in self.zones]

    def stop(self) -> Any:
        """Returns joules since `start`; None if a counter could not be read."""
        total = 0
        for zone, before in zip(self.zones, self.started_uj):
            after = read_number(os.path.join(zone, "energy_uj"))
            if after is None or before is None:
                return None
            total += after - before
            # The counter wrapped at the end of its range.
            if after < before:
                total += read_number(os.path.join(zone, "max_energy_range_uj")) or 0
        return total / 1e6


class PmicMeter:
    """Power chip of a Raspberry Pi 5, sampled during the calls."""

    name = "vcgencmd pmic_read_adc"
    # A reading starts a program: four a second keep its share of the processor small.
    interval_s = 0.25

    def __init__(self) -> None:
        self.watts: list[Any] = []
        self.halt = threading.Event()
        self.started = 0.0

    @classmethod
    def find(cls) -> Any:
        """Returns a meter; None on machines without this chip."""
        if pmic_watts(command_output(["vcgencmd", "pmic_read_adc"])) is None:
            return None
        return cls()

    def start(self) -> None:
        """Starts to sample in a thread."""
        self.started = time.monotonic()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        while not self.halt.is_set():
            watts = pmic_watts(command_output(["vcgencmd", "pmic_read_adc"]))
            if watts is not None:
                self.watts.append(watts)
            self.halt.wait(self.interval_s)

    def stop(self) -> Any:
        """Returns mean power times time since `start`; None without a sample."""
        self.halt.set()
        self.thread.join(5)
        seconds = time.monotonic() - self.started
        if not self.watts:
            return None
        return sum(self.watts) / len(self.watts) * seconds


def pmic_watts(text: Any) -> Any:
    """Sums volts times amperes over the rails; None without a rail."""
    # Lines look like `  VDD_CORE_A current(7)=1.23A`.
    rails: dict[str, Any] = {}
    for line in str(text or "").splitlines():
        name, equals, value = line.strip().partition("=")
        rail, _, _ = name.partition(" ")
        try:
            if equals and rail[-2:] in ("_A", "_V"):
                rails.setdefault(rail[:-2], {})[rail[-1]] = float(value.rstrip("AV"))
        except ValueError:
            continue
    # Some rails report only a voltage, such as the 5 V supply: they have no power of their own.
    complete = [rail for rail in rails.values() if set(rail) == {"A", "V"}]
    return sum(rail["A"] * rail["V"] for rail in complete) if complete else None


# --- the machine ---------------------------------------------------------------------------------


def read_identity() -> dict[str, Any]:
    """Describes this machine; a field that it does not report is missing."""
    cpu, memory = read_cpuinfo(), read_meminfo()
    swap_used = None
    if "SwapFree" in memory:
        swap_used = memory["SwapTotal"] - memory["SwapFree"]
    # /proc/cpuinfo has `model name` and `flags` on x86; ARM has `Features`, a part number and, on
    # older kernels, the name of the chip as `Hardware`.
    facts = {
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "board": read_text("/proc/device-tree/model") or read_arm_server(),
        "cpu": cpu.get("model name") or cpu.get("Hardware"),
        "cpu_part": cpu.get("CPU part"),
        "flags": sorted((cpu.get("flags") or cpu.get("Features") or "").split()),
        "cores": os.cpu_count(),
        "cores_allowed": len(allowed_cores()),
        "usable_threads": count_usable_threads(),
        "cpu_quota": read_cpu_quota(),
        "page_bytes": resource.getpagesize(),
        "clock_max_mhz": read_clock_max_mhz(),
        "caches": read_caches(),
        "memory_bytes": memory.get("MemTotal"),
        "memory_available_bytes": memory.get("MemAvailable"),
        "swap_used_bytes": swap_used,
    }
    return {key: value for key, value in facts.items() if value is not None}


def allowed_cores() -> list[int]:
    """Returns the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def rank_cores() -> list[tuple[int, bool, int]]:
    """Returns the cores that this process may run on, the best to use first.

    Each one is (-capacity, whether another thread of its physical core comes before, number), with
    0 for an unknown capacity.
    """
    cores = []
    seen: set[Any] = set()
    for number in allowed_cores():
        base = f"/sys/devices/system/cpu/cpu{number}"
        # Only ARM, and x86 with unlike cores, have capacities; the highest clock is next best.
        capacity = read_number(base + "/cpu_capacity")
        if capacity is None:
            capacity = read_number(base + "/cpufreq/cpuinfo_max_freq") or 0
        siblings = read_text(base + "/topology/thread_siblings_list") or number
        cores.append((-capacity, siblings in seen, number))
        seen.add(siblings)
    return sorted(cores)


def fastest_kind(cores: list[tuple[int, bool, int]]) -> list[tuple[int, bool, int]]:
    """Returns the cores, of those that `rank_cores` returns, that are as fast as the first."""
    return [core for core in cores if core[0] <= LIKE_CORES * cores[0][0]]


def count_usable_threads() -> int:
    """Returns how many threads run side by side: physical cores of the fastest kind."""
    # Two threads of one physical core share its arithmetic units.
    threads = sum(not is_second for _, is_second, _ in fastest_kind(rank_cores()))
    quota = read_cpu_quota()
    # Beyond a quota the kernel stops all threads until the next period.
    return max(1, threads if quota is None else min(threads, int(quota)))


def pin_to_fastest(threads: int) -> Any:
    """Restricts this process to its fastest cores; returns them, or None if all are alike.

    A thread on a slow core would keep the others waiting at the end of every operator, and where
    the kernel puts it changes from run to run.
    """
    ranked = rank_cores()
    if len(fastest_kind(ranked)) == len(ranked) or not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(number for _, _, number in ranked[:threads])
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        return None
    return cores


def read_cpu_quota() -> Any:
    """Returns the cores that the control groups of this process allow; None without a limit."""
    quotas = []
    for folder in cpu_groups():
        # Version 2: `50000 100000` or `max 100000`; version 1: a file each, and -1 for no limit.
        quota, _, period = (read_text(os.path.join(folder, "cpu.max")) or "").partition(" ")
        if not quota:
            quota = str(read_number(os.path.join(folder, "cpu.cfs_quota_us")))
            period = str(read_number(os.path.join(folder, "cpu.cfs_period_us")))
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas) if quotas else None


def read_throttled_periods() -> Any:
    """Returns how often a quota has stopped this process's groups; None without quotas."""
    total = None
    for folder in cpu_groups():
        for line in (read_text(os.path.join(folder, "cpu.stat")) or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "nr_throttled" and value.isdigit():
                total = (total or 0) + int(value)
    return total


def cpu_groups() -> list[str]:
    """Returns folders of the control groups that limit this process's cores, innermost first."""
    folders = []
    for line in (read_text("/proc/self/cgroup") or "").splitlines():
        # `HIERARCHY:CONTROLLERS:PATH`; version 2 has no controllers.
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (controllers, "cpu", "unified") if controllers else ("", "unified"):
            root = os.path.join("/sys/fs/cgroup", mount).rstrip("/")
            if os.path.isdir(root):
                folders += group_and_parents(root, path)
                break
    return folders


def group_and_parents(root: str, path: str) -> list[str]:
    """Returns the folders of a control group and of its parents, up to the root of the mount."""
    # In a container the path may be the host's, of which only the root is visible.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    nested = [os.path.join(root, *parts[:count]) for count in range(len(parts), 0, -1)]
    return [folder for folder in nested if os.path.isdir(folder)] + [root]


def read_arm_server() -> Any:
    """Returns vendor and product of an ARM server: "Amazon EC2 m6g.xlarge".

    An ARM server has firmware tables instead of a device tree
    (docs/log.md#arm-servers-have-no-device-tree). None on other machines: a PC is not a board.
    """
    if platform.machine() not in ("aarch64", "arm64"):
        return None
    names = [read_text("/sys/class/dmi/id/" + name) for name in ("sys_vendor", "product_name")]
    return " ".join(name for name in names if name) or None


def read_clock_max_mhz() -> Any:
    """Returns the highest clock of the first core; None if unknown."""
    khz = read_number("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return khz / 1000 if khz is not None else None


def read_caches() -> list[dict[str, Any]]:
    """Returns the caches of the first core, as the kernel lists them."""
    units = {"K": 1024, "M": 1024 * 1024}
    caches = []
    for index in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        level = read_text(os.path.join(index, "level"))
        size = str(read_text(os.path.join(index, "size")) or "")
        # A size is printed as `512K` or `2M`; a cache without one is left out.
        if not level or not size[:-1].isdigit() or size[-1] not in units:
            continue
        caches.append(
            {
                "level": int(level),
                "kind": read_text(os.path.join(index, "type")) or "",
                "bytes": int(size[:-1]) * units[size[-1]],
                "shared_by": read_text(os.path.join(index, "shared_cpu_list")) or "",
            }
        )
    return caches


def read_condition() -> dict[str, Any]:
    """Returns clock, temperature and throttling, as far as they are reported."""
    base = "/sys/devices/system/cpu"
    # One clock per core, in kHz.
    clock_paths = sorted(glob.glob(base + "/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    clocks_khz = [read_number(path) for path in clock_paths]
    # Thermal throttling events since boot, on x86.
    throttle_paths = glob.glob(base + "/cpu[0-9]*/thermal_throttle/core_throttle_count")
    throttle_counts = [read_number(path) for path in throttle_paths]
    throttle_count = None
    if throttle_counts:
        throttle_count = sum(count for count in throttle_counts if count is not None)
    # Raspberry Pi: `throttled=0x50005`, bits of undervoltage and throttling.
    throttled = (command_output(["vcgencmd", "get_throttled"]) or "").strip().partition("=")[2]
    try:
        load_1min = os.getloadavg()[0]
    except OSError:
        load_1min = None
    facts = {
        "governor": read_text(base + "/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": [khz / 1000 for khz in clocks_khz if khz is not None] or None,
        "temperature_c": read_temperatures() or None,
        "throttled_bits": int(throttled, 16) if throttled.startswith("0x") else None,
        "throttle_count": throttle_count,
        "load_1min": load_1min,
        "memory_available_bytes": read_meminfo().get("MemAvailable"),
    }
    return {key: value for key, value in facts.items() if value is not None}


def read_temperatures() -> dict[str, float]:
    """Returns degrees Celsius by thermal zone."""
    temperatures = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        value = read_number(os.path.join(zone, "temp"))
        if value is not None:
            # With the zone's number, because several zones may have one type.
            kind = read_text(os.path.join(zone, "type")) or "zone"
            temperatures[f"{os.path.basename(zone)} {kind}"] = value / 1000
    return temperatures


def read_cpuinfo() -> dict[str, Any]:
    """Returns the first value of every key in /proc/cpuinfo."""
    # The first core only: a device file describes the other cores of a board.
    values: dict[str, Any] = {}
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip(), value.strip())
    return values


def read_meminfo() -> dict[str, Any]:
    """Returns the figures of /proc/meminfo, in bytes."""
    values = {}
    for line in (read_text("/proc/meminfo") or "").splitlines():
        # `MemTotal:       16384256 kB`; some lines are counts without a unit, which nothing reads.
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts and parts[0].isdigit():
            values[name] = int(parts[0]) * 1024
    return values


# --- memory of this process ----------------------------------------------------------------------


class ResidentMemory:
    """Resident bytes of this process.

    Under an emulator only the guest's address range counts: the process also holds over 100 MiB of
    the emulator's own (docs/log.md#only-guest-addresses-count).
    """

    def __init__(self, guest_range: Any) -> None:
        self.guest_range = guest_range
        self.highest = 0

    def current(self) -> Any:
        """Returns resident bytes now; None if the system does not report them."""
        value = self._guest_bytes() if self.guest_range else status_bytes("VmRSS")
        if value is not None:
            self.highest = max(self.highest, value)
        return value

    def parts(self) -> dict[str, Any]:
        """Returns what the resident bytes consist of; a part that is not reported is missing."""
        # An emulator's own memory is in all of them.
        if self.guest_range:
            return {}
        rollup = read_text("/proc/self/smaps_rollup") or ""
        # Pages that several processes have mapped, each divided by their number.
        shares = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
        parts = {
            "anonymous": status_bytes("RssAnon"),
            "file": status_bytes("RssFile"),
            "pss": int(shares[0]) * 1024 if shares else None,
        }
        return {name: value for name, value in parts.items() if value is not None}

    def peak(self) -> Any:
        """Returns the high-water mark of this process, in bytes."""
        # The kernel's mark counts the emulator too: the largest phase takes its place.
        if self.guest_range:
            self.current()
            return self.highest or None
        high_water_mark = status_bytes("VmHWM")
        if high_water_mark is not None:
            return high_water_mark
        # ru_maxrss is in bytes on macOS and in KiB elsewhere.
        scale = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

    def _guest_bytes(self) -> Any:
        """Sums `Rss` over the mappings of /proc/self/smaps inside the guest's range."""
        low, high = self.guest_range
        total, inside = 0, False
        try:
            with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
                for line in file:
                    first = line.split(None, 1)[0]
                    # A mapping starts with `BEGIN-END`; its figures follow as `Name: N kB`.
                    if "-" in first and not first.endswith(":"):
                        begin, _, end = first.partition("-")
                        inside = low <= int(begin, 16) and int(end, 16) <= high
                    elif inside and first == "Rss:":
                        total += int(line.split()[1]) * 1024
        except (OSError, ValueError):
            return None
        return total


def status_bytes(field: str) -> Any:
    """Returns a figure of /proc/self/status in bytes; None if missing."""
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def limit_memory(limit: Any, private_limit: Any) -> None:
    """Limits the address space of this process, and the memory of its own in it, in bytes."""
    # Address space, because without a cgroup the kernel cannot limit resident memory.
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
    # Without mapped files and what is only reserved: a graph that asks for gigabytes gets an error.
    if private_limit:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if most == resource.RLIM_INFINITY or private_limit <= most:
            resource.setrlimit(resource.RLIMIT_DATA, (int(private_limit), most))


# --- files and programs --------------------------------------------------------------------------


def read_text(path: str) -> Any:
    """Returns the stripped text of a file; None if missing or empty."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            # Strings of the device tree end with a zero byte.
            return file.read().strip().rstrip("\0").strip() or None
    except OSError:
        return None


def read_number(path: str) -> Any:
    """Returns the integer in a file; None if it has none."""
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def command_output(command: list[Any]) -> Any:
    """Returns a program's output; None if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        # These programs answer at once or not at all.
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file atomically; raises ValueError for NaN."""
    # With the process id: the supervisor and the worker must not write the same file.
    temporary = f"{path}.tmp{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False)
        # Before the rename: otherwise the file could be empty after a power failure.
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

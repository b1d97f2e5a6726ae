#!/usr/bin/env python3
"""Runs ONNX files as a job says and writes down what was observed. One self-contained file.

    python3 runner.py JOB.json OUT.json

Needs Python 3.9+, numpy and onnxruntime, nothing else: it is sent to boards. The job and the reply are described, field
by field, in `messages.py`; this file knows nothing of it. Everything observed is raw (nanoseconds of every call):
percentiles and verdicts are made on the host, by one implementation.

The runner supervises itself: it starts a second, fresh process for the work (`--worker`), so that a crash, a kill or an
out-of-memory of the runtime is still a reply (`error`), with all that was observed before it. Exit status 0 means that
a reply was written, whatever it says; 2 means that the job could not be read or the reply not be written.
"""

from __future__ import annotations

import gc
import glob
import hashlib
import json
import math
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

FORMAT = 1
LEAST_CALLS = 5  # a median wants them, however slow the machine is
STARTED_ENV = "EDGEDISTIL_STARTED_NS"
GRAPH_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def main(arguments: list[Any]) -> int:
    worker = arguments[:1] == ["--worker"]
    paths = arguments[1:] if worker else arguments
    if len(paths) != 2:
        print("usage: python3 runner.py JOB.json OUT.json", file=sys.stderr)
        return 2
    job_path, out_path = os.path.abspath(paths[0]), os.path.abspath(paths[1])
    try:
        with open(job_path, encoding="utf-8") as file:
            job = json.load(file)
    except (OSError, ValueError) as error:
        print(f"cannot read the job {job_path}: {error}", file=sys.stderr)
        return 2
    try:
        if worker or not job.get("isolate", True):
            write_json(out_path, work(job, os.path.dirname(job_path), out_path))
        else:
            write_json(out_path, supervise(job, job_path, out_path))
    except OSError as error:
        print(f"cannot write the reply {out_path}: {error}", file=sys.stderr)
        return 2
    return 0


# --- the supervisor: a reply whatever happens -------------------------------------------------------


def supervise(job: dict[str, Any], job_path: str, out_path: str) -> dict[str, Any]:
    """The reply of a fresh worker process, or what was observed until it died and how it died."""
    partial = out_path + ".part"
    environment = dict(os.environ)
    with tempfile.TemporaryFile() as stderr:
        environment[STARTED_ENV] = str(monotonic_ns())
        child = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--worker", job_path, partial],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        forward = {
            number: signal.signal(number, lambda *_: child.kill())
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            code = child.wait(timeout=job.get("timeout_seconds"))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            code = None
        finally:
            for number, handler in forward.items():
                signal.signal(number, handler)
        stderr.seek(0)
        said = stderr.read()[-4000:].decode("utf-8", "replace").strip()
    reply = read_partial(partial)
    if code is None:
        fail(reply, "timeout", f"still at work after {job.get('timeout_seconds')} s", said)
    elif code < 0:
        name = signal_name(-code)
        fail(reply, "signal", f"the runtime's process died of {name}", said, signal=name)
    elif code > 0:
        fail(reply, "exit", f"the runtime's process ended with status {code}", said, status=code)
    if os.path.exists(partial):
        os.unlink(partial)
    return reply


def read_partial(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            reply: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return new_reply()
    return reply


def new_reply() -> dict[str, Any]:
    with open(os.path.abspath(__file__), "rb") as file:
        own = hashlib.sha256(file.read()).hexdigest()
    return {
        "format": FORMAT,
        "ok": True,
        "error": None,
        "phase": "start",
        "runner_sha256": own,
        "models": {},
        "absent": {},
    }


def fail(reply: dict[str, Any], kind: str, message: str, details: str, **more: Any) -> None:
    reply["ok"] = False
    reply["error"] = {
        "kind": kind,
        "phase": reply.get("phase", "start"),
        "message": message,
        "details": details,
        **more,
    }


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- the worker --------------------------------------------------------------------------------------


def work(job: dict[str, Any], folder: str, out_path: str) -> dict[str, Any]:
    reply = new_reply()

    def enter(phase: str) -> None:
        """Names the phase on disk before it starts: a crash can then say where it was."""
        reply["phase"] = phase
        write_json(out_path, reply)

    try:
        enter("start")
        if job.get("format") != FORMAT:
            raise ValueError(f"job of format {job.get('format')!r}, this runner reads {FORMAT}")
        limit_memory(job.get("memory_limit_bytes"))
        do_job(job, folder, reply, enter)
        reply["phase"] = "done"
    except MemoryError as error:
        fail(reply, "memory", f"out of memory: {error}", "")
    except Exception as error:  # whatever the runtime throws is an answer
        text = f"{type(error).__name__}: {error}"
        out_of_memory = (
            "bad_alloc" in text or "Failed to allocate" in text or "cannot allocate" in text.lower()
        )
        fail(reply, "memory" if out_of_memory else "exception", text[:2000], "")
    return reply


def do_job(job: dict[str, Any], folder: str, reply: dict[str, Any], enter: Any) -> None:
    phases = job["phases"]
    resident = Resident(job.get("guest_range"))
    memory = {"start": resident.now()}
    reply["identity"] = identity()
    reply["before"] = condition()
    enter("import")
    begun = time.perf_counter_ns()
    import numpy
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    reply["import_ns"] = time.perf_counter_ns() - begun
    reply["identity"].update(
        numpy=numpy.__version__,
        onnxruntime=onnxruntime.__version__,
        providers=onnxruntime.get_available_providers(),
    )
    memory["import"] = resident.now()
    with numpy.load(os.path.join(folder, job["inputs"]), allow_pickle=False) as archive:
        feeds = read_feeds(archive)
    memory["inputs"] = resident.now()
    sessions = {}
    for label, model in job["models"].items():
        entry = reply["models"][label] = {"memory": dict(memory), "cases": {}}
        session = load(label, model, job, folder, entry, resident, enter)
        sessions[label] = Caller(session, feeds)
        first_call(label, sessions[label], job, entry, resident, enter)
        if "steady" in phases:
            for case in job["cases"]:
                enter(f"steady {label} {case['name']}")
                entry["cases"][case["name"]] = steady(sessions[label], case, job)
            entry["memory"]["run"] = resident.now()
        entry["memory"]["peak"] = resident.peak()
    if job.get("alternate"):
        enter("alternate")
        reply["alternation"] = [alternate(sessions, each) for each in job["alternate"]]
    reply["after"] = condition()
    if "bandwidth" in phases:
        enter("bandwidth")
        reply["bandwidth"] = bandwidth(int(job["threads"]))
    if "outputs" in phases:
        enter("outputs")
        reply["outputs"] = write_outputs(sessions, job, folder)
    if "energy" in phases:
        enter("energy")
        for label, caller in sessions.items():
            reply["models"][label]["energy"] = energy(caller, job)
    sessions.clear()
    if "ops" in phases:
        for label, model in job["models"].items():
            enter(f"ops {label}")
            reply["models"][label]["ops"] = per_op(model, job, folder, feeds)


class Caller:
    """A session and the feeds it takes (each model takes only the inputs it has)."""

    def __init__(self, session: Any, feeds: dict[str, Any]) -> None:
        self.run = session.run
        self.output_names = [output.name for output in session.get_outputs()]
        wanted = [each.name for each in session.get_inputs()]
        self.feeds = {key: self._fitting(key, feed, wanted) for key, feed in feeds.items()}

    @staticmethod
    def _fitting(key: str, feed: dict[str, Any], wanted: list[Any]) -> dict[str, Any]:
        missing = [name for name in wanted if name not in feed]
        if missing:
            raise ValueError(
                f"the model takes {', '.join(missing)}, which inputs '{key}' lack (there: {', '.join(feed)})"
            )
        return {name: feed[name] for name in wanted}


def read_feeds(archive: Any) -> dict[str, Any]:
    """Arrays named KEY/INPUT become {KEY: {INPUT: array}}; many short rows lie end to end (a file each costs 0.1 ms).

    Those: "packed:keys", "packed:lengths" and, for every input, "packed:INPUT"; each row becomes an array (1, length).
    """
    feeds: dict[str, Any] = {}
    whole = {name: archive[name] for name in archive.files if name.startswith("packed:")}
    keys, lengths = whole.pop("packed:keys", ()), whole.pop("packed:lengths", ())
    start = 0
    for key, length in zip(keys, lengths):
        rows = {
            name[len("packed:") :]: flat[None, start : start + int(length)]
            for name, flat in whole.items()
        }
        feeds[str(key)] = rows
        start += int(length)
    for name in archive.files:
        if not name.startswith("packed:"):
            key, _, which = name.partition("/")
            feeds.setdefault(key, {})[which] = archive[name]
    return feeds


def load(
    label: str,
    model: dict[str, Any],
    job: dict[str, Any],
    folder: str,
    entry: dict[str, Any],
    resident: Resident,
    enter: Any,
) -> Any:
    import onnxruntime

    enter(f"load {label}")
    options = session_options(job, model)
    path = os.path.join(folder, model["file"])
    cpu, faults, begun = time.process_time_ns(), fault_counts(), time.perf_counter_ns()
    session = onnxruntime.InferenceSession(
        path, sess_options=options, providers=["CPUExecutionProvider"]
    )
    entry["load_ns"] = time.perf_counter_ns() - begun
    entry["load_cpu_ns"] = time.process_time_ns() - cpu
    entry["load_faults"] = faults_since(faults)
    entry["memory"]["load"] = resident.now()
    return session


def first_call(
    label: str,
    caller: Caller,
    job: dict[str, Any],
    entry: dict[str, Any],
    resident: Resident,
    enter: Any,
) -> None:
    enter(f"first call {label}")
    feed = caller.feeds[job["cases"][0]["keys"][0]]
    begun = time.perf_counter_ns()
    caller.run(None, feed)
    entry["first_call_ns"] = time.perf_counter_ns() - begun
    entry["start_to_first_result_ns"] = since_start_ns()
    entry["memory"]["first_call"] = resident.now()


def session_options(job: dict[str, Any], model: dict[str, Any]) -> Any:
    import onnxruntime

    asked = dict(job.get("session") or {}, **(model.get("session") or {}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(model.get("threads") or job["threads"])
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    level = GRAPH_LEVELS[asked.get("graph_level", "all")]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.enable_cpu_mem_arena = bool(asked.get("arena", True))
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if asked.get("spinning", True) else "0"
    )
    if job.get("alternate"):
        # Two live sessions: the idle one's threads must not spin into the other's calls.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if not asked.get("prepacking", True):
        options.add_session_config_entry("session.disable_prepacking", "1")
    if asked.get("exact_products", False):
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


# --- timed calls --------------------------------------------------------------------------------------


def steady(caller: Caller, case: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Every call's nanoseconds. A `steady` case cycles its inputs until both minima are met; a `pass` goes once.

    A pass may have a time of its own (`max_seconds`): then it ends there, and says so (`truncated`).
    """
    feeds = [caller.feeds[key] for key in case["keys"]]
    for index in range(int(job.get("warmup_calls", 3))):
        caller.run(None, feeds[index % len(feeds)])
    if case.get("mode", "steady") == "pass":
        return measured(caller, feeds, len(feeds), 0, case.get("max_seconds") or math.inf)
    wanted = (job.get("desired_calls", 0), job.get("desired_seconds", 0))
    return measured(caller, feeds, job["min_calls"], job["min_seconds"], job["max_seconds"], wanted)


def measured(
    caller: Caller,
    feeds: list[Any],
    min_calls: int,
    min_seconds: float,
    max_seconds: float,
    wanted: Any = (0, 0),
) -> dict[str, Any]:
    cpu, faults = time.process_time_ns(), fault_counts()
    samples, wall = timed_calls(caller.run, feeds, min_calls, min_seconds, max_seconds, *wanted)
    return {
        "samples_ns": samples,
        "wall_ns": wall,
        "cpu_ns": time.process_time_ns() - cpu,
        "faults": faults_since(faults),
        "truncated": len(samples) < min_calls,
    }


def timed_calls(
    run: Any,
    feeds: list[Any],
    min_calls: int,
    min_seconds: float,
    max_seconds: float,
    desired_calls: int = 0,
    desired_seconds: float = 0,
) -> tuple[Any, ...]:
    """Nanoseconds of each call until both minima are met, or `max_seconds` are over. The loop is all our own cost.

    `desired_calls` are made beyond the minima if `desired_seconds` suffice: a high percentile where calls are short.
    """
    clock, samples, count, index = time.perf_counter_ns, [], len(feeds), 0
    least, most, patience = int(min_seconds * 1e9), max_seconds * 1e9, int(desired_seconds * 1e9)
    gc.collect()
    gc.disable()
    try:
        started = ended = clock()
        while (
            index < min_calls
            or ended - started < least
            or (index < desired_calls and ended - started < patience)
        ):
            feed = feeds[index % count]
            begun = clock()
            run(None, feed)
            ended = clock()
            samples.append(ended - begun)
            index += 1
            if ended - started > most and index >= LEAST_CALLS:
                break
    finally:
        gc.enable()
    return samples, ended - started


def alternate(callers: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Blocks of one model's calls and the other's on the same inputs, taking turns in who goes first.

    What the machine does to one model (heat, neighbours, clock) it then does to the other within milliseconds.
    """
    labels = [job["first"], job["second"]]
    keys = job["keys"]
    deadline = time.perf_counter_ns() + job.get("max_seconds", 60) * 1e9
    for label in labels:
        for key in keys[:3]:
            callers[label].run(None, callers[label].feeds[key])
    blocks, position, size = [], 0, job["calls_per_block"]
    for number in range(job["blocks"]):
        chosen = [keys[(position + offset) % len(keys)] for offset in range(size)]
        position += size
        block: dict[str, Any] = {}
        for label in labels if number % 2 == 0 else labels[::-1]:
            feeds = [callers[label].feeds[key] for key in chosen]
            block[label], _ = timed_calls(callers[label].run, feeds, size, 0, math.inf)
        blocks.append({"first_ns": block[labels[0]], "second_ns": block[labels[1]]})
        if time.perf_counter_ns() > deadline:
            break
    return {"name": job["name"], "first": labels[0], "second": labels[1], "blocks": blocks}


def fault_counts() -> tuple[Any, ...]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def faults_since(before: tuple[Any, ...]) -> dict[str, Any]:
    minor, major = fault_counts()
    return {"minor": minor - before[0], "major": major - before[1]}


def since_start_ns() -> Any:
    """Nanoseconds since the supervisor started this process; None when nobody noted it."""
    started = os.environ.get(STARTED_ENV)
    return monotonic_ns() - int(started) if started else None


def monotonic_ns() -> int:
    return (
        time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if hasattr(time, "clock_gettime_ns")
        else time.monotonic_ns()
    )


# --- outputs, operators, energy -------------------------------------------------------------------------


def write_outputs(callers: dict[str, Any], job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Writes what each model answers to `output_keys` (arrays LABEL/KEY/OUTPUT) and tells the file and its sha256."""
    import numpy

    arrays = {}
    for label, caller in callers.items():
        for key in job.get("output_keys") or list(caller.feeds):
            for name, array in zip(caller.output_names, caller.run(None, caller.feeds[key])):
                arrays[f"{label}/{key}/{name}"] = array
    path = os.path.join(folder, job["outputs"])
    with open(path, "wb") as file:
        numpy.savez(file, **arrays)
    with open(path, "rb") as file:
        return {
            "file": job["outputs"],
            "sha256": hashlib.sha256(file.read()).hexdigest(),
            "arrays": len(arrays),
        }


def per_op(
    model: dict[str, Any], job: dict[str, Any], folder: str, feeds: dict[str, Any]
) -> list[Any]:
    """Nodes in the order they ran, with calls and microseconds, of a pass of its own under ORT's profiler."""
    import onnxruntime

    scratch = tempfile.mkdtemp(prefix="edgedistil-ops-")
    try:
        options = session_options(job, model)
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(scratch, "ops")
        path = os.path.join(folder, model["file"])
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
        caller = Caller(session, feeds)
        calls = int(job.get("ops_calls", 10))
        keys = job.get("ops_keys") or job["cases"][0]["keys"]
        for index in range(3):
            caller.run(None, caller.feeds[keys[index % len(keys)]])
        mark = len(keys)
        for index in range(calls):
            caller.run(None, caller.feeds[keys[index % mark]])
        with open(session.end_profiling(), encoding="utf-8") as file:
            return node_times(json.load(file), skip_runs=3)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def node_times(events: list[Any], skip_runs: int) -> list[Any]:
    """Sums ORT's kernel events by node, in the order of execution, without the first `skip_runs` runs."""
    runs = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    start = runs[skip_runs] if len(runs) > skip_runs else 0
    nodes: dict[str, Any] = {}
    for event in events:
        if (
            event.get("cat") != "Node"
            or not event.get("name", "").endswith("_kernel_time")
            or event["ts"] < start
        ):
            continue
        name = event["name"][: -len("_kernel_time")]
        entry = nodes.setdefault(
            name, {"node": name, "op": event["args"].get("op_name", "?"), "calls": 0, "total_us": 0}
        )
        entry["calls"] += 1
        entry["total_us"] += event["dur"]
    return list(nodes.values())


def energy(caller: Caller, job: dict[str, Any]) -> dict[str, Any]:
    """Joules a call in a pass of its own, from the machine's counter; `absent` with the reason where there is none."""
    meter = RaplMeter.find() or PmicMeter.find()
    if meter is None:
        return {
            "absent": "no readable energy counter (/sys/class/powercap, vcgencmd pmic_read_adc)"
        }
    keys = job["cases"][0]["keys"]
    feeds = [caller.feeds[key] for key in keys]
    seconds = float(job.get("energy_seconds", 2))
    meter.start()
    samples, wall = timed_calls(caller.run, feeds, 1, seconds, seconds * 2)
    joules = meter.stop()
    if joules is None:
        return {"absent": f"{meter.name} gave no usable reading"}
    return {"counter": meter.name, "joules": joules, "calls": len(samples), "wall_ns": wall}


class RaplMeter:
    """Intel's and AMD's running energy counters of the packages, in microjoules."""

    name = "RAPL packages"

    def __init__(self, counters: list[Any]) -> None:
        self.counters = counters
        self.begun: list[Any] = []

    @classmethod
    def find(cls) -> Any:
        zones = [
            os.path.dirname(p)
            for p in sorted(glob.glob("/sys/class/powercap/intel-rapl:?/energy_uj"))
        ]
        readable = [
            zone for zone in zones if read_number(os.path.join(zone, "energy_uj")) is not None
        ]
        return cls(readable) if readable else None

    def start(self) -> None:
        self.begun = [read_number(os.path.join(zone, "energy_uj")) for zone in self.counters]

    def stop(self) -> Any:
        total = 0
        for zone, before in zip(self.counters, self.begun):
            after = read_number(os.path.join(zone, "energy_uj"))
            if after is None or before is None:
                return None
            wrap = read_number(os.path.join(zone, "max_energy_range_uj")) or 0
            total += after - before if after >= before else after - before + wrap
        return total / 1e6


class PmicMeter:
    """Raspberry Pi 5's power chip: volts times amperes of every rail, sampled beside the calls."""

    name = "vcgencmd pmic_read_adc"

    def __init__(self) -> None:
        self.watts: list[Any] = []
        self.halt = threading.Event()
        self.begun = 0.0

    @classmethod
    def find(cls) -> Any:
        return (
            cls() if pmic_watts(command_output(["vcgencmd", "pmic_read_adc"])) is not None else None
        )

    def start(self) -> None:
        self.begun = time.monotonic()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        while not self.halt.is_set():
            watts = pmic_watts(command_output(["vcgencmd", "pmic_read_adc"]))
            if watts is not None:
                self.watts.append(watts)
            self.halt.wait(0.25)

    def stop(self) -> Any:
        self.halt.set()
        self.thread.join(5)
        seconds = time.monotonic() - self.begun
        return sum(self.watts) / len(self.watts) * seconds if self.watts else None


def pmic_watts(text: Any) -> Any:
    """Sum over the rails of volts × amperes; lines look like `  VDD_CORE_A current(7)=1.23A`."""
    rails: dict[str, Any] = {}
    for line in str(text or "").splitlines():
        name, equals, value = line.strip().partition("=")
        rail, _, _ = name.partition(" ")
        try:
            if equals and rail[-2:] in ("_A", "_V"):
                rails.setdefault(rail[:-2], {})[rail[-1]] = float(value.rstrip("AV"))
        except ValueError:
            continue
    complete = [pair for pair in rails.values() if set(pair) == {"A", "V"}]
    return sum(pair["A"] * pair["V"] for pair in complete) if complete else None


# --- what the machine says of itself ----------------------------------------------------------------------


def identity() -> dict[str, Any]:
    """Who this machine is. A field that it does not tell is missing."""
    info, memory = cpu_info(), meminfo()
    found = {
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "board": read_text("/proc/device-tree/model") or arm_server(),
        "cpu": info.get("model name") or info.get("Hardware"),
        "cpu_part": info.get("CPU part"),
        "flags": sorted((info.get("flags") or info.get("Features") or "").split()),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "page_bytes": resource.getpagesize(),
        "clock_max_mhz": clock_max_mhz(),
        "caches": cache_facts(),
        "memory_bytes": memory.get("MemTotal"),
        "memory_available_bytes": memory.get("MemAvailable"),
        "swap_used_bytes": memory["SwapTotal"] - memory["SwapFree"]
        if "SwapFree" in memory
        else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def arm_server() -> Any:
    """An ARM machine with firmware tables instead of a device tree: "Amazon EC2 m6g.xlarge". A PC is no board."""
    if platform.machine() not in ("aarch64", "arm64"):
        return None
    told = [read_text("/sys/class/dmi/id/" + name) for name in ("sys_vendor", "product_name")]
    return " ".join(each for each in told if each) or None


def clock_max_mhz() -> Any:
    value = read_number("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return value / 1000 if value is not None else None


def cache_facts() -> list[dict[str, Any]]:
    """Caches of the first core, as the kernel lists them."""
    found = []
    for index in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        told = {
            name: read_text(os.path.join(index, name))
            for name in ("level", "type", "size", "shared_cpu_list")
        }
        size = str(told["size"] or "")
        if told["level"] and size[:-1].isdigit() and size[-1] in "KM":
            scale = 1024 if size[-1] == "K" else 1024 * 1024
            entry = {
                "level": int(told["level"]),
                "kind": told["type"] or "",
                "bytes": int(size[:-1]) * scale,
            }
            found.append(dict(entry, shared_by=told["shared_cpu_list"] or ""))
    return found


def bandwidth(threads: int) -> dict[str, Any]:
    """Bytes a second of copies that no cache holds, by one thread and by `threads` at once (numpy frees the lock)."""
    import numpy

    available = meminfo().get("MemAvailable") or 2**30
    size = int(min(2**27, available // (4 * threads)))
    pairs = [(numpy.ones(size, numpy.uint8), numpy.ones(size, numpy.uint8)) for _ in range(threads)]

    def copy(pair: tuple[Any, Any]) -> None:
        for _ in range(3):
            numpy.copyto(pair[0], pair[1])

    def rate(count: int) -> float:
        best = 0.0
        for _ in range(3):
            workers = [threading.Thread(target=copy, args=(pair,)) for pair in pairs[:count]]
            begun = time.perf_counter_ns()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            best = max(best, count * 3 * 2 * size / (time.perf_counter_ns() - begun) * 1e9)
        return best

    return {"one_core": rate(1), "all_cores": rate(threads), "threads": threads}


def condition() -> dict[str, Any]:
    """Clock, heat and throttling right now. A field that the machine does not tell is missing."""
    base = "/sys/devices/system/cpu"
    clocks = [
        read_number(p) for p in sorted(glob.glob(base + "/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    ]
    throttle_counts = [
        read_number(p) for p in glob.glob(base + "/cpu[0-9]*/thermal_throttle/core_throttle_count")
    ]
    temperatures = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        value = read_number(os.path.join(zone, "temp"))
        if value is not None:
            kind = read_text(os.path.join(zone, "type")) or "zone"
            temperatures[f"{os.path.basename(zone)} {kind}"] = value / 1000
    throttled = (command_output(["vcgencmd", "get_throttled"]) or "").strip().partition("=")[2]
    try:
        load_1min = os.getloadavg()[0]
    except OSError:
        load_1min = None
    found = {
        "governor": read_text(base + "/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": [value / 1000 for value in clocks if value is not None] or None,
        "temperature_c": temperatures or None,
        "throttled_bits": int(throttled, 16) if throttled.startswith("0x") else None,
        "throttle_count": sum(v for v in throttle_counts if v is not None)
        if throttle_counts
        else None,
        "load_1min": load_1min,
        "memory_available_bytes": meminfo().get("MemAvailable"),
    }
    return {key: value for key, value in found.items() if value is not None}


def cpu_info() -> dict[str, Any]:
    """First value of every key in /proc/cpuinfo."""
    found: dict[str, Any] = {}
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def meminfo() -> dict[str, Any]:
    """Bytes by name, from /proc/meminfo."""
    found = {}
    for line in (read_text("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts and parts[0].isdigit():
            found[name] = int(parts[0]) * 1024
    return found


class Resident:
    """Resident bytes of this process; of the guest's address range only, when it runs under an emulator."""

    def __init__(self, guest_range: Any) -> None:
        self.range = guest_range
        self.highest = 0

    def now(self) -> Any:
        value = self._guest() if self.range else status_bytes("VmRSS")
        if value is not None:
            self.highest = max(self.highest, value)
        return value

    def peak(self) -> Any:
        """High-water mark; under an emulator the largest of the phases (the kernel's mark counts the emulator)."""
        if self.range:
            self.now()
            return self.highest or None
        if status_bytes("VmHWM") is not None:
            return status_bytes("VmHWM")
        scale = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

    def _guest(self) -> Any:
        low, high = self.range
        total, inside = 0, False
        try:
            with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
                for line in file:
                    first = line.split(None, 1)[0]
                    if "-" in first and not first.endswith(":"):
                        begin, _, end = first.partition("-")
                        inside = low <= int(begin, 16) and int(end, 16) <= high
                    elif inside and first == "Rss:":
                        total += int(line.split()[1]) * 1024
        except (OSError, ValueError):
            return None
        return total


def status_bytes(field: str) -> Any:
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def limit_memory(limit: Any) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))


def read_text(path: str) -> Any:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip().rstrip("\0").strip() or None
    except OSError:
        return None


def read_number(path: str) -> Any:
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def command_output(command: list[Any]) -> Any:
    """What a program prints; None when it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def write_json(path: str, value: Any) -> None:
    """Whole or not at all; NaN is refused."""
    aside = f"{path}.tmp{os.getpid()}"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

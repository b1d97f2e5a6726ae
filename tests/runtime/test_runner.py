"""The runner as boards start it: by its command line, with the real onnxruntime."""

from __future__ import annotations

import ast
import json
import platform
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistil.core.rundir import RunDir
from edgedistil.core.session import SessionOptions
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.match import match_device
from edgedistil.runtime.protocol import RUNNER, Alternation, Case, Job, JobModel, Reply
from edgedistil.runtime.reply import parse_reply

runner = runpy.run_path(str(RUNNER))


@pytest.fixture
def folder(exported: RunDir, tmp_path: Path) -> Path:
    """A job's folder as a target prepares it on a board, without the job."""
    place = tmp_path / "job folder; $(quoted)"
    place.mkdir()
    for artefact in run_artefacts(exported):
        for name, path in artefact.job_files().items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(path.read_bytes())
    ids = {f"a{n}/input_ids": np.full((1, n), 7, np.int64) for n in (5, 11)}
    np.savez(place / "inputs.npz", **ids)
    return place


def job_of(*labels: str, **changes: Any) -> Job:
    models = {
        label: JobModel(file=f"{label}/graph.onnx")
        for label in labels or ("student-feature-extraction.fp32",)
    }
    standard: dict[str, Any] = {
        "models": models,
        "cases": [Case(name="5", keys=["a5"]), Case(name="both", keys=["a5", "a11"], mode="pass")],
        "min_calls": 23,
        "min_seconds": 0,
        "warmup_calls": 1,
    }
    return Job(**{**standard, **changes})


def run(folder: Path, job: Job) -> tuple[int, Reply]:
    (folder / "job.json").write_text(job.to_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, RUNNER, "job.json", "reply.json"], cwd=folder, check=False, timeout=120
    )
    return done.returncode, parse_reply((folder / "reply.json").read_bytes(), source="test")


def test_a_complete_job(folder: Path) -> None:
    label = "student-feature-extraction.fp32"
    job = job_of(
        phases=["steady", "outputs", "energy", "ops"], outputs="out.npz", energy_seconds=0.01
    )
    status, reply = run(folder, job)
    assert (status, reply.ok, reply.error, reply.phase) == (0, True, None, "done")
    result = reply.models[label]
    steady = result.cases["5"]
    assert len(steady.samples_ns) == 23 and not steady.truncated
    assert sum(steady.samples_ns) <= steady.wall_ns
    assert len(result.cases["both"].samples_ns) == 2
    assert result.load_ns and result.first_call_ns and result.start_to_first_result_ns
    assert result.start_to_first_result_ns > result.load_ns + result.first_call_ns
    memory = result.memory
    assert memory.start and memory.imported and memory.load and memory.run and memory.peak
    assert memory.start < memory.imported < memory.peak
    assert memory.peak_before_pass and memory.peak_before_pass <= memory.peak
    # Shared memory is the only other part of what is resident.
    assert memory.anonymous and memory.file and memory.pss
    assert memory.anonymous + memory.file <= memory.peak and memory.pss <= memory.peak
    assert result.energy is not None and (result.energy.absent or result.energy.joules)
    assert result.ops[0].op == "Gather" and all(node.calls == 10 for node in result.ops)
    assert reply.identity.onnxruntime and reply.identity.memory_bytes and reply.identity.page_bytes
    assert reply.outputs is not None
    with np.load(folder / "out.npz") as stored:
        assert stored[f"{label}/a11/last_hidden_state"].shape == (1, 11, 31)
    assert not list(folder.glob("*.part")) and not list(folder.glob("*.tmp*")), (
        "it leaves no temporary files"
    )


def test_a_pass_that_runs_out_of_time_is_reported_as_truncated(folder: Path) -> None:
    cases = [
        Case(name=str(limit), keys=["a5", "a11"] * 4, mode="pass", max_seconds=limit)
        for limit in (1e-6, 60)
    ]
    _, reply = run(folder, job_of(cases=cases))
    truncated, complete = reply.models["student-feature-extraction.fp32"].cases.values()
    assert (len(truncated.samples_ns), truncated.truncated) == (5, True)
    assert (len(complete.samples_ns), complete.truncated) == (8, False)


def test_models_alternate_on_the_same_inputs(folder: Path) -> None:
    one, two = "teacher-feature-extraction.fp32", "student-feature-extraction.int8"
    alternation = Alternation(
        name="speed", first=one, second=two, keys=["a5", "a11"], blocks=7, calls_per_block=3
    )
    _, reply = run(folder, job_of(one, two, alternate=[alternation], phases=[]))
    result = reply.alternation[0]
    assert (result.first, result.second, len(result.blocks)) == (one, two, 7)
    assert all(len(b.first_ns) == len(b.second_ns) == 3 for b in result.blocks)


@pytest.mark.parametrize("alternates", [False, True])
def test_a_session_has_the_options_of_the_job(alternates: bool) -> None:
    session = SessionOptions(
        threads=3,
        spinning=False,
        arena=False,
        graph_level="extended",
        prepacking=False,
        exact_int8=True,
    )
    models = {"m": JobModel(file="m", session=session), "n": JobModel(file="n")}
    turns = Alternation(name="turns", first="m", second="n", keys=["a5"])
    job = job_of(models=models, threads=2, alternate=[turns] if alternates else [])
    sent = json.loads(job.to_json())["models"]
    expected = {"m": session, "n": SessionOptions(threads=2)}
    for label, model in sent.items():
        options = runner["session_options"](model)
        same = expected[label].to_onnxruntime()
        assert options.log_severity_level == same.log_severity_level
        for name in expected[label].attributes():
            assert getattr(options, name) == getattr(same, name), name
        entries = dict(expected[label].config_entries())
        if alternates:
            entries["session.force_spinning_stop"] = "1"
        assert model["session"]["config_entries"] == entries
        for key, value in entries.items():
            assert options.get_session_config_entry(key) == value


def test_a_corrupt_graph_is_reported(folder: Path) -> None:
    label = "student-feature-extraction.fp32"
    (folder / label / "graph.onnx").write_bytes(b"not a graph")
    status, reply = run(folder, job_of())
    assert status == 0 and not reply.ok and reply.error is not None
    assert (reply.error.kind, reply.error.phase) == ("exception", f"load {label}")


def test_missing_inputs_are_reported_by_name(folder: Path) -> None:
    np.savez(folder / "inputs.npz", **{"a5/words": np.zeros((1, 5), np.int64)})
    _, reply = run(folder, job_of())
    assert (
        reply.error is not None
        and "the model needs input_ids, which inputs 'a5' lack" in reply.error.message
    )


def test_a_memory_limit_that_is_too_small_is_reported(folder: Path) -> None:
    _, reply = run(folder, job_of(memory_limit_bytes=48 * 2**20))
    assert not reply.ok and reply.error is not None
    assert reply.error.phase in ("import", "load student-feature-extraction.fp32")


def test_a_worker_that_takes_too_long_is_killed(folder: Path) -> None:
    _, reply = run(folder, job_of(min_calls=10**9, max_seconds=60, timeout_seconds=3))
    assert reply.error is not None and reply.error.kind == "timeout"
    assert reply.error.phase.startswith("steady"), "what was observed before is still there"
    assert reply.identity.onnxruntime


def test_a_worker_that_crashes_is_reported_with_its_signal(folder: Path, tmp_path: Path) -> None:
    crash = tmp_path / "runner.py"
    text = RUNNER.read_text(encoding="utf-8")
    crash.write_text(
        text.replace(
            "            self._call_first(label",
            "            os.kill(os.getpid(), 4)\n            self._call_first(label",
        )
    )
    (folder / "job.json").write_text(job_of().to_json(), encoding="utf-8")
    assert "os.kill" in crash.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, crash, "job.json", "reply.json"], cwd=folder, check=False, timeout=60
    )
    reply = parse_reply((folder / "reply.json").read_bytes(), source="test")
    assert done.returncode == 0 and reply.error is not None
    assert (reply.error.kind, reply.error.signal) == ("signal", "SIGILL")
    assert reply.error.phase == "load student-feature-extraction.fp32"


def test_without_isolation_there_is_one_process(folder: Path) -> None:
    _, reply = run(folder, job_of(isolate=False))
    assert reply.ok
    assert reply.models["student-feature-extraction.fp32"].start_to_first_result_ns is None


@pytest.mark.parametrize("content", ["", "[1,", None])
def test_a_job_that_cannot_be_read_is_status_2(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "job.json").write_text(content, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, RUNNER, "job.json", "reply.json"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "cannot read the job" in done.stderr
    assert not (tmp_path / "reply.json").exists()


def timed_calls(run: Any, feeds: list[Any], *budget: float) -> Any:
    return runner["timed_calls"](run, feeds, runner["CallBudget"](*budget))


def test_steady_meets_both_minima_and_stops_at_the_maximum() -> None:
    calls: list[int] = []
    samples, _ = timed_calls(lambda _, feed: calls.append(feed), [1, 2, 3], 7, 0, 10)
    assert len(samples) == 7 and calls == [1, 2, 3, 1, 2, 3, 1]
    _, wall = timed_calls(lambda *_: None, [1], 1, 0.02, 10)
    assert wall >= 20_000_000
    assert len(timed_calls(lambda *_: None, [1], 10**9, 0, 0.01)[0]) < 10**9
    slow, _ = timed_calls(lambda *_: time.sleep(0.002), [1], 100, 0, 0.001)
    assert len(slow) == 5, "enough for a median, however slow the machine is"


def test_desired_calls_are_made_while_there_is_time_for_them() -> None:
    short, _ = timed_calls(lambda *_: None, [1], 7, 0, 10, 31, 5)
    assert len(short) == 31, "short calls: all desired calls"
    long, _ = timed_calls(lambda *_: time.sleep(0.01), [1], 3, 0, 10, 1000, 0.05)
    assert len(long) in range(3, 7), "long calls: until the time is over"
    assert len(timed_calls(lambda *_: None, [1], 7, 0, 10, 31, 0)[0]) == 7


def test_an_arm_server_has_a_name_without_a_device_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/sys/class/dmi/id/sys_vendor": "Amazon EC2",
        "/sys/class/dmi/id/product_name": "m6g.xlarge",
    }
    read_arm_server = runner["read_arm_server"]
    monkeypatch.setitem(read_arm_server.__globals__, "read_text", files.get)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert read_arm_server() == "Amazon EC2 m6g.xlarge"
    spec = match_device(MachineIdentity(machine="aarch64", board=read_arm_server()))
    assert spec is not None and spec.name == "graviton2"
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert read_arm_server() is None


def test_nodes_are_summed_in_order_without_the_warm_up() -> None:
    def event(name: str, at: int, duration: int, **more: Any) -> dict[str, Any]:
        return {"name": name, "ts": at, "dur": duration, **more}

    def kernel(node: str, at: int, duration: int) -> dict[str, Any]:
        return event(f"{node}_kernel_time", at, duration, cat="Node", args={"op_name": "MatMul"})

    events = [
        event("model_run", 0, 9),
        kernel("x", 1, 100),
        event("model_run", 10, 9),
        kernel("b", 11, 5),
    ]
    events += [kernel("a", 12, 7), event("model_run", 20, 9), kernel("b", 21, 6)]
    assert runner["node_times"](events, skip_runs=1) == [
        {"node": "b", "op": "MatMul", "calls": 2, "total_us": 11},
        {"node": "a", "op": "MatMul", "calls": 1, "total_us": 7},
    ]


def test_the_pi_5_power_chip_is_read_rail_by_rail() -> None:
    text = (
        " VDD_CORE_A current(7)=2.0A\n"
        " VDD_CORE_V volt(15)=0.75V\n"
        " EXT5V_V volt(24)=5.1V\n"
        " 3V3_SYS_A current(1)=?"
    )
    assert runner["pmic_watts"](text) == pytest.approx(1.5)
    assert runner["pmic_watts"](None) is None and runner["pmic_watts"]("nothing") is None


def test_rapl_counters_wrap(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("1000000")
    meter = runner["RaplMeter"]([str(zone)])
    (zone / "energy_uj").write_text("900000")
    meter.start()
    (zone / "energy_uj").write_text("400000")
    assert meter.stop() == pytest.approx(0.5)


def test_it_is_one_file_for_python_3_9_with_numpy_and_runtimes_only() -> None:
    tree = ast.parse(RUNNER.read_text(encoding="utf-8"), feature_version=(3, 9))
    modules: set[str] = set()
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Match)
        if isinstance(node, ast.Import):
            modules.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").split(".")[0])
    assert modules - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "openvino"}
    future = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    assert future, "without it, Python 3.9 would evaluate X | Y in annotations"


class FakeSession:
    """Inputs of a graph that another exporter wrote."""

    class Value:
        def __init__(self, name: str, type_name: str, rank: int) -> None:
            self.name, self.type, self.shape = name, type_name, [None] * rank

    run = None

    def get_inputs(self) -> list[Value]:
        names = {"ids:0": "int32", "mask": "float", "position_ids": "int64", "rows": "int64"}
        return [self.Value(name, f"tensor({kind})", 2) for name, kind in names.items()]

    def get_outputs(self) -> list[Value]:
        return []


def test_feeds_get_the_names_types_and_batch_of_the_graph() -> None:
    ids_BL = np.array([[2, 7, 3]])
    model = {
        "inputs": {"ids:0": "input_ids", "mask": "attention_mask", "rows": "row_ids"},
        "batch": 2,
    }
    stored = {"k": {"input_ids": ids_BL, "attention_mask": np.ones_like(ids_BL)}}
    feed = runner["ModelSession"](FakeSession(), stored, model).feeds["k"]
    assert {name: (array.dtype.name, array.tolist()) for name, array in feed.items()} == {
        "ids:0": ("int32", [[2, 7, 3], [2, 7, 3]]),
        "mask": ("float32", [[1, 1, 1], [1, 1, 1]]),
        "position_ids": ("int64", [[0, 1, 2], [0, 1, 2]]),
        "rows": ("int64", [0, 0]),
    }


def test_a_model_with_a_prefix_sees_its_own_inputs() -> None:
    stored = {
        f"{name}k": {"input_ids": np.array([[i]]), "attention_mask": np.array([[1]])}
        for i, name in enumerate(("", "a:", "b:"))
    }
    names = {"ids:0": "input_ids", "mask": "attention_mask", "rows": "row_ids"}
    model = {"inputs": names, "key_prefix": "b:"}
    feeds = runner["ModelSession"](FakeSession(), stored, model).feeds
    assert list(feeds) == ["k"] and feeds["k"]["ids:0"].tolist() == [[2]]


def test_every_choice_of_a_question_is_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [FakeSession.Value("input_ids", "tensor(int64)", 3)]
    monkeypatch.setattr(FakeSession, "get_inputs", lambda _: inputs)
    ids_BL = np.array([[2, 7, 3]])
    # Probes have the axis already, and other texts for every choice.
    probe = np.arange(12).reshape(1, 4, 3)
    stored = {"row": {"input_ids": ids_BL}, "probe": {"input_ids": probe}}
    feeds = runner["ModelSession"](FakeSession(), stored, {"batch": 4}).feeds
    assert feeds["row"]["input_ids"].tolist() == [[[2, 7, 3]] * 4]
    np.testing.assert_array_equal(feeds["probe"]["input_ids"], probe)


def test_its_own_cost_a_call_is_under_20_microseconds() -> None:
    runs = [timed_calls(lambda *_: None, [{}], 5_000, 0, 60) for _ in range(4)]
    assert all(len(samples) == 5_000 for samples, _ in runs)
    best = min(wall for _, wall in runs) / 5_000
    assert best < 20_000, f"{best:.0f} ns"


def test_the_clock_is_measured_where_the_processors_code_is_known(tmp_path: Path) -> None:
    # Between the slowest board and the fastest desktop; the figure itself is the machine's.
    clock_ghz = runner["measure_clock"](platform.machine(), str(tmp_path))
    assert clock_ghz is None or 0.1 < clock_ghz < 10
    assert (clock_ghz is None) == (platform.machine() not in ("x86_64", "aarch64", "arm64"))
    assert runner["measure_clock"]("riscv64", str(tmp_path)) is None


def test_the_loops_jump_back_to_their_first_addition() -> None:
    additions = runner["ADDITIONS_PER_LOOP"]
    arm = np.frombuffer(runner["addition_loop"]("aarch64"), np.uint32)
    # add, ..., subs, b.ne, ret; the offset of a branch is bits 5 to 23, in instructions.
    assert len(arm) == additions + 3 and len(set(arm[:additions])) == 1
    offset = int(arm[-2]) >> 5 & 0x7FFFF
    assert offset - 2**19 == -(additions + 1)

    x86 = runner["addition_loop"]("x86_64")
    jump = x86.index(b"\x0f\x85")
    assert int.from_bytes(x86[jump + 2 : jump + 6], "little", signed=True) == -(jump + 6)
    assert x86[:jump] == b"\x48\x01\xf0" * additions + b"\x48\xff\xcf"


def test_bandwidth_and_clock_are_phases_of_a_job(folder: Path) -> None:
    status, reply = run(folder, job_of(phases=["clock", "bandwidth"]))
    assert status == 0 and reply.ok
    assert reply.bandwidth is not None and reply.bandwidth.one_core > 1e8
    assert reply.clock_ghz is None or reply.clock_ghz > 0.1

"""Artefacts under the kernels of three cores: started, gated, weighed, and never timed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.device import load_device
from edgedistil.core.errors import ParityError, TargetError
from edgedistil.core.records import (
    MemoryStats,
    ParityRecord,
    ProfileRecord,
    ProfileRow,
    read_record,
    write_record,
)
from edgedistil.parity.probes import Probes
from edgedistil.profiling import stage
from edgedistil.profiling.artefacts import Artefact, file_artefact
from edgedistil.profiling.emulated import emulate, few_probes
from edgedistil.profiling.rows import EMULATED_LATENCY
from edgedistil.profiling.workload import Workload, build
from edgedistil.runtime.protocol import Failure, Job, MachineIdentity, Reply

TASK = "feature-extraction"


def artefact(tiny_model_folder: Path, precision: str) -> Artefact:
    suffix = "" if precision == "fp32" else f"_{precision}"
    found = file_artefact(tiny_model_folder / f"model{suffix}.onnx")
    return replace(found, model="student", role="student", task=TASK, precision=precision)


def workload(tiny_model_folder: Path) -> Workload:
    return build(
        tiny_model_folder / "tokenizer.json",
        ["some words of text"],
        source="a test",
        lengths=[13],
        pairs=1,
    )


def has_no_latency(row: ProfileRow) -> bool:
    times = (
        row.latency_ms,
        row.latency,
        row.load_ms,
        row.first_call_ms,
        row.start_to_first_result_ms,
    )
    return all(each == EMULATED_LATENCY for each in times)


@pytest.mark.needs("qemu-aarch64")
@pytest.mark.parametrize(
    ("device", "kernels"),
    [
        ("rpi4", "signed widening multiplies (smlal, smull)"),  # Cortex-A72
        ("rpi5", "8-bit dot products (udot)"),  # Cortex-A76
        ("rpi3", "signed widening multiplies (smlal, smull)"),  # Cortex-A53
    ],
)
def test_int8_passes_the_gate_under_the_kernels_of_its_core(
    tiny, tiny_model_folder, device: str, kernels: str
) -> None:
    int8, probes = artefact(tiny_model_folder, "int8"), tiny.probes()
    done = emulate(
        load_device(device), [int8], workload(tiny_model_folder), probes_of=lambda _: probes
    )
    parity = done.parities[int8.label]
    (row,) = done.record.rows
    assert (parity.passed, parity.method, parity.device) == (True, "emulated", device)
    assert parity.overall.sequences == 4
    assert 0 < parity.overall.max_abs < 1  # int8 is near fp32, and is not fp32
    assert row.valid and has_no_latency(row)
    assert row.conditions["int8 kernels"] == kernels
    assert row.conditions["parity"].startswith("passed under these kernels: 4 sequences")
    assert isinstance(row.memory, MemoryStats)
    assert row.memory.after_load_bytes <= row.memory.after_run_bytes <= row.peak_memory_bytes
    assert (done.record.method, done.record.claims) == ("emulated", [])


@pytest.mark.needs("qemu-aarch64")
def test_the_command_emulates_a_file_and_says_how_much_it_holds(
    tiny_model_folder, tmp_path: Path
) -> None:
    model = str(tiny_model_folder / "model_int8.onnx")
    command = [
        sys.executable,
        "-m",
        "edgedistil",
        "profile",
        "--emulate",
        "--device",
        "zero2w",
        "--model",
        model,
    ]
    done = subprocess.run(
        [*command, "--length", "16"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "zero2w: emulated" in done.stdout
    assert "ms" not in done.stdout.split("model_int8")[1].split("\n")[0]


@pytest.mark.needs("qemu-aarch64")
def test_a_run_keeps_what_failed_under_the_boards_kernels(make_run, tiny) -> None:
    run = make_run("made")
    shutil.rmtree(run.export("teacher", TASK))
    (run.export("student", TASK) / "export.fp32.json").unlink()
    batch = tiny.probes().batches[0]
    wrong = np.random.default_rng(3).normal(size=(len(batch.rows_N2), 31)).astype(np.float32)
    batch = replace(
        batch, input_ids_BL=batch.input_ids_BL % 53, outputs={"last_hidden_state": wrong}
    )
    Probes(TASK, "ab" * 32, 7, (), (batch,)).save(run.probes("student", TASK))
    with pytest.raises(
        ParityError,
        match="student feature-extraction int8 does not match the model it was exported",
    ) as told:
        stage.profile("made", emulate=True, device="rpi4", lengths=[13])
    assert told.value.exit_code == 3
    record = read_record(run.profile("rpi4", "emulated"), ProfileRecord)
    assert [has_no_latency(row) for row in record.rows] == [True]
    assert any("parity FAILED under these kernels" in note for note in record.notes)
    parity = read_record(run.parity_on("rpi4", "student", TASK, "int8"), ParityRecord)
    assert (parity.passed, parity.method, parity.device) == (False, "emulated", "rpi4")


# --- what is made of replies: a target that answers what a test says -------------------------------------------


class Answering:
    """A target without a machine."""

    name, method, source = "rpi4", "emulated", "an emulator"

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.jobs: list[Job] = []

    def identify(self) -> MachineIdentity:
        return MachineIdentity(machine="aarch64", onnxruntime="1.32.0")

    def run(self, job: Job, files: object, *, outputs_to: Path | None = None) -> Reply:
        self.jobs.append(job)
        if outputs_to is not None and "outputs" in job.phases:
            shapes = {"probe0": (1, 5, 32), "probe1": (3, 11, 32)}
            label = next(iter(job.models))
            np.savez(
                outputs_to,
                **{
                    f"{label}/{key}/last_hidden_state": np.ones(shapes[key], "f4")
                    for key in job.output_keys
                },
            )
        return self.replies.pop(0)


def reply(label: str, **changes: object) -> Reply:
    case = {
        "samples_ns": [7],
        "wall_ns": 7,
        "cpu_ns": 7,
        "faults": {"minor": 0, "major": 0},
        "truncated": False,
    }
    standard = {
        "format": 1,
        "ok": True,
        "phase": "done",
        "runner_sha256": "ab",
        "identity": {"onnxruntime": "1.32.0"},
        "models": {
            label: {
                "memory": {"load": 11, "run": 13, "peak": 17},
                "load_ns": 5,
                "cases": {"13": case},
            }
        },
    }
    return Reply.model_validate({**standard, **changes})


def test_wrong_answers_fail_the_gate_and_are_told(tiny, tiny_model_folder) -> None:
    fp32, probes = artefact(tiny_model_folder, "fp32"), tiny.probes()
    done = emulate(
        load_device("rpi4"),
        [fp32],
        workload(tiny_model_folder),
        probes_of=lambda _: probes,
        target=Answering(reply(fp32.label)),
    )
    assert not done.parities[fp32.label].passed
    assert (
        done.record.rows[0]
        .conditions["parity"]
        .startswith("FAILED under these kernels: 4 sequences")
    )
    assert has_no_latency(done.record.rows[0])


def test_one_that_does_not_fit_is_a_row_with_its_reason(tiny_model_folder) -> None:
    fp32, int8 = (artefact(tiny_model_folder, each) for each in ("fp32", "int8"))
    full = Failure(
        kind="memory", phase="load", message="its resident memory passed what the device can give"
    )
    killed = reply(fp32.label).model_copy(update={"ok": False, "error": full})
    target = Answering(killed, reply(int8.label))
    work = workload(tiny_model_folder)
    record = emulate(
        load_device("rpi4"), [fp32, int8], work, memory_limit_bytes=23, target=target
    ).record
    assert [row.valid for row in record.rows] == [False, True]
    assert "its resident memory passed what the device can give" in str(
        record.rows[0].invalid_reason
    )
    assert record.rows[0].peak_memory_bytes == 17
    assert [job.memory_limit_bytes for job in target.jobs] == [23, 23]
    assert any("student feature-extraction fp32" in note for note in record.notes)
    assert record.rows[1].conditions["parity"] == "not checked: no probes of this artefact"


def test_when_nothing_runs_there_it_is_a_failure_of_the_device(tiny_model_folder) -> None:
    fp32 = artefact(tiny_model_folder, "fp32")
    error = Failure(kind="signal", phase="import", message="it died of SIGILL", signal="SIGILL")
    dead = reply(fp32.label, models={}).model_copy(update={"ok": False, "error": error})
    with pytest.raises(TargetError, match=r"nothing runs there: .*it died of SIGILL"):
        emulate(load_device("rpi4"), [fp32], workload(tiny_model_folder), target=Answering(dead))


def test_a_record_without_latency_is_written_and_read(tiny_model_folder, tmp_path: Path) -> None:
    fp32 = artefact(tiny_model_folder, "fp32")
    target = Answering(reply(fp32.label))
    record = emulate(load_device("rpi4"), [fp32], workload(tiny_model_folder), target=target).record
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json", ProfileRecord) == record
    assert (
        "not_measured"
        in json.loads((tmp_path / "record.json").read_text())["rows"][0]["latency_ms"]
    )


def test_large_models_answer_fewer_probes(tiny) -> None:
    batch = tiny.probes().batches[1]
    many = Probes(TASK, "ab" * 32, 7, (), (batch,) * 100)  # 33 tokens a call
    assert len(few_probes(many, 1_000).batches) == 2048 // 33
    assert len(few_probes(many, 30_000_000).batches) == 500 // 33
    assert len(few_probes(many, 10**12).batches) == 256 // 33
    assert [b.length for b in few_probes(tiny.probes(), 10**12).batches] == [5, 11]


def test_parity_records_have_a_place_of_their_own(tmp_path: Path) -> None:
    from edgedistil.core.rundir import RunDir

    run = RunDir(tmp_path)
    emulated = run.parity_on("rpi4", "student", TASK, "int8")
    assert emulated != run.parity("student", TASK, "int8")
    assert emulated.parent.parent == run.parity("student", TASK, "int8").parent
    assert ParityRecord.model_fields["method"].default == "measured"

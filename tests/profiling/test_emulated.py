"""Artefacts under the kernels of three cores: started, checked for parity, and never timed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgedistil.core.device import load_device
from edgedistil.core.errors import ParityError, TargetError
from edgedistil.core.export_records import ParityRecord
from edgedistil.core.options import ProfileOptions
from edgedistil.core.precision import Precision
from edgedistil.core.profile_records import MemoryStats, ProfileRecord, ProfileRow
from edgedistil.core.records import Method, read_record, write_record
from edgedistil.core.rundir import RunDir
from edgedistil.parity.probes import Probes
from edgedistil.profiling import stage
from edgedistil.profiling.artefacts import Artefact, file_artefact
from edgedistil.profiling.device_parity import select_probes
from edgedistil.profiling.emulated import emulate
from edgedistil.profiling.rows import EMULATED_LATENCY
from edgedistil.profiling.workload import Workloads, build_workloads
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.protocol import Failure, Job, OutputsFile, Reply
from tests.profiling.conftest import make_reply

TASK = "feature-extraction"


def tiny_artefact(folder: Path, precision: Precision) -> Artefact:
    suffix = "" if precision == "fp32" else f"_{precision}"
    artefact = file_artefact(folder / f"model{suffix}.onnx")
    return replace(artefact, model="student", role="student", task=TASK, precision=precision)


def tiny_workload(folder: Path) -> Workloads:
    return build_workloads([folder], ["some words of text"], source="a test", lengths=[13], pairs=1)


def has_no_latency(row: ProfileRow) -> bool:
    times = (
        row.latency_ms,
        row.latency,
        row.load_ms,
        row.first_call_ms,
        row.start_to_first_result_ms,
    )
    return all(time == EMULATED_LATENCY for time in times)


@pytest.mark.needs("qemu-aarch64")
@pytest.mark.parametrize(
    ("device", "kernels"),
    [
        ("rpi4", "signed widening multiplies (smlal, smull)"),  # Cortex-A72
        ("rpi5", "8-bit dot products (udot)"),  # Cortex-A76
        ("rpi3", "signed widening multiplies (smlal, smull)"),  # Cortex-A53
    ],
)
def test_int8_passes_the_parity_check_under_the_kernels_of_its_core(
    tiny: Any, tiny_model_folder: Path, device: str, kernels: str
) -> None:
    int8, probes = tiny_artefact(tiny_model_folder, "int8"), tiny.probes()
    emulation = emulate(
        load_device(device), [int8], tiny_workload(tiny_model_folder), probes_of=lambda _: probes
    )
    parity = emulation.parities[int8.label]
    (row,) = emulation.record.rows
    assert (parity.passed, parity.method, parity.device) == (True, "emulated", device)
    assert parity.overall.sequences == 4
    assert 0 < parity.overall.max_abs < 1, "int8 is close to fp32, but not equal"
    assert row.valid and has_no_latency(row)
    assert row.conditions["int8 kernels"] == kernels
    assert row.conditions["parity"].startswith("passed under these kernels: 4 sequences")
    assert isinstance(row.memory, MemoryStats)
    after_load, after_run = row.memory.after_load_bytes, row.memory.after_run_bytes
    assert isinstance(after_load, int) and isinstance(after_run, int)
    assert isinstance(row.peak_memory_bytes, int)
    assert after_load <= after_run <= row.peak_memory_bytes
    assert (emulation.record.method, emulation.record.claims) == ("emulated", [])


@pytest.mark.needs("qemu-aarch64")
def test_the_command_emulates_a_single_file(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = str(tiny_model_folder / "model_int8.onnx")
    command = [sys.executable, "-m", "edgedistil", "profile", "--emulate", "--device", "zero2w"]
    process = subprocess.run(
        [*command, "--model", model, "--length", "16"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert "zero2w: emulated" in process.stdout
    assert "ms" not in process.stdout.split("model_int8")[1].split("\n")[0]


@pytest.mark.needs("qemu-aarch64")
def test_a_run_stores_what_failed_under_the_boards_kernels(make_run: Any, tiny: Any) -> None:
    run = make_run("emulated")
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
    ) as raised:
        stage.profile("emulated", ProfileOptions(emulate=True, device="rpi4", lengths=[13]))
    assert raised.value.exit_code == 3
    record = read_record(run.profile("rpi4", "emulated"), ProfileRecord)
    assert [has_no_latency(row) for row in record.rows] == [True]
    assert any("parity FAILED under these kernels" in note for note in record.notes)
    parity = read_record(run.parity_on("rpi4", "student", TASK, "int8"), ParityRecord)
    assert (parity.passed, parity.method, parity.device) == (False, "emulated", "rpi4")


# --- replies of a target without a machine -------------------------------------------------------


class FakeTarget:
    """Returns the replies that a test passes, and constant outputs."""

    name = "rpi4"
    method: Method = "emulated"
    source = "an emulator"

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.jobs: list[Job] = []
        self.input_names: list[list[str]] = []

    def identify(self) -> MachineIdentity:
        return MachineIdentity(machine="aarch64", onnxruntime="1.32.0")

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        self.jobs.append(job)
        with np.load(files[job.inputs]) as arrays:
            self.input_names.append(list(arrays))
        if outputs_to is not None and "outputs" in job.phases:
            shapes = {"probe0": (1, 5, 32), "probe1": (3, 11, 32)}
            label = next(iter(job.models))
            outputs = {}
            for key in job.output_keys or []:
                outputs[f"{label}/{key}/last_hidden_state"] = np.ones(shapes[key], "f4")
            np.savez(outputs_to, **cast(Any, outputs))
            written = OutputsFile(file="outputs.npz", sha256="ab", arrays=len(outputs))
            return self.replies.pop(0).model_copy(update={"outputs": written})
        return self.replies.pop(0)


def test_wrong_outputs_fail_the_parity_check(tiny: Any, tiny_model_folder: Path) -> None:
    fp32, probes = tiny_artefact(tiny_model_folder, "fp32"), tiny.probes()
    target = FakeTarget(make_reply(fp32.label))
    emulation = emulate(
        load_device("rpi4"),
        [fp32],
        tiny_workload(tiny_model_folder),
        probes_of=lambda _: probes,
        target=target,
    )
    assert not emulation.parities[fp32.label].passed
    (row,) = emulation.record.rows
    assert row.conditions["parity"].startswith("FAILED under these kernels: 4 sequences")
    assert has_no_latency(row)
    (job,) = target.jobs
    assert (job.phases, job.output_keys) == (["steady", "outputs"], ["probe0", "probe1"])
    # Probes without token types get zeros, which a model that has the input needs.
    assert {"length13.0/input_ids", "probe0/token_type_ids"} <= set(target.input_names[0])


def test_an_artefact_that_does_not_fit_is_a_row_with_its_reason(tiny_model_folder: Path) -> None:
    fp32, int8 = (
        tiny_artefact(tiny_model_folder, "fp32"),
        tiny_artefact(tiny_model_folder, "int8"),
    )
    full = Failure(
        kind="memory", phase="load", message="its resident memory passed what the device can give"
    )
    killed = make_reply(fp32.label).model_copy(update={"ok": False, "error": full})
    target = FakeTarget(killed, make_reply(int8.label))
    workload = tiny_workload(tiny_model_folder)
    record = emulate(
        load_device("rpi4"), [fp32, int8], workload, memory_limit_bytes=23, target=target
    ).record
    assert [row.valid for row in record.rows] == [False, True]
    assert "its resident memory passed what the device can give" in str(
        record.rows[0].invalid_reason
    )
    assert record.rows[0].peak_memory_bytes == 17
    assert [(fit.fits, fit.limit_bytes, fit.length) for fit in record.fits] == [
        (False, 23, 13),
        (True, 23, 13),
    ]
    assert [job.memory_limit_bytes for job in target.jobs] == [23, 23]
    assert any("student feature-extraction fp32" in note for note in record.notes)
    assert record.rows[1].conditions["parity"] == "not checked: no probes of this artefact"


def test_no_artefact_that_starts_is_an_error_of_the_device(tiny_model_folder: Path) -> None:
    fp32 = tiny_artefact(tiny_model_folder, "fp32")
    error = Failure(kind="signal", phase="import", message="it died of SIGILL", signal="SIGILL")
    dead = make_reply(fp32.label, models={}).model_copy(update={"ok": False, "error": error})
    with pytest.raises(TargetError, match=r"no artefact runs there: .*it died of SIGILL"):
        emulate(
            load_device("rpi4"),
            [fp32],
            tiny_workload(tiny_model_folder),
            target=FakeTarget(dead),
        )


def test_a_record_without_latency_is_written_and_read(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    fp32 = tiny_artefact(tiny_model_folder, "fp32")
    record = emulate(
        load_device("rpi4"),
        [fp32],
        tiny_workload(tiny_model_folder),
        target=FakeTarget(make_reply(fp32.label)),
    ).record
    path = tmp_path / "record.json"
    write_record(path, record)
    assert read_record(path, ProfileRecord) == record
    assert "not_measured" in json.loads(path.read_text())["rows"][0]["latency_ms"]


def test_large_models_get_fewer_probes(tiny: Any) -> None:
    batch = tiny.probes().batches[1]
    many = Probes(TASK, "ab" * 32, 7, (), (batch,) * 100)  # 33 tokens a call
    assert len(select_probes(many, 1_000).batches) == 2048 // 33
    assert len(select_probes(many, 30_000_000).batches) == 500 // 33
    assert len(select_probes(many, 10**12).batches) == 256 // 33
    assert [b.length for b in select_probes(tiny.probes(), 10**12).batches] == [5, 11]


def test_one_probe_is_always_left(tiny: Any) -> None:
    batch = tiny.probes().batches[1]
    long = replace(batch, input_ids_BL=np.zeros((3, 997), np.int64))
    assert len(select_probes(Probes(TASK, "ab" * 32, 7, (), (long, long)), 10**12).batches) == 1


def test_emulated_parity_has_files_of_its_own(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    emulated = run.parity_on("rpi4", "student", TASK, "int8")
    assert emulated != run.parity("student", TASK, "int8")
    assert emulated.parent.parent == run.parity("student", TASK, "int8").parent
    assert ParityRecord.model_fields["method"].default == "measured"

"""Artefacts of every family are measured, predicted and emulated.

A few families are tested each time; EDGEDISTIL_ALL_FAMILIES=1 tests all of them.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.family import FAMILIES as _ROWS
from edgedistil.core.profile_records import MemoryStats
from edgedistil.core.records import Band
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import TASKS, Task
from edgedistil.parity.gate import list_failures
from edgedistil.parity.probes import Probes
from edgedistil.profiling.artefacts import file_artefact
from edgedistil.profiling.emulated import emulate
from edgedistil.profiling.rows import EMULATED_LATENCY
from edgedistil.profiling.workload import build_workloads
from tests.export.families.conftest import CASES, Export, Exported
from tests.profiling.conftest import profile_latest

# Attention of its own, a window, shared layers, and an axis of choices.
JOBS: list[tuple[str, Task]] = [
    ("deberta-v2", "feature-extraction"),
    ("modernbert", "token-classification"),
    ("bert", "multiple-choice"),
]
if os.environ.get("EDGEDISTIL_ALL_FAMILIES"):
    JOBS = [(name, "feature-extraction") for name in CASES]
    JOBS += [
        (name, "multiple-choice")
        for name in CASES
        if "ForMultipleChoice" not in _ROWS[name].missing_heads
    ]


@pytest.fixture(scope="module", params=JOBS, ids="-".join)
def exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    name, task = request.param
    return export_case(name, task)


@pytest.mark.parametrize("device", ["host", "rpi4"])
def test_rows_of_both_methods(exported: Exported, device: str) -> None:
    graph = exported.folder / exported.record("int8").files[0].path
    _, (record,) = profile_latest(model=graph, device=device, sentence_pairs=3)
    assert record.method == ("measured" if device == "host" else "predicted")
    rows = [row for row in record.rows if row.length != "sentence-pairs"]
    assert {row.length for row in rows} == {5, 17}
    # A call of multiple choice is one question.
    assert {row.batch for row in rows} == {4 if exported.task == "multiple-choice" else 1}
    assert all(row.valid for row in rows)
    short, long = sorted(rows, key=lambda row: int(str(row.length)))
    if device == "rpi4":
        assert isinstance(short.latency_ms, Band) and isinstance(long.latency_ms, Band)
        assert 0 < short.latency_ms.low < long.latency_ms.low < long.latency_ms.high


@pytest.mark.needs("qemu-aarch64")
def test_int8_is_right_under_the_kernels_of_a_board(exported: Exported) -> None:
    graph = exported.folder / exported.record("int8").files[0].path
    artefact = replace(
        file_artefact(graph), model="tiny", role="other", task=exported.task, precision="int8"
    )
    run = RunDir(exported.folder.parents[1])
    probes = Probes.load(run.probes("tiny", exported.task))
    # The shortest calls: an emulator is a hundred times slower. A choice has one value.
    some = probes.select(range(8 if TASKS[exported.task].has_choices else 4))
    text = ["some words of text"]
    workloads = build_workloads([exported.folder], text, source="a test", lengths=[13], pairs=1)
    emulation = emulate(load_device("rpi4"), [artefact], workloads, probes_of=lambda _: some)
    parity = emulation.parities[artefact.label]
    assert list_failures(parity) == []
    assert (parity.passed, parity.method) == (True, "emulated")
    assert parity.overall.sequences == some.sequences
    (row,) = emulation.record.rows
    assert row.latency_ms == EMULATED_LATENCY
    assert isinstance(row.memory, MemoryStats)

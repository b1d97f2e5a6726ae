"""Drafts of device files: figures that the machine reports, and assumptions for the others."""

from __future__ import annotations

import pytest

from edgedistil.core.device import load_device
from edgedistil.profiling.device_probe import MachineBenchmark, device_name, draft_device
from edgedistil.runtime.match import matches
from edgedistil.runtime.protocol import Bandwidth, CacheFacts, MachineIdentity
from edgedistil.runtime.qemu.guest import cpu_features, cpuinfo, emulated_cpu
from tests.profiling.conftest import fp32_gmacs_per_s

COPIES = Bandwidth(one_core=2.1e9, all_cores=3.4e9, threads=4)


def test_a_draft_has_what_was_reported_and_marks_the_rest_as_assumed() -> None:
    identity = MachineIdentity(
        machine="aarch64",
        board="Radxa Test Board 3",
        cpu_part="0xd05",
        flags=["asimd", "asimddp", "asimdhp"],
        onnxruntime="1.32.0",
        page_bytes=4096,
        memory_bytes=2**31,
        caches=[
            CacheFacts(level=1, kind="Data", bytes=2**15, shared_by="0"),
            CacheFacts(level=1, kind="Instruction", bytes=2**16, shared_by="0"),
            CacheFacts(level=2, kind="Unified", bytes=2**20, shared_by="0-3"),
            CacheFacts(level=3, kind="Unified", bytes=2**25, shared_by="0-3"),
        ],
    )
    benchmark = MachineBenchmark(
        identity, {"fp32": 4.4e9, "int8": 17e9}, [1.0, 1.9, 2.7, 3.3], COPIES
    )
    spec = draft_device(benchmark, cores=4)
    assert (spec.name, spec.in_order, spec.cores) == ("radxa-test-board-3", True, 4)
    assert spec.qemu_cpu == "cortex-a55"
    assert spec.isa.dot_product and spec.isa.fp16 and not spec.isa.i8mm
    assert spec.clusters[0].clock_ghz.assumed is not None, "the board reports no clock"
    assert fp32_gmacs_per_s(spec) == pytest.approx(4.4)
    assert spec.caches.l1d_kib.value == 32
    # Sizes are exact: only measured figures are rounded.
    assert spec.caches.l2_kib.value == 1024
    assert spec.caches.l3_kib is not None and spec.caches.l3_kib.value == 32768
    assert spec.caches.l2_shared and spec.memory.size_gib.value == 2
    assert spec.thread_scaling.of(4) == 3.3
    assert matches(spec, identity)


def test_a_machine_that_reports_nothing_gets_assumptions() -> None:
    benchmark = MachineBenchmark(
        MachineIdentity(machine="x86_64"), {"fp32": 4e10, "int8": 1e11}, [1.0], COPIES
    )
    spec = draft_device(benchmark, cores=1)
    assert (spec.name, spec.clusters[0].core, spec.isa.level) == (
        "machine",
        "unknown core",
        "x86-64",
    )
    for figure in (spec.caches.l2_kib, spec.memory.size_gib, spec.memory.page_kib):
        assert figure.assumed == "not reported by the machine"
    assert not spec.caches.l2_shared and spec.caches.l3_kib is None and spec.qemu_cpu is None


def test_a_device_file_drafted_on_a_graviton2_can_be_emulated() -> None:
    graviton2 = load_device("graviton2")
    identity = MachineIdentity(
        machine="aarch64",
        board="Amazon EC2 m6g.xlarge",
        cpu_part="0xd0c",
        flags=cpu_features(graviton2.isa),
        onnxruntime="1.32.0",
    )
    benchmark = MachineBenchmark(identity, {"fp32": 4e10, "int8": 1e11}, [1.0], COPIES)
    spec = draft_device(benchmark, cores=1)
    assert spec.clusters[0].core == graviton2.clusters[0].core
    assert emulated_cpu(spec) == "neoverse-n1"
    assert "CPU part\t: 0xd0c" in cpuinfo(spec)


def test_a_device_name_is_a_file_name() -> None:
    board = MachineIdentity(board="Raspberry Pi 4 Model B Rev 1.4")
    assert device_name(board) == "raspberry-pi-4-model-b-rev-1-4"
    assert device_name(MachineIdentity(cpu="../☃")) == "machine"

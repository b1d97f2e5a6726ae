"""The real aarch64 onnxruntime under qemu, as a board would run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.device import DeviceSpec, load_device
from edgedistil.core.errors import DeviceFileError, InputError, TargetError
from edgedistil.runtime.protocol import Case, JobModel
from edgedistil.runtime.qemu.target import EmulatedTarget, find_qemu

qemu = pytest.mark.needs("qemu-aarch64")


@qemu
def test_a_device_describes_itself() -> None:
    identity = EmulatedTarget(load_device("zero2w")).identify()
    assert (identity.machine, identity.board, identity.cpu_part) == (
        "aarch64",
        "Raspberry Pi Zero 2 W",
        "0xd03",
    )
    assert identity.memory_bytes == 512 * 2**20
    assert "asimd" in identity.flags
    assert "asimddp" not in identity.flags
    assert (identity.cores, identity.onnxruntime) == (4, "1.32.0")


@qemu
def test_unsigned_weights_run_another_kernel_than_signed_ones(tiny) -> None:
    reply = EmulatedTarget(load_device("rpi4")).run(
        tiny.job(phases=["steady"]), tiny.files(tiny.uint8)
    )
    assert reply.ok, reply.error
    assert reply.conditions["int8 kernels"] == "unsigned widening multiplies (umlal)"


@qemu
def test_a_reply_has_memory_by_phase_and_nothing_of_the_host(tiny, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs.npz"
    target = EmulatedTarget(load_device("rpi4"))
    reply = target.run(tiny.job(), tiny.files(tiny.fp32), outputs_to=outputs)
    assert reply.ok, reply.error
    memory = reply.models["tiny"].memory
    assert memory.start < memory.imported < memory.load <= memory.peak
    assert (
        20 * 2**20 < memory.peak < 200 * 2**20
    )  # the emulator's own 100 MiB and more are not in it
    assert (reply.before.load_1min, reply.after) == (None, None)
    assert np.load(outputs)["tiny/a/last_hidden_state"].shape == (2, 7, 32)
    assert (
        reply.conditions["int8 kernels"] == "none: no 8-bit multiplication ran inside onnxruntime"
    )
    assert "-cpu cortex-a72" in reply.conditions["emulator"]


@qemu
def test_onnxruntime_1_21_0_is_rejected_before_it_dies_of_sigill(tiny) -> None:
    target = EmulatedTarget(load_device("rpi4"), onnxruntime="1.21.0")
    with pytest.raises(
        TargetError, match=r"onnxruntime 1\.21\.0 cannot run .* SIGILL on ARMv8\.0"
    ) as error:
        target.identify()
    assert error.value.exit_code == 4
    reply = target.run(tiny.job(), tiny.files(tiny.fp32))  # without the check
    assert reply.error is not None
    assert (reply.ok, reply.error.kind, reply.error.signal) == (False, "signal", "SIGILL")


@qemu
def test_a_memory_limit_kills(tiny) -> None:
    job = tiny.job(memory_limit_bytes=40 * 2**20)
    reply = EmulatedTarget(load_device("rpi4")).run(job, tiny.files(tiny.fp32))
    assert reply.error is not None
    assert (reply.ok, reply.error.kind) == (False, "memory")
    assert "exceeded the limit" in reply.error.message
    assert "of 40 MiB" in reply.error.message


@qemu
def test_a_job_that_does_not_end_is_stopped(tiny) -> None:
    with pytest.raises(TargetError, match="did not finish within 0 s and was stopped"):
        EmulatedTarget(load_device("rpi4")).run(
            tiny.job(timeout_seconds=0.01), tiny.files(tiny.fp32)
        )


@qemu
def test_a_corrupt_model_is_a_reply(tiny, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(tiny.fp32.read_bytes()[:200])
    reply = EmulatedTarget(load_device("rpi5")).run(tiny.job(), tiny.files(truncated))
    assert reply.error is not None
    assert (reply.ok, reply.error.kind, reply.phase) == (False, "exception", "load tiny")


@qemu
def test_qemu_must_know_the_core() -> None:
    with pytest.raises(TargetError, match="does not know -cpu cortex-z9000"):
        find_qemu("cortex-z9000")


def test_without_qemu_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="apt-get install qemu-user") as error:
        EmulatedTarget(load_device("rpi4")).identify()
    assert error.value.exit_code == 4


def test_only_arm_boards_are_emulated(tiny) -> None:
    with pytest.raises(
        InputError, match="x86-avx2 cannot be emulated: expected a 64-bit ARM device"
    ):
        EmulatedTarget(load_device("x86-avx2")).identify()


def test_a_core_with_every_feature_is_rejected() -> None:
    spec = load_device("rpi4").model_copy(update={"qemu_cpu": "max"})
    assert isinstance(spec, DeviceSpec)
    with pytest.raises(
        DeviceFileError, match="qemu_cpu = 'max' has instructions that no board has"
    ):
        EmulatedTarget(spec).identify()


@qemu
def test_a_job_without_its_files_is_rejected(tiny) -> None:
    job = tiny.job(
        models={"tiny": JobModel(file="m/other.onnx")}, cases=[Case(name="7", keys=["a"])]
    )
    with pytest.raises(InputError, match=r"names 'm/other\.onnx', which is not among its files"):
        EmulatedTarget(load_device("rpi4")).run(job, tiny.files(tiny.fp32))

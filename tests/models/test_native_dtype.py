"""Distillation and fine-tuning decide alike whether a device computes bfloat16 natively."""

from __future__ import annotations

import pytest
import torch

from edgedistil.core.cpu import Cpu
from edgedistil.distill import distributed
from edgedistil.evaluate import finetune
from edgedistil.models import native_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def answers(device: torch.device) -> tuple[bool, bool]:
    """Return what distillation and fine-tuning decide for a device."""
    distilling = distributed.resolve_precision("auto", device) == "bfloat16"
    return distilling, finetune.uses_bfloat16()


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, *flags: str) -> None:
    cpu = Cpu(machine=machine, name="a processor", flags=frozenset(flags))
    monkeypatch.setattr(native_dtype, "this_cpu", lambda: cpu)


@pytest.fixture(autouse=True)
def no_gpu_and_no_x86_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize("native", [True, False])
def test_an_arm_server_with_and_without_bf16(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    pretend(monkeypatch, "aarch64", "asimd", *(["bf16"] if native else []))
    assert answers(CPU) == (native, native)


@pytest.mark.parametrize("question", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_an_x86_server(monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    pretend(monkeypatch, "x86_64", "avx512f")
    assert answers(CPU) == (False, False)
    monkeypatch.setattr(torch.cpu, question, lambda: True)
    assert answers(CPU) == (True, True)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bfloat16_does_not_count(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """Compute capability 7.5 emulates it, and PyTorch counts that as support by default."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: native or including_emulation,
    )
    assert answers(GPU) == (native, native)


def test_other_accelerators_compute_in_float32() -> None:
    assert not native_dtype.bfloat16_is_native(torch.device("mps"))

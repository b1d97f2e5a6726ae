"""Native bfloat16, decided in one place for distillation and fine-tuning."""

from __future__ import annotations

import torch

from edgedistil.core.cpu import BFLOAT16_FLAGS, this_cpu


def bfloat16_is_native(device: torch.device) -> bool:
    """Returns whether a device multiplies bfloat16 matrices in hardware.

    Elsewhere bfloat16 is emulated: slower than float32, and less precise.
    """
    if device.type == "cuda":
        # By default PyTorch counts emulation as support (compute capability below 8.0).
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    cpu = this_cpu()
    if cpu.is_arm:
        # On ARM the processor's flags decide.
        return not BFLOAT16_FLAGS.isdisjoint(cpu.flags)
    # On x86 PyTorch also checks that the operating system lets a process use AMX.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

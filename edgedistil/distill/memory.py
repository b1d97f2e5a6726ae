"""Peak memory of this process on its device."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from edgedistil.core.records import Count, NotMeasured


def reset_peak(device: torch.device) -> None:
    """Forgets the peak so far, where the system lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(
        OSError
    ):  # no Linux, or a sandbox: the peak is then that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> Count:
    """Highest allocation on a GPU; on a CPU the peak resident memory since `reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return NotMeasured(not_measured="this system does not tell a process's peak memory")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

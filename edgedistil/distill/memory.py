"""Memory of a training process: its peak, and freed blocks that are retained between steps."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from edgedistil.core.peak_memory import peak_resident_bytes
from edgedistil.core.records import Count, NotMeasured

# Parameters of mallopt(3) and their defaults, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


def reset_peak(device: torch.device) -> None:
    """Resets the peak that `peak_bytes` returns, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Not Linux, or a sandbox: the peak then covers the lifetime of the process.
    with suppress(OSError):
        # 5 resets VmHWM, see proc(5).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> Count:
    """Returns the highest allocation on a GPU; on a CPU the peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = peak_resident_bytes()
    if peak is None:
        return NotMeasured(
            not_measured="the peak memory of a process is not reported by this system"
        )
    return peak


@contextmanager
def retain_freed_memory() -> Iterator[bool]:
    """Makes glibc retain large freed blocks inside the context; yields whether it does.

    By default every tensor over 32 MiB is a new mapping, and the system zeroes its pages one fault
    at a time: 14% of a step (docs/log.md#retaining-freed-memory-around-the-loop). Applies to the
    entire process; other C libraries are left as they are.
    """
    if not _is_glibc():
        yield False
        return
    libc = ctypes.CDLL(None)
    # Blocks freed earlier go back to the system first, so that they do not add to the peak.
    libc.malloc_trim(0)
    try:
        # No separate mappings, and the heap is never trimmed.
        yield bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))
    finally:
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        libc.malloc_trim(0)


def return_freed_memory() -> None:
    """Returns freed blocks to the system, also where they are retained.

    Texts of many lengths leave gaps that no later tensor fits into, so that a process grows for as
    long as it trains (docs/log.md#retaining-freed-memory-around-the-loop).
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"

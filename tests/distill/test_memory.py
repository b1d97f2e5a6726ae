"""Peak memory, and freed blocks that are retained inside a context and returned after it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from edgedistil.distill import memory
from edgedistil.distill.memory import retain_freed_memory, return_freed_memory

CPU = torch.device("cpu")

# In a process of its own: the settings are those of a process, and so is its resident memory.
PROGRAM = """
import psutil, torch
from edgedistil.distill.memory import retain_freed_memory, return_freed_memory
def resident(): return psutil.Process().memory_info().rss
def allocate_and_free(): torch.zeros(1 << 26)  # 256 MiB
allocate_and_free(); before = resident()
with retain_freed_memory() as retains:
    allocate_and_free(); inside = resident()
    return_freed_memory(); returned = resident()
    allocate_and_free()
print(int(retains), inside - before, returned - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports a process's peak memory")
def test_the_peak_includes_memory_that_was_freed() -> None:
    memory.reset_peak(CPU)
    before = memory.peak_bytes(CPU)
    torch.ones(50_000_000).sum()
    after = memory.peak_bytes(CPU)
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after - before > 150_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets options of glibc's allocator")
def test_freed_memory_is_retained_inside_and_returned_after() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    retains, inside, returned, after = map(int, done.stdout.split())
    assert retains == 1
    assert inside > 200 << 20
    assert returned < 50 << 20
    assert after < 50 << 20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr("ctypes.CDLL", lambda _name: pytest.fail("it was called"))
    with retain_freed_memory() as retains:
        assert retains is False
        return_freed_memory()

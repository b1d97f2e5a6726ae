"""Peak memory, and freed blocks that are retained inside a context and returned after it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgedistil.core import peak_memory
from edgedistil.core.records import NotMeasured
from edgedistil.distill import memory
from edgedistil.distill.memory import retain_freed_memory, return_freed_memory
from edgedistil.inference import footprint

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
    torch.ones(100_000_000).sum()
    after = memory.peak_bytes(CPU)
    assert isinstance(before, int)
    assert isinstance(after, int)
    # The system may take back pages of mapped files meanwhile.
    assert after - before > 200_000_000


@pytest.mark.parametrize("content", ["Name:\tpython\nVmRSS:\t 9 kB\n", "", None])
def test_a_system_without_a_peak_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    status = tmp_path / "status"
    if content is not None:
        status.write_text(content)
    monkeypatch.setattr(peak_memory, "_STATUS", status)
    assert memory.peak_bytes(CPU) == NotMeasured(
        not_measured="the peak memory of a process is not reported by this system"
    )
    with pytest.raises(OSError, match="has no VmHWM"):
        footprint.peak_bytes()


def test_the_peak_is_read_behind_a_name_of_any_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").write_bytes(b"Name:\tpyth\xffn\nVmHWM:\t  7 kB\n")
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    assert memory.peak_bytes(CPU) == footprint.peak_bytes() == 7 * 1024


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

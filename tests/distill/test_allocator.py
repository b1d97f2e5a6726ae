"""Freed memory stays inside, and goes back at the end."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import psutil, torch
from edgedistil.distill.allocator import freed_memory_kept
def held(): return psutil.Process().memory_info().rss
def touch(): torch.zeros(1 << 26)  # 256 MiB, freed at once
touch(); before = held()
with freed_memory_kept() as kept:
    touch(); inside = held()
print(int(kept), inside - before, held() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that is told"
)
def test_memory_is_kept_inside_and_given_back_after() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    kept, inside, after = map(int, done.stdout.split())
    assert kept == 1
    assert inside > 200 << 20
    assert after < 50 << 20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedistil.distill.allocator import freed_memory_kept

    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr("ctypes.CDLL", lambda _name: pytest.fail("it was called"))
    with freed_memory_kept() as kept:
        assert kept is False

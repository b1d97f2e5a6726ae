from __future__ import annotations

import sys

import pytest
import torch

from edgedistil.distill import memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak memory")
def test_peak_sees_what_was_there_for_a_moment() -> None:
    memory.reset_peak(CPU)
    before = memory.peak_bytes(CPU)
    torch.ones(50_000_000).sum()
    after = memory.peak_bytes(CPU)
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after - before > 150_000_000

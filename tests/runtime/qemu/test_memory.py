"""Sums over /proc/PID/smaps, the memory limit, and sampled phases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgedistil.runtime.protocol import Reply
from edgedistil.runtime.qemu.memory import GUEST_RANGE, MemoryWatch

SMAPS = """00400000-00916000 r-xp 00000000 fe:00 1 /usr/bin/python3.11
Rss:                3000 kB
Pss:                1000 kB
VmFlags: rd ex
5500000000-5500801000 rw-p 00000000 00:00 0 [stack]
Rss:                  24 kB
60000000-61000000 r-xp 00000000 fe:00 2 /usr/bin/qemu-aarch64
Rss:                7777 kB
5555aa000000-5555ab000000 rw-p 00000000 00:00 0
Rss:               99999 kB
"""


def watch_of(tmp_path: Path, *, limit: int = 2**40) -> MemoryWatch:
    watch = MemoryWatch(1, tmp_path / "reply.json", limit=limit, emulator="/usr/bin/qemu-aarch64")
    (tmp_path / "smaps").write_text(SMAPS)
    watch._smaps = tmp_path / "smaps"
    return watch


def test_only_the_guest_counts_not_the_emulator(tmp_path: Path) -> None:
    assert watch_of(tmp_path)._guest_bytes() == (3000 + 24) * 1024
    assert GUEST_RANGE == (0, 2**39)


def test_memory_of_the_parity_check_is_neither_peak_nor_limited(tmp_path: Path) -> None:
    (tmp_path / "reply.json").write_text('{"phase": "outputs"}')
    watch = watch_of(tmp_path, limit=1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch._sample(process)
        assert (watch.peak, watch.killed, process.poll()) == (0, False, None)
        (tmp_path / "reply.json").unlink()
        (tmp_path / "reply.json").write_text('{"phase": "load tiny"}')
        watch._sample(process)
        assert (watch.peak, watch.killed) == (3024 * 1024, True)
        assert process.wait(10) == -9


def test_phases_are_sampled_where_the_guest_cannot_sum_its_own_memory(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    watch.samples = {"import": 11, "load tiny": 13, "first call tiny": 17, "steady tiny 7": 19}
    watch.peak = 23
    zeros = {"start": 0, "import": 0, "load": 0, "run": 0}
    reply = Reply.model_validate(
        {
            "format": 1,
            "ok": True,
            "phase": "done",
            "runner_sha256": "x",
            "models": {"tiny": {"memory": zeros}},
        }
    )
    memory = watch.fill_in(reply).models["tiny"].memory
    assert (memory.imported, memory.load, memory.first_call, memory.run, memory.peak) == (
        11,
        13,
        17,
        19,
        23,
    )
    assert watch.source == "sampled from outside about every 50 ms"

"""Resident memory of an emulated process, seen from outside: the guest's part, its peak, and a limit that kills."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from edgedistil.runtime.protocol import PhaseMemory, Reply

# qemu maps a 64-bit guest below 2^39 and itself far above; the emulator's own 100 MiB and more are not the guest's.
GUEST_RANGE = (0, 1 << 39)
_EVERY_S, _REST = (
    0.05,
    10,
)  # a sample walks hundreds of mappings: at most a tenth of the time goes there
# What is gathered for the parity gate is not what a deployment holds.
_NOT_DEPLOYED = ("outputs", "ops", "energy")


class MemoryWatch:
    """Samples a process until it ends, and kills it when the guest holds more than `limit`.

    The runner's own sums (taken inside, exactly at the end of a phase) are the better ones where the emulator lets the
    guest read /proc/self/smaps; newer ones answer zeros, and then the last sample of each phase stands in.
    """

    def __init__(self, pid: int, reply: Path, *, limit: int, emulator: str) -> None:
        self._smaps = Path(f"/proc/{pid}/smaps")
        self._reply, self._limit, self._emulator = reply, limit, emulator
        self._phase, self._phase_at = "start", 0
        self.last: dict[str, int] = {}
        self.peak = 0
        self.killed = False
        self.how = "summed inside it"

    def watch(self, process: subprocess.Popen[bytes], timeout_seconds: float) -> int:
        """The exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: It did not end in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while (status := process.poll()) is None:
            begun = time.monotonic()
            self._sample(process)
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(process.args, timeout_seconds)
            time.sleep(max(_EVERY_S, _REST * (time.monotonic() - begun)))
        return status

    def fill_in(self, reply: Reply) -> Reply:
        """The reply with the sampled peak, and with sampled phases where the guest could not sum its own memory."""
        if len(reply.models) != 1:
            return reply  # several models in one process: no figure belongs to one of them
        (label, answer), *_ = reply.models.items()
        memory = answer.memory if answer.memory.load else self._sampled()
        peak = max(self.peak, memory.peak or 0) or None
        told = answer.model_copy(update={"memory": memory.model_copy(update={"peak": peak})})
        return reply.model_copy(update={"models": {label: told}})

    def _sampled(self) -> PhaseMemory:
        self.how = f"sampled from outside about every {_EVERY_S * 1e3:.0f} ms"

        def last(phase: str) -> int | None:
            return next(
                (value for name, value in reversed(self.last.items()) if name.startswith(phase)),
                None,
            )

        found = {
            "import": last("import"),
            "load": last("load"),
            "first_call": last("first"),
            "run": last("steady"),
        }
        return PhaseMemory.model_validate(found)

    def _sample(self, process: subprocess.Popen[bytes]) -> None:
        held = self._guest_bytes()
        if held is None:
            return
        phase = self._current_phase()
        self.last[phase] = held
        if phase.startswith(_NOT_DEPLOYED):
            return
        self.peak = max(self.peak, held)
        if held > self._limit:
            self.killed = True
            process.kill()

    def _current_phase(self) -> str:
        try:
            at = self._reply.stat().st_mtime_ns
            if at != self._phase_at:
                self._phase, self._phase_at = json.loads(self._reply.read_bytes())["phase"], at
        except (OSError, ValueError, KeyError):
            pass  # not written yet
        return self._phase

    def _guest_bytes(self) -> int | None:
        total, inside = 0, False
        try:
            with self._smaps.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if line.startswith("Rss:"):
                        total += int(line.split()[1]) * 1024 if inside else 0
                    elif not line[0].isupper():
                        inside = self._is_guest(line)
        except (OSError, ValueError):
            return None  # it has just ended
        return total

    def _is_guest(self, mapping: str) -> bool:
        begin, _, end = mapping.split(None, 1)[0].partition("-")
        low, high = GUEST_RANGE
        return low <= int(begin, 16) and int(end, 16) <= high and self._emulator not in mapping

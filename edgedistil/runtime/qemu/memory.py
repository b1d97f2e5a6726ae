"""Resident memory of an emulated process, sampled and limited from outside.

Only the guest's address range counts (docs/decisions.md#memory-of-the-guests-address-range-only);
the sum over it agrees with a real process within 4%
(docs/log.md#guest-memory-against-host-memory).
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from edgedistil.runtime.protocol import PhaseMemory, Reply

# qemu maps a 64-bit guest below 2^39 and itself far above.
GUEST_RANGE = (0, 1 << 39)
# A sample reads hundreds of mappings: the pause after it is ten times as long, so that sampling
# takes at most a tenth of a core.
_INTERVAL_S = 0.05
_PAUSE_FACTOR = 10
# Phases in which the process holds more than a deployed model would: what they collect is for the
# parity check and the report.
_NOT_DEPLOYED = ("outputs", "ops", "energy")
# Field of `PhaseMemory` → beginning of the names of its phases.
_PHASES = {"import": "import", "load": "load", "first_call": "first", "run": "steady"}


class MemoryWatch:
    """Samples a process's memory, and kills it above a limit.

    The runner also sums its own memory, exactly at the end of each phase. Those figures are used
    where the emulator shows the guest the real /proc/self/smaps; newer ones return zeros there, and
    then the last sample of each phase takes their place.

    Attributes:
        samples: Last sample of each phase, in bytes.
        peak: Largest sample, in bytes.
        killed: Whether the limit was exceeded.
        source: Where the figures per phase come from, for records.
    """

    def __init__(self, pid: int, reply: Path, *, limit: int, emulator: str) -> None:
        self._smaps = Path(f"/proc/{pid}/smaps")
        self._reply = reply
        self._limit = limit
        self._emulator = emulator
        self._phase, self._phase_mtime_ns = "start", 0
        self.samples: dict[str, int] = {}
        self.peak = 0
        self.killed = False
        self.source = "summed inside it"

    def watch(self, process: subprocess.Popen[bytes], timeout_seconds: float) -> int:
        """Samples until the process ends; returns its exit status.

        A negative status is a signal.


        Raises:
            subprocess.TimeoutExpired: It did not end in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while (status := process.poll()) is None:
            started = time.monotonic()
            self._sample(process)
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(process.args, timeout_seconds)
            time.sleep(max(_INTERVAL_S, _PAUSE_FACTOR * (time.monotonic() - started)))
        return status

    def fill_in(self, reply: Reply) -> Reply:
        """Returns the reply with sampled figures where it has none."""
        # With several models in one process, no figure belongs to one of them.
        if len(reply.models) != 1:
            return reply
        ((label, result),) = reply.models.items()
        memory = result.memory
        if not memory.load:
            self.source = f"sampled from outside about every {_INTERVAL_S * 1e3:.0f} ms"
            memory = self._sampled_phases()
        peak = max(self.peak, memory.peak or 0) or None
        memory = memory.model_copy(update={"peak": peak})
        return reply.model_copy(
            update={"models": {label: result.model_copy(update={"memory": memory})}}
        )

    def _sampled_phases(self) -> PhaseMemory:
        values = {}
        for field, beginning in _PHASES.items():
            # A field may have several phases (`steady … 16`, `steady … 128`): the last one counts.
            for phase, sample in self.samples.items():
                if phase.startswith(beginning):
                    values[field] = sample
        return PhaseMemory.model_validate(values)

    def _sample(self, process: subprocess.Popen[bytes]) -> None:
        resident = self._guest_bytes()
        if resident is None:
            return
        phase = self._current_phase()
        self.samples[phase] = resident
        if phase.startswith(_NOT_DEPLOYED):
            return
        self.peak = max(self.peak, resident)
        if resident > self._limit:
            self.killed = True
            process.kill()

    def _current_phase(self) -> str:
        """Returns the phase that the runner wrote into its reply last."""
        try:
            mtime_ns = self._reply.stat().st_mtime_ns
            # The reply grows to megabytes: it is parsed only after it changed.
            if mtime_ns != self._phase_mtime_ns:
                self._phase = json.loads(self._reply.read_bytes())["phase"]
                self._phase_mtime_ns = mtime_ns
        except (OSError, ValueError, KeyError):
            pass  # not written yet
        return self._phase

    def _guest_bytes(self) -> int | None:
        """Sums `Rss` over the guest's mappings; None if the process has ended."""
        total, inside = 0, False
        try:
            with self._smaps.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    # Lines with figures begin with a capital letter, mappings with an address.
                    if line.startswith("Rss:"):
                        total += int(line.split()[1]) * 1024 if inside else 0
                    elif not line[0].isupper():
                        inside = self._is_guest(line)
        except (OSError, ValueError):
            return None
        return total

    def _is_guest(self, mapping: str) -> bool:
        begin, _, end = mapping.split(None, 1)[0].partition("-")
        low, high = GUEST_RANGE
        # The emulator's own program may be mapped in the guest's range.
        is_emulator = self._emulator in mapping
        return low <= int(begin, 16) and int(end, 16) <= high and not is_emulator

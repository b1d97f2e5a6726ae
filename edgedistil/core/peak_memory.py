"""Peak resident memory of this process, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int | None:
    """Returns the high-water mark of the resident memory; None where the system has no figure."""
    # Not getrusage: its figure starts with that of the process that started this one.
    try:
        # The name of the process may have any bytes.
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        # Absent in some sandboxes and containers.
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return None

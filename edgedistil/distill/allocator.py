"""Memory that a training step gives back, kept for the next one."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep the large blocks that are freed; says whether it does.

    By default every tensor over 32 MiB is a fresh mapping, and the system zeroes its pages one fault at a time: a fifth
    of a training step on a CPU. For the whole process, and without effect on other C libraries.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))

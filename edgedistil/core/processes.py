"""Child processes that end with this one, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Sets the parent-death signal (Linux), then becomes the command, which keeps the setting. Other
# systems have no such signal: there the command runs on.
_SCRIPT = """
import os, signal, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
except (ImportError, OSError, AttributeError):
    pass
# The parent may have ended before the signal was set.
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def ending_with_this_process(command: Sequence[str]) -> list[str]:
    """Returns a command that gets SIGTERM when the thread that starts it ends.

    Not a `preexec_fn`, because that may deadlock in a process with threads.

    Args:
        command: Absolute path of a program, and its arguments.
    """
    # -I and -S: the interpreter starts in 15 ms and reads nothing of the user's.
    return [sys.executable, "-I", "-S", "-c", _SCRIPT, str(os.getpid()), *command]

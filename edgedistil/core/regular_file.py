"""Opens regular files only: a named pipe would block for ever, and a device has no end."""

from __future__ import annotations

import errno
import stat
from io import BufferedReader
from pathlib import Path

# Bytes that are read at once.
_PIECE_BYTES = 2**20
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file, or a link to one, for reading bytes.

    Raises:
        OSError: The file is missing, cannot be read, or is not a regular file; `strerror` says it.
    """
    check_regular(path)
    return path.open("rb")


def check_regular(path: Path) -> None:
    """Raises OSError unless `path` is a regular file, or a link to one."""
    try:
        mode = path.stat().st_mode
    except ValueError:
        # Python refuses a NUL before it asks the system.
        raise OSError(errno.EINVAL, "a file name cannot contain a NUL", str(path)) from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
        raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file", str(path))


def read_regular(path: Path, *, limit_bytes: int) -> bytes:
    """Reads a regular file of at most `limit_bytes`.

    Raises:
        OSError: As in `open_regular`, or the file is larger.
    """
    # In pieces: `read` would allocate the limit at once, and the size of a file in /proc is 0.
    data = bytearray()
    with open_regular(path) as file:
        while piece := file.read(_PIECE_BYTES):
            data += piece
            if len(data) > limit_bytes:
                problem = f"it has more than {limit_bytes / 2**20:,.0f} MiB"
                raise OSError(errno.EFBIG, problem, str(path))
    return bytes(data)

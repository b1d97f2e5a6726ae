"""Output of a remote command, without what login scripts print around it."""

from __future__ import annotations

from edgedistil.core.errors import TargetError

# What a login script may print before a command; it is not stored. A script that prints without end
# would otherwise take the command's time.
LOGIN_OUTPUT_BYTES = 2**26
# The mark and the status after a command's output, and what a logout script may print.
_TRAILER_BYTES = 2**16


class MarkedOutput:
    """Output of a command after its first mark.

    Args:
        mark: The mark before and after the output.
        limit_bytes: More output than this is an error.
        source: Name of the board in messages.
    """

    def __init__(self, mark: str, limit_bytes: int, source: str) -> None:
        self._mark = f"\n{mark}\n".encode()
        self._limit_bytes = limit_bytes
        self._source = source
        self._started = False
        # Before the mark: the end of what was read, which may be a part of the mark.
        self._parts: list[bytes] = [b""]
        self._size = 0

    def add(self, part: bytes) -> None:
        """Adds what was read; drops what a login script printed.

        Raises:
            TargetError: It exceeds the limit.
        """
        self._size += len(part)
        if self._started:
            self._parts.append(part)
        else:
            before, mark, after = (self._parts[0] + part).partition(self._mark)
            self._parts = [after if mark else before[-len(self._mark) :]]
            if mark:
                self._started, self._size = True, len(after)
        if not self._started and self._size > LOGIN_OUTPUT_BYTES:
            raise TargetError(
                f"{self._source} printed {LOGIN_OUTPUT_BYTES} bytes before a command started",
                hint="check its login scripts: they should print nothing without a terminal",
            )
        if self._started and self._size > self._limit_bytes + _TRAILER_BYTES:
            raise TargetError(
                f"{self._source} sent more than the expected {self._limit_bytes} bytes; "
                f"the rest was not read"
            )

    def content(self) -> bytes:
        """Returns what was read after the mark; empty without a mark."""
        return b"".join(self._parts) if self._started else b""

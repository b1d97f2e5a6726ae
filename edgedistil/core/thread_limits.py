"""The largest thread count that is accepted on a machine."""

from __future__ import annotations

from collections.abc import Iterable

from edgedistil.core.errors import InputError
from edgedistil.core.format import plural

# More threads than cores only wait for each other: 1000 on two cores take minutes for one call.
_THREADS_PER_CORE = 4
_MIN_MAX_THREADS = 8


def check_threads(
    threads: Iterable[int], cores: int, *, machine: str, setting: str = "--threads"
) -> None:
    """Raises InputError if a thread count is far above a machine's cores.

    Args:
        threads: Thread counts.
        cores: Cores that a process may use there.
        machine: Name of the machine in the message.
        setting: Flag or key of the thread counts.
    """
    most = max(_MIN_MAX_THREADS, _THREADS_PER_CORE * cores)
    for count in threads:
        if count > most:
            raise InputError(
                f"{setting} is {count}: {machine} has {plural(cores, 'core')}; "
                f"expected at most {most}"
            )

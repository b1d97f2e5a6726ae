"""Pools of worker processes that end with this process, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from threading import Thread

from edgedistil.core import console
from edgedistil.core.scratch import sweep

# A worker that does not react to SIGTERM for this long is killed.
_TERMINATION_S = 10.0


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of new processes; an exception in the block ends them at once.

    Several workers are silent: their parent shows the progress of all.
    """
    others = set(multiprocessing.active_children())
    # `spawn`, because a forked process inherits loaded modules and their threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(count > 1,))
    try:
        yield pool
    except BaseException:
        # Leaving the pool would wait for running work, which can take hours.
        pool.shutdown(wait=False, cancel_futures=True)
        workers = set(multiprocessing.active_children()) - others
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(_TERMINATION_S)
            worker.kill()
        # They could not remove their scratch folders.
        with suppress(OSError):
            sweep(Path(tempfile.gettempdir()))
        raise
    finally:
        pool.shutdown()


def _start(silent: bool) -> None:
    """Prepares a worker before its first call."""
    console.err.quiet = console.err.quiet or silent
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    # The sentinel is a pipe that the parent holds: also SIGKILL closes it.
    connection.wait([parent.sentinel])
    os._exit(1)

"""The machine that a search measures on: this one, or a board over SSH."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import HOST, load_device
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.thread_limits import check_threads
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.match import identify_board
from edgedistil.runtime.target import Target

Version = tuple[int, int]


@contextmanager
def open_target(options: SearchOptions, *, oldest_runtime: Version) -> Iterator[Target]:
    """Yields the machine that candidates are measured on, after it was checked.

    Args:
        options: Device, threads and destination of a search.
        oldest_runtime: Oldest onnxruntime that runs the candidates.
    Raises:
        InputError: The device is neither this machine nor reachable over SSH, the board is another
            device, or it has far fewer cores than there are threads.
        TargetError: The board cannot be reached, or has no onnxruntime that runs the candidates.
    """
    if options.ssh is not None:
        # Imported here: most searches need no connection.
        from edgedistil.runtime.ssh.target import SshTarget

        spec = load_device(options.device)
        with SshTarget(options.ssh, bootstrap=options.bootstrap, spec=spec) as board:
            identity = board.identify()
            identify_board(spec, identity, board.source)
            check_threads([options.threads], identity.usable_threads or 1, machine=board.source)
            _check_runtime(identity, oldest_runtime, source=board.source)
            yield board
    elif options.device == HOST:
        yield LocalTarget()
    else:
        raise InputError(
            f"--measure: device '{options.device}' is not this machine",
            hint="add --ssh USER@HOST to measure on the board, or search with --device host",
        )


def check_board(options: SearchOptions, *, oldest_runtime: Version) -> None:
    """Raises as `open_target` does, before hours of training, if a board cannot be used."""
    if options.ssh is not None:
        with open_target(options, oldest_runtime=oldest_runtime):
            pass


def _check_runtime(identity: MachineIdentity, oldest: Version, *, source: str) -> None:
    """Raises TargetError if a board's onnxruntime is older than what candidates need."""
    version = identity.onnxruntime or ""
    numbers = version.split(".")[:2]
    # A version that is not two numbers is a build of the user's own.
    if not all(number.isdigit() for number in numbers):
        return
    if tuple(map(int, numbers)) < oldest:
        least = ".".join(map(str, oldest))
        raise TargetError(
            f"{source} has onnxruntime {version}; the candidates need {least} or newer",
            hint=f"install it there: python3 -m pip install 'onnxruntime>={least}'",
        )

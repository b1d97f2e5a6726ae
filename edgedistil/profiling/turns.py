"""Processes in which artefacts take turns, repeated until enough of them ran undisturbed.

Claims and `--tune` compare artefacts only by such processes: a change of the machine reaches both
sides within milliseconds (docs/measuring.md#the-speed-claim).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from edgedistil.core.records import NotMeasured
from edgedistil.profiling.latency import Ratio, speed_ratio
from edgedistil.profiling.rows import throttling
from edgedistil.runtime.disturbance import turns_disturbances
from edgedistil.runtime.protocol import AlternationResult, Block, Reply

# Runs process `number`, with the named comparisons only.
RunProcess = Callable[[int, Collection[str]], Reply]


@dataclass
class Comparison:
    """Blocks of one comparison, by process.

    Attributes:
        processes: Blocks of every undisturbed process.
        disturbed: First sign of other work or throttling in each disturbed process.
    """

    processes: list[list[Block]] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)

    def ratio(self, needed: int) -> Ratio | NotMeasured:
        """Returns the speed ratio, or how many processes were disturbed and by what."""
        if len(self.processes) < needed:
            ran = len(self.processes) + len(self.disturbed)
            return NotMeasured(
                not_measured=f"{len(self.disturbed)} of {ran} processes, and {needed} undisturbed "
                f"ones are needed: {self.disturbed[0]}"
            )
        return speed_ratio([block_times(blocks) for blocks in self.processes])

    def add(self, result: AlternationResult, reply: Reply, *, threads: int) -> None:
        """Adds the blocks of another process."""
        reasons = turns_disturbances(result, reply, threads=threads)
        # At a lower clock memory costs fewer cycles: the two models slow down by unlike amounts.
        throttled = throttling(reply.before, reply.after)
        if throttled is not None:
            reasons.append(throttled)
        if reasons:
            self.disturbed.append(reasons[0])
        else:
            self.processes.append(result.blocks)


def compare_in_turns(
    run_process: RunProcess, names: Collection[str], *, processes: int, threads: int
) -> dict[str, Comparison]:
    """Runs processes until every comparison has as many undisturbed ones as it needs.

    Every process is run once more at most, so a busy machine takes twice the time, and less where
    the remaining processes can no longer be enough.

    Args:
        run_process: Runs one process; a repeated one has the same number.
        names: The comparisons.
        processes: Undisturbed processes that each one needs.
        threads: Threads of the sessions.
    """
    comparisons = {name: Comparison() for name in names}
    attempts = 2 * processes
    for attempt in range(attempts):
        left = attempts - attempt
        unfinished = []
        for name, comparison in comparisons.items():
            missing = processes - len(comparison.processes)
            if 0 < missing <= left:
                unfinished.append(name)
        if not unfinished:
            break
        reply = run_process(attempt % processes, unfinished)
        for result in reply.alternation:
            comparisons[result.name].add(result, reply, threads=threads)
    return comparisons


def block_times(blocks: list[Block]) -> list[tuple[int, int]]:
    """Returns the times of both artefacts in each block, in nanoseconds."""
    return [(sum(block.first_ns), sum(block.second_ns)) for block in blocks]

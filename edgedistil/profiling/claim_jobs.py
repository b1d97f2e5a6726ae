"""Jobs in which the two artefacts of a speed claim take turns."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.task import FILL_MASK_TASK
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.claims import Pairing
from edgedistil.profiling.workload import PAIRS
from edgedistil.runtime.protocol import Alternation, Case, Job, JobModel

# Limit of a job with all its cases: far above any run seen, so that only a hung one ends here.
TIMEOUT_SECONDS = 3600
# Blocks of a process: an even number, so that both models are first equally often, and few, because
# only processes are samples of the interval. The median of 4 leaves out one that was disturbed.
_MIN_BLOCKS, _MAX_BLOCKS = 2, 4
# Timed calls of a model in a process, at most, unless 2 blocks have more: half a second.
_MAX_CALLS = 48


def alternating_job(
    pairs: Sequence[Pairing], models: dict[str, JobModel], keys: list[str], threads: int
) -> Job:
    """Returns the job of one process, in which the artefacts of each pairing take turns.

    Args:
        pairs: The pairings.
        models: Models of their artefacts by label.
        keys: Sentence pairs of the process.
        threads: Threads of the sessions.
    """
    return Job(
        models=models,
        cases=[Case(name=PAIRS, keys=keys, mode="pass")],
        alternate=[_alternation(pairing, keys) for pairing in pairs],
        phases=[],
        threads=threads,
        timeout_seconds=TIMEOUT_SECONDS,
    )


def _alternation(pairing: Pairing, keys: list[str]) -> Alternation:
    pairing_keys = alternated_keys(pairing, keys)
    # Each block has all pairs of the process, so its ratio is one of sums over the same texts, as
    # the paper's is.
    blocks = _MAX_BLOCKS if len(pairing_keys) * _MAX_BLOCKS <= _MAX_CALLS else _MIN_BLOCKS
    return Alternation(
        name=pairing.name,
        first=pairing.first.label,
        second=pairing.second.label,
        keys=pairing_keys,
        blocks=blocks,
        calls_per_block=len(pairing_keys),
    )


def alternated_keys(pairing: Pairing, keys: list[str]) -> list[str]:
    """Returns the sentence pairs that a pairing alternates on."""
    # A call of a fill-mask model costs a multiple of the encoder's: half of the pairs are enough
    # (docs/log.md#duration-of-a-profile).
    return keys[::2] if pairing.first.task == FILL_MASK_TASK else keys


def artefacts_of(pairs: Sequence[Pairing]) -> list[Artefact]:
    """Returns the artefacts of all pairings, each one once."""
    artefacts: dict[str, Artefact] = {}
    for pairing in pairs:
        artefacts[pairing.first.label] = pairing.first
        artefacts[pairing.second.label] = pairing.second
    return list(artefacts.values())

"""Time that turning a text into token ids takes on this machine, next to the time of a call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedistil.core.profile_records import ProfileRow
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.workload import PAIRS, Workload, Workloads

_WARMUP_CALLS = 5
# As many as the p95 of a steady case needs: a text takes some 0.1 ms.
_CALLS = 60
_PAIRS = NotMeasured(not_measured="measured for single texts")


def add_tokenization(
    rows: Sequence[ProfileRow], artefacts: Sequence[Artefact], workloads: Workloads
) -> list[ProfileRow]:
    """Returns rows of this machine with the tokenization times of their texts.

    Args:
        rows: Rows of a profile of this machine.
        artefacts: The artefacts of the rows.
        workloads: Their inputs; the texts are those that the tokens decode to.
    Conditions:
        The tokenizers library in this process, one text at a time, special tokens and character
        offsets included; the median of 60 calls after 5, over the texts of a length.
    """
    times: dict[tuple[Path, int], float] = {}
    for folder in {artefact.tokenizer for artefact in artefacts}:
        tokenizer = read_tokenizer(folder)
        workload = workloads.by_tokenizer[folder]
        for length in workload.lengths:
            times[folder, length] = _time_ms(tokenizer, _texts(tokenizer, workload, length))
    folders = {artefact.sha256: artefact.tokenizer for artefact in artefacts}
    return [
        row.model_copy(update={"tokenization_ms": _figure(row, folders, times)}) for row in rows
    ]


def _figure(
    row: ProfileRow, folders: Mapping[str, Path], times: Mapping[tuple[Path, int], float]
) -> Figure:
    if row.length == PAIRS:
        return _PAIRS
    return times[folders[row.artefact_sha256], int(row.length)]


def _texts(tokenizer: TextTokenizer, workload: Workload, length: int) -> list[str]:
    """Returns texts of a number of tokens."""
    rows = [workload.inputs[key]["input_ids"][0].tolist() for key in workload.lengths[length]]
    return [tokenizer.backend.decode(ids, skip_special_tokens=True) for ids in rows]


def _time_ms(tokenizer: TextTokenizer, texts: Sequence[str]) -> float:
    """Returns the median milliseconds of a call."""
    samples = []
    for number in range(_WARMUP_CALLS + _CALLS):
        text = texts[number % len(texts)]
        started = time.perf_counter_ns()
        tokenizer.backend.encode(text)
        samples.append(time.perf_counter_ns() - started)
    return statistics.median(samples[_WARMUP_CALLS:]) / 1e6

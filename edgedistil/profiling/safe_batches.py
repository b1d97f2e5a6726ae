"""Finds the largest batches with which a program that runs an artefact stays within a memory limit.

For each length a line through two measured peaks gives a first guess, and the guess is measured in
its turn. At the end one process makes calls of all shapes, the longest texts first, as
`edgedistil.Encoder` does; where its peak is too high, all batches shrink and it runs again. So
every shape that is reported has run within the limit (docs/decisions.md#largest-safe-batches).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core import console
from edgedistil.core.bulk_limit import BulkLimit, SafeShape
from edgedistil.core.bulk_records import ArtefactLimit
from edgedistil.core.contract import CONTRACT_FILE, read_contract
from edgedistil.core.device import HOST
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.format import artefact_name, plural
from edgedistil.core.session import (
    SESSION_FILE,
    SessionOptions,
    read_session_file,
    set_bulk_limit,
)
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.batches import as_inputs, is_out_of_memory
from edgedistil.profiling.limits import require_success
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Case, Job, Reply

# Part of the limit that stays free. Passes over texts of mixed lengths took up to 6.9% more than
# the measured shapes (docs/log.md#margin-of-a-memory-limit).
MARGIN = 0.08
MARGIN_REASON = "batches of mixed lengths fragment the memory: passes took up to 6.9% more"
# Positions of a call that are tried at most, which bounds the time of the search.
MOST_POSITIONS = 16_384
# Positions of the two peaks that the first guess comes from.
_FIRST_POSITIONS = (1024, 3072)
# Guesses at a length, and processes with all shapes, which bound the time of the search.
_GUESSES = 3
_CHECKS = 5
# Calls of each shape: the first one plans the memory, the second one takes it.
_CALLS = 3
_TIMEOUT_SECONDS = 1800
# Private memory of a process without calls, its threads' stacks included; far above what it takes.
_BASE_PRIVATE_BYTES = 2**31
# Token ids where the graph does not say how many it has.
_FEW_IDS = 100


def find_limits(
    limit_bytes: int, artefacts: Sequence[Artefact], lengths: Sequence[int], *, threads: int
) -> list[ArtefactLimit]:
    """Returns the largest batches of every artefact that is deployed; see `find_limit`."""
    # Of a fixed number of texts there is nothing to choose.
    free = [a for a in artefacts if a.role != "teacher" and a.graph.batch == 1]
    limits = []
    with console.progress("looking for the largest batches", len(free), unit="models") as bar:
        for artefact in free:
            bar.note(artefact.label)
            limits.append(find_limit(limit_bytes, artefact, lengths, threads=threads))
            bar.advance()
    return limits


def find_limit(
    limit_bytes: int, artefact: Artefact, lengths: Sequence[int], *, threads: int
) -> ArtefactLimit:
    """Returns the largest batches of an artefact at each length, and writes them to session.json.

    Args:
        limit_bytes: The limit of the program's resident memory.
        artefact: The artefact.
        lengths: Lengths in tokens; the longest that the model reads is added.
        threads: Threads of the session.
    Conditions:
        Every peak is that of a fresh process with the session options of the export folder and ids
        of all of the vocabulary. File pages of the weights count, though a kernel can drop them.
    Raises:
        ModelError: The artefact does not run on this host.
        TargetError: The memory of the program itself cannot be measured.
    """
    folder = _export_folder(artefact)
    longest = _longest(artefact, folder, lengths)
    reserved = measure_reserved(artefact.tokenizer, longest)
    search = _Search(
        artefact=artefact,
        options=_session_options(artefact, folder),
        threads=threads,
        allowed=int((1 - MARGIN) * limit_bytes) - reserved,
    )
    # The longest text is always tried: a collection may hold one.
    tried = sorted({*(length for length in lengths if length <= longest), longest})
    batches, peak = search.run(tried)
    # The peak is that of the process which ran every shape, with the reserved part added.
    limit = BulkLimit(
        limit_bytes=limit_bytes,
        shapes=[SafeShape(length=length, batch=batches[length]) for length in sorted(batches)],
        reserved_bytes=reserved,
        peak_bytes=peak + reserved if batches else 0,
        margin=MARGIN,
        margin_reason=MARGIN_REASON,
        threads=threads,
    )
    # A graph outside an export folder has no file to write to.
    session_file = None
    if folder is not None:
        session_file = folder / SESSION_FILE
        set_bulk_limit(session_file, _path_in(artefact, folder), limit)
    return ArtefactLimit(
        model=artefact.model,
        role=artefact.role,
        task=artefact.task,
        precision=artefact.precision,
        artefact_sha256=artefact.sha256,
        device=HOST,
        limit=limit,
        session_file=None if session_file is None else str(session_file),
    )


def require_batches(
    limits: Sequence[ArtefactLimit], batches: Sequence[int], lengths: Sequence[int]
) -> None:
    """Raises InputError if a requested batch does not fit; the message has the largest that does.

    Args:
        limits: The measured limits.
        batches: Texts of a call.
        lengths: Tokens of each text.
    """
    batch = max(batches)
    misses = [
        f"{artefact_name(entry)} {_largest_batch(entry.limit, length)}"
        for entry in limits
        for length in sorted(lengths, reverse=True)
        if entry.limit.largest_batch(length) < batch
    ]
    if misses:
        limit_mib = limits[0].limit.limit_bytes / 2**20
        raise InputError(
            f"--batch {batch} exceeds the memory limit of {limit_mib:.0f} MiB; the largest batches "
            f"that fit: {'; '.join(misses)}",
            hint="raise --memory-limit, lower --length or --batch, or export a smaller precision",
        )


def _largest_batch(limit: BulkLimit, length: int) -> str:
    largest = limit.largest_batch(length)
    if largest == 0:
        return f"not a single text of {length} tokens"
    return f"{plural(largest, 'text')} of {length} tokens"


# --- the export folder ---------------------------------------------------------------------------


def _export_folder(artefact: Artefact) -> Path | None:
    """Returns the folder whose session.json is about an artefact; None outside of an export."""
    folder = artefact.path.absolute().parent.parent
    path = folder / SESSION_FILE
    if not path.is_file() or _path_in(artefact, folder) not in read_session_file(path):
        return None
    return folder


def _path_in(artefact: Artefact, folder: Path) -> str:
    return artefact.path.absolute().relative_to(folder).as_posix()


def _session_options(artefact: Artefact, folder: Path | None) -> SessionOptions:
    """Returns the options with which programs run the artefact."""
    if folder is None:
        return SessionOptions()
    return read_session_file(folder / SESSION_FILE)[_path_in(artefact, folder)].session


def _longest(artefact: Artefact, folder: Path | None, lengths: Sequence[int]) -> int:
    """Returns the tokens of the longest text that programs give the artefact."""
    if artefact.graph.length is not None:
        return artefact.graph.length
    if folder is not None and (folder / CONTRACT_FILE).is_file():
        return read_contract(folder).tokenizer.max_length
    return artefact.max_length or max(lengths)


def measure_reserved(tokenizer: Path, max_length: int) -> int:
    """Returns what a program holds besides runtime and graph, in bytes.

    The peak of a process that has loaded what `edgedistil embed` loads and made one window of
    tokens, without what the runner's process has after its imports.

    Args:
        tokenizer: Folder of the tokenizer.
        max_length: Tokens of the longest text.
    Raises:
        TargetError: The process fails.
    """
    program = _printed_bytes("edgedistil.inference.footprint", str(tokenizer), str(max_length))
    return max(0, program - _printed_bytes("edgedistil.inference.footprint"))


def _printed_bytes(module: str, *arguments: str) -> int:
    command = [sys.executable, "-P", "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise TargetError(f"cannot measure the memory of a program that embeds: {lines[-1]}")
    return int(done.stdout)


# --- the search ----------------------------------------------------------------------------------


@dataclass
class _Search:
    """Finds the largest batches of one artefact.

    Attributes:
        artefact: The artefact.
        options: Options of its sessions.
        threads: Threads, where the options have none.
        allowed: Most bytes of a peak.
        peaks: (batch, length) → peak that was measured; None where memory did not suffice.
    """

    artefact: Artefact
    options: SessionOptions
    threads: int
    allowed: int
    peaks: dict[tuple[int, int], int | None] = field(default_factory=dict)

    def run(self, lengths: Sequence[int]) -> tuple[dict[int, int], int]:
        """Returns the largest batch of each length that fits, and the peak of all together."""
        batches: dict[int, int] = {}
        # The program alone needs more than the limit.
        if self.allowed <= 0:
            return {}, 0
        for length in lengths:
            batch = self._largest_batch(length)
            # Longer texts need more memory.
            if batch == 0:
                break
            batches[length] = batch
        for _ in range(_CHECKS):
            if not batches:
                break
            peak = self._peak([(batch, length) for length, batch in batches.items()])
            if peak is not None and peak <= self.allowed:
                return batches, peak
            batches = self._smaller(batches, peak)
        return {}, 0

    def _smaller(self, batches: Mapping[int, int], peak: int | None) -> dict[int, int]:
        """Returns smaller batches after all together had a peak that is too high."""
        # What a process needs without calls cannot be reduced.
        smallest = min((value for value in self.peaks.values() if value), default=0)
        share = 0.7
        if peak is not None and peak > smallest:
            share = max(0.5, 0.97 * (self.allowed - smallest) / (peak - smallest))
        smaller = {length: int(share * batch) for length, batch in batches.items()}
        # A single text that fits alone remains: it is not what is too large together.
        return {length: max(batch, 1) for length, batch in smaller.items() if batch or share > 0.5}

    def _largest_batch(self, length: int) -> int:
        """Returns the largest batch at a length that has run within the limit; 0 for none."""
        most = max(1, MOST_POSITIONS // length)
        first, second = (min(most, max(1, p // length)) for p in _FIRST_POSITIONS)
        fits: dict[int, int] = {}
        for batch in dict.fromkeys((1, first, second)):
            peak = self._shape_peak(batch, length)
            if peak is None or peak > self.allowed:
                most = batch - 1
                break
            fits[batch] = peak
        for _ in range(_GUESSES):
            guess = self._guess(fits, most)
            if guess <= max(fits, default=0):
                break
            peak = self._shape_peak(guess, length)
            if peak is None or peak > self.allowed:
                most = guess - 1
            else:
                fits[guess] = peak
        return max(fits, default=0)

    def _guess(self, fits: Mapping[int, int], most: int) -> int:
        """Returns the next batch to try, from a line through the two largest that fit."""
        if len(fits) < 2:
            return (max(fits, default=0) + most + 1) // 2 if fits else 0
        low, high = sorted(fits)[-2:]
        slope = (fits[high] - fits[low]) / (high - low)
        # Below the peak of loading, calls do not show.
        reach = most if slope <= 0 else high + int((self.allowed - fits[high]) / slope)
        return min(most, reach)

    def _shape_peak(self, batch: int, length: int) -> int | None:
        if (batch, length) not in self.peaks:
            self.peaks[batch, length] = self._peak([(batch, length)])
        return self.peaks[batch, length]

    def _peak(self, shapes: Sequence[tuple[int, int]]) -> int | None:
        """Returns the peak of a process with calls of some shapes; None if memory was refused."""
        # The longest texts first, as `batch_indices` orders them.
        ordered = sorted(shapes, key=lambda shape: -shape[1])
        keys = [f"{batch}x{length}" for batch, length in ordered]
        inputs = {key: self._ids(*shape) for key, shape in zip(keys, ordered, strict=True)}
        model = self.artefact.job_model().model_copy(update={"session": self.options})
        job = Job(
            models={self.artefact.label: model},
            cases=[Case(name=key, keys=[key] * _CALLS, mode="pass") for key in keys],
            threads=self.threads,
            warmup_calls=0,
            warmup_seconds=0,
            timeout_seconds=_TIMEOUT_SECONDS,
            first_result_seconds=_TIMEOUT_SECONDS,
            # A call far above the limit must not take the machine's memory.
            private_memory_bytes=_BASE_PRIVATE_BYTES + 2 * self.allowed,
        )
        target = LocalTarget()
        reply = run_job(target, [self.artefact], job, as_inputs(inputs), check=False)
        if is_out_of_memory(reply):
            return None
        require_success(target, reply, [self.artefact])
        return _peak_of(reply, self.artefact.label)

    def _ids(self, batch: int, length: int) -> dict[str, Any]:
        """Returns inputs with ids from all of the vocabulary, as a large collection has them."""
        rows = self.artefact.graph.vocabulary or _FEW_IDS
        count = batch * length
        # Steps below a page's rows reach every page of the word-embedding matrix.
        ids = np.arange(count, dtype=np.int64) * max(1, rows // count) % rows
        ids_BL = ids.reshape(batch, length)
        return {
            "input_ids": ids_BL,
            "attention_mask": np.ones_like(ids_BL),
            "token_type_ids": np.zeros_like(ids_BL),
        }


def _peak_of(reply: Reply, label: str) -> int:
    peak = reply.models[label].memory.peak
    if peak is None:
        raise TargetError("this machine does not report the memory of a process")
    return peak

"""The door of the profiler: takes the flags apart, chooses targets, leaves ProfileRecords in the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedistil import console
from edgedistil.device import HOST
from edgedistil.profiling import boards, claims, host, workload
from edgedistil.profiling.artefacts import Artefact, file_artefact, run_artefacts
from edgedistil.profiling.measure import measure
from edgedistil.profiling.sample_text import SAMPLE_TEXT
from edgedistil.profiling.targets.local import LocalTarget
from edgedistil.records import ProfileRecord, write_record
from edgedistil.rundir import RunDir, open_run


def profile(
    run_name: str = "latest",
    *,
    device: str = HOST,
    ssh: str | None = None,
    emulate: bool = False,
    model: Path | None = None,
    threads: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    text: Path | None = None,
    memory_limit: str | None = None,
    tune: bool = False,
    bootstrap: bool = False,
    calibrate: bool = False,
    sentence_pairs: int = workload.DEFAULT_PAIRS,
) -> tuple[RunDir | None, list[ProfileRecord]]:
    """Records of a run's artefacts (or of one file) on a device, by whatever method the flags ask for."""
    run, artefacts = _what(run_name, model)
    work = _workload(run, artefacts, lengths, text, sentence_pairs)
    if emulate:
        return run, [boards.emulate_device(run, artefacts, work, device=device, lengths=lengths)]
    if ssh is not None:
        record = boards.measure_board(
            run, artefacts, work, destination=ssh, device=device, threads=threads, bootstrap=bootstrap
        )
        return run, [record]
    counts = list(threads) if threads else sorted({1, host.usable_cores()})
    record = measure(LocalTarget(), artefacts, work, device=HOST, threads=counts, conditions=host.conditions())
    if run is not None:
        write_record(run.profile(HOST, "measured"), record)
    return run, [record]


def require_claims(records: Sequence[ProfileRecord], requirements: Sequence[str]) -> None:
    """Turns requirements ("speedup>=1.6") that do not hold into a ClaimError."""
    claims.require(records, requirements)


def _what(run_name: str, model: Path | None) -> tuple[RunDir | None, list[Artefact]]:
    if model is not None:
        return None, [file_artefact(model)]
    run = open_run(run_name)
    console.say(f"run {run.name}")
    return run, run_artefacts(run)


def _workload(
    run: RunDir | None, artefacts: list[Artefact], lengths: Sequence[int] | None, text: Path | None, pairs: int
) -> workload.Workload:
    if text is not None:
        lines, source = workload.read_lines(text), str(text)
    elif run is not None and run.heldout_text.is_file():
        lines, source = workload.read_lines(run.heldout_text), f"held-out text of run {run.name}"
    else:
        lines, source = SAMPLE_TEXT.splitlines(), "the built-in sample text (no run, no --text)"
    positions = [a.max_length for a in artefacts if a.max_length is not None]
    chosen = workload.checked_lengths(lengths, min(positions) if positions else None)
    return workload.build(artefacts[0].tokenizer, lines, source=source, lengths=chosen, pairs=pairs)

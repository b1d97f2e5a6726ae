"""Measures artefacts in a browser, and checks their outputs there.

The rows are made as those of any other machine. After them the probes that the export stored run
in the browser, with WebAssembly and, where it starts, with WebGPU in software: its outputs are
checked and its times are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import TargetError
from edgedistil.core.export_records import ParityRecord
from edgedistil.core.format import artefact_name
from edgedistil.core.profile_records import ProfileRecord, ProfileRow
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.device_parity import (
    ProbesOf,
    check_on_target,
    describe_parity,
)
from edgedistil.profiling.measured import DEFAULT_BUDGET, MeasurementBudget, measure
from edgedistil.profiling.tokenization import add_page_tokenization
from edgedistil.profiling.workload import Workloads
from edgedistil.runtime.browser.target import PAGE_USE, BrowserTarget, PageFacts


@dataclass(frozen=True)
class BrowserProfile:
    """Result of measuring several artefacts in a browser.

    Attributes:
        record: The rows.
        parities: Artefact label → parity check with WebAssembly, where there are probes.
        webgpu: Artefact label → parity check with WebGPU in software; empty where it does not
            start.
    """

    record: ProfileRecord
    parities: Mapping[str, ParityRecord]
    webgpu: Mapping[str, ParityRecord]


def usable_threads(facts: PageFacts, requested: Sequence[int]) -> tuple[list[int], str | None]:
    """Returns the thread counts that a page can have, and why others are left out.

    Args:
        facts: What the page can use.
        requested: Thread counts.
    """
    if facts.isolated or max(requested) == 1:
        return list(requested), None
    return [1], (
        "threads are off: crossOriginIsolated is false, so the page cannot share memory; rows have "
        "one thread"
    )


def measure_in_browser(
    target: BrowserTarget,
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    *,
    threads: Sequence[int],
    probes_of: ProbesOf,
    notes: Sequence[str] = (),
    budget: MeasurementBudget = DEFAULT_BUDGET,
) -> BrowserProfile:
    """Returns rows and claims of artefacts in a browser, and the checks of their outputs.

    Args:
        target: The browser, with WebAssembly.
        artefacts: What to measure.
        workloads: The inputs.
        threads: Thread counts, as `usable_threads` returns them.
        probes_of: Returns the probes of an artefact, or None if it has none.
        notes: Added to the notes of the record.
        budget: How long to measure.
    Raises:
        TargetError: The browser sent no reply, or a job failed there.
    """
    record = measure(target, artefacts, workloads, threads=threads, budget=budget)
    parities = _check_all(target, artefacts, probes_of)
    gpu_parities, gpu_note = _check_on_gpu(artefacts, probes_of)
    timed = add_page_tokenization(record.rows, artefacts, workloads, target)
    rows = [_with_parity(row, artefacts, parities) for row in timed]
    all_notes = [*record.notes, *notes, *_page_notes(rows), *_parity_notes(parities), gpu_note]
    record = record.model_copy(update={"rows": rows, "notes": all_notes})
    return BrowserProfile(record, parities, gpu_parities)


def _check_all(
    target: BrowserTarget, artefacts: Sequence[Artefact], probes_of: ProbesOf
) -> dict[str, ParityRecord]:
    """Runs the probes of every artefact that has some."""
    parities = {}
    with console.progress("checking outputs", len(artefacts), unit="artefacts") as bar:
        for artefact in artefacts:
            bar.note(artefact.label)
            parity = check_on_target(target, artefact, probes_of)
            if parity is not None:
                parities[artefact.label] = parity
            bar.advance()
    return parities


def _check_on_gpu(
    artefacts: Sequence[Artefact], probes_of: ProbesOf
) -> tuple[dict[str, ParityRecord], str]:
    """Checks outputs with WebGPU in software; returns them and a note."""
    target = BrowserTarget.find(provider="webgpu")
    try:
        absent = target.webgpu_absence()
        if absent is not None:
            return {}, f"WebGPU: not available: {absent}"
        parities = _check_all(target, artefacts, probes_of)
    # A GPU in software that fails says nothing about the artefacts.
    except TargetError as error:
        return {}, f"WebGPU: not available: {error.message}"
    if not parities:
        return {}, "WebGPU: not checked: no artefact has probes"
    described = [f"{label}: {describe_parity(parity)}" for label, parity in parities.items()]
    return parities, f"WebGPU in software, outputs only, no times: {'; '.join(described)}"


def _with_parity(
    row: ProfileRow, artefacts: Sequence[Artefact], parities: Mapping[str, ParityRecord]
) -> ProfileRow:
    label = next(a.label for a in artefacts if a.sha256 == row.artefact_sha256)
    conditions = {**row.conditions, "parity": describe_parity(parities.get(label))}
    return row.model_copy(update={"conditions": conditions})


def _page_notes(rows: Sequence[ProfileRow]) -> list[str]:
    """Describes what the page of each artefact used, at the first thread count."""
    notes: dict[str, str] = {}
    for row in rows:
        used = [f"{name} {row.conditions[name]}" for name in PAGE_USE if name in row.conditions]
        notes.setdefault(artefact_name(row), f"{artefact_name(row)}: {', '.join(used)}")
    return list(notes.values())


def _parity_notes(parities: Mapping[str, Any]) -> list[str]:
    return [
        f"WebAssembly, {label}: {describe_parity(parity)}" for label, parity in parities.items()
    ]

"""`edgedistil profile --browser`: rows, checks and the advice for web bundles."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core import console
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.parity.gate import require_parity
from edgedistil.profiling.browser import measure_in_browser, usable_threads
from edgedistil.profiling.browser_tune import tune_for_browser, write_web_advice
from edgedistil.profiling.device_parity import run_probes
from edgedistil.profiling.request import ProfileRequest
from edgedistil.runtime.browser.target import BrowserTarget


def profile_in_browser(request: ProfileRequest) -> ProfileRecord:
    """Measures in a browser, stores the records, then raises if a parity check failed.

    Args:
        request: Artefacts and options of the command.
    Raises:
        TargetError: No browser is installed, or it could not run the artefacts.
        ParityError: Outputs with WebAssembly are outside the tolerance. The records are stored.
    """
    target = BrowserTarget.find()
    facts = target.describe_page()
    threads, note = usable_threads(facts, request.thread_counts(facts.cores))
    if note is not None:
        console.warn(note)
    profile = measure_in_browser(
        target,
        request.artefacts,
        request.workloads,
        threads=threads,
        probes_of=run_probes(request.run),
        notes=[] if note is None else [note],
    )
    record = profile.record
    if request.options.tune:
        passed = [label for label, parity in profile.parities.items() if parity.passed]
        advice = tune_for_browser(
            target,
            request.artefacts,
            request.workloads,
            max_threads=max(threads),
            passed=passed,
        )
        folder = request.run.profiles if request.run is not None else Path()
        written = write_web_advice(folder, advice)
        record = record.model_copy(update={"notes": [*record.notes, written]})
    # Everything is stored before a failed check ends the command.
    request.store(record)
    for parity in profile.parities.values():
        request.store_parity(parity, device=target.name)
    for parity in profile.webgpu.values():
        request.store_parity(parity, device=f"{target.name}-webgpu")
    for parity in profile.parities.values():
        require_parity(parity)
    return record

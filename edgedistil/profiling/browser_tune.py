"""Picks the precision and the number of threads for a browser, for the web bundle.

The thread counts of each artefact take turns, then the precisions that passed the parity check, at
their best counts. A page has no other session options that pay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core import console
from edgedistil.core.format import plural
from edgedistil.core.precision import Precision
from edgedistil.core.records import NotMeasured
from edgedistil.core.rundir import write_json
from edgedistil.core.session import (
    WEB_SESSION_FILE,
    SessionAdvice,
    SessionOptions,
    session_file,
)
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import Ratio
from edgedistil.profiling.limits import require_success
from edgedistil.profiling.tune import (
    BLOCKS,
    PROCESSES,
    TIMEOUT_SECONDS,
    SessionComparison,
    best_threads,
    certain_ratio,
    describe_ratio,
)
from edgedistil.profiling.turns import compare_in_turns
from edgedistil.profiling.workload import Workloads
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.protocol import Alternation, Case, Job, Reply
from edgedistil.runtime.target import Target

_BASELINE: Precision = "fp32"


@dataclass(frozen=True)
class WebAdvice:
    """Sessions of artefacts in a browser, and the artefact to use of each export.

    Attributes:
        sessions: Artefact label → session and reasons.
        precisions: Export (`student-feature-extraction`) → precision.
    """

    sessions: Mapping[str, SessionAdvice]
    precisions: Mapping[str, Precision]

    def to_json(self) -> dict[str, Any]:
        """Content of the file."""
        return {**session_file(self.sessions), "precisions": dict(self.precisions)}


def tune_for_browser(
    target: Target,
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    *,
    max_threads: int,
    passed: Collection[str],
) -> WebAdvice:
    """Returns threads of each artefact that is not a teacher, and the best precision.

    Args:
        target: The browser.
        artefacts: Artefacts of a run, or a single one.
        workloads: The inputs; those of the middle length are used.
        max_threads: Most threads to try.
        passed: Labels of artefacts whose outputs passed the parity check there.
    Raises:
        TargetError: The target sent no reply, or a session could not be created.
    """
    # Teachers are not deployed.
    tuned = [artefact for artefact in artefacts if artefact.role != "teacher"]
    threads: dict[str, int] = {}
    reasons: dict[str, dict[str, str]] = {}
    with console.progress("tuning", 2 * len(tuned), unit="jobs") as bar:
        for artefact in tuned:
            comparison = SessionComparison(target, artefact, workloads.of(artefact))
            count, why = best_threads(comparison, max_threads)
            threads[artefact.label], reasons[artefact.label] = count, dict(why)
            bar.advance()
        precisions: dict[str, Precision] = {}
        for baseline in [artefact for artefact in tuned if artefact.precision == _BASELINE]:
            others = [a for a in tuned if _export(a) == _export(baseline) and a is not baseline]
            candidates = [a for a in others if a.label in passed]
            ratios = _precision_ratios(target, baseline, candidates, workloads, threads)
            best = _best(baseline, candidates, ratios)
            precisions[_export(baseline)] = best.precision
            for artefact in candidates:
                reasons[artefact.label]["precision"] = describe_ratio(
                    ratios[artefact.label], _BASELINE
                )
            for artefact in others:
                if artefact not in candidates:
                    reasons[artefact.label]["precision"] = "left out: no parity check passed there"
            bar.advance(len(others) + 1)
    sessions = {
        artefact.label: SessionAdvice(
            session=SessionOptions(threads=threads[artefact.label]),
            reasons=reasons[artefact.label],
            precision=artefact.precision,
            target_device=target.name,
        )
        for artefact in tuned
    }
    return WebAdvice(sessions, precisions)


def _export(artefact: Artefact) -> str:
    """Name of the export folder."""
    return f"{artefact.model}-{artefact.task}"


def _best(
    baseline: Artefact, candidates: Sequence[Artefact], ratios: Mapping[str, Ratio | NotMeasured]
) -> Artefact:
    """Returns the fastest of the artefacts that are faster than the baseline for certain."""
    best, best_ratio = baseline, 1.0
    for artefact in candidates:
        ratio = certain_ratio(ratios[artefact.label])
        if ratio > best_ratio:
            best, best_ratio = artefact, ratio
    return best


def _precision_ratios(
    target: Target,
    baseline: Artefact,
    candidates: Sequence[Artefact],
    workloads: Workloads,
    threads: Mapping[str, int],
) -> dict[str, Ratio | NotMeasured]:
    """Returns how many times faster each candidate is than the baseline, at their best threads."""
    by_label = {artefact.label: artefact for artefact in candidates}
    lengths = sorted(workloads.of(baseline).lengths)
    keys = workloads.of(baseline).lengths[lengths[len(lengths) // 2]]

    def run_process(_number: int, labels: Collection[str]) -> Reply:
        artefacts = [baseline, *(by_label[label] for label in labels)]
        models = {
            label: model.model_copy(update={"session": SessionOptions(threads=threads[label])})
            for label, model in workloads.job_models(artefacts).items()
        }
        # Baseline and candidate take turns, block by block.
        alternations = [
            Alternation(
                name=label,
                first=baseline.label,
                second=label,
                keys=keys,
                blocks=BLOCKS,
                calls_per_block=len(keys),
            )
            for label in labels
        ]
        job = Job(
            models=models,
            cases=[Case(name="tune", keys=keys)],
            phases=[],
            alternate=alternations,
            threads=1,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        reply = run_job(target, artefacts, job, workloads.joint(artefacts), check=False)
        require_success(target, reply, artefacts)
        return reply

    # The most threads of any decides what counts as a busy machine.
    most = max(threads[artefact.label] for artefact in [baseline, *candidates])
    comparisons = compare_in_turns(run_process, by_label, processes=PROCESSES, threads=most)
    return {label: comparison.ratio(PROCESSES) for label, comparison in comparisons.items()}


def write_web_advice(folder: Path, advice: WebAdvice) -> str:
    """Writes session.chromium.json and describes it in one line."""
    path = folder / WEB_SESSION_FILE
    write_json(path, advice.to_json())
    selected = []
    for export, precision in advice.precisions.items():
        threads = advice.sessions[f"{export}.{precision}"].session.threads
        selected.append(f"{export}: {precision}, {plural(threads, 'thread')}")
    return f"for web bundles: {path}: {'; '.join(selected) or 'no export in fp32'}"

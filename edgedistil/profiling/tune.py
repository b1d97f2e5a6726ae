"""Which session options are best on this machine: each is tried against the defaults, taking turns in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistil.core import console
from edgedistil.core.precision import PRECISIONS
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import Ratio, speed_ratio
from edgedistil.profiling.workload import Workload
from edgedistil.runtime.protocol import (
    Alternation,
    AlternationResult,
    Case,
    GraphLevel,
    Job,
    JobModel,
    SessionOptions,
)
from edgedistil.runtime.target import Target, raise_failure

_DEFAULTS = "defaults"
_BLOCKS, _CALLS = 12, 4
_NO_SLOWER = 0.98
_GRAPH_LEVELS: tuple[GraphLevel, ...] = ("extended", "basic", "disabled")
_EXACT = "exact 8-bit products"


def tune(
    target: Target, artefacts: Sequence[Artefact], work: Workload, *, most_threads: int
) -> dict[str, dict[str, Any]]:
    """Per student artefact the recommended session, as written to session.json.

    Conditions: every option alone against the defaults at the best thread count, on the workload's middle length.
    `session.x64quantprecision` is tried for 8-bit artefacts on x86-64 and set there whatever it costs: without VNNI it
    decides whether the answers are right. What it costs is in the reasons.
    Raises:
        TargetError: The target gave no reply, or a session could not be made.
    """
    chosen = [artefact for artefact in artefacts if artefact.role != "teacher"]
    on_x86 = target.identify().machine == "x86_64"
    with (
        tempfile.TemporaryDirectory(prefix="edgedistil-tune-") as folder,
        console.progress("tuning", 2 * len(chosen), unit="jobs") as bar,
    ):
        inputs = Path(folder) / "inputs.npz"
        work.save(inputs)
        found = {}
        for artefact in chosen:
            threads, thread_reasons = _best_threads(target, artefact, work, inputs, most_threads)
            bar.advance()
            exact = on_x86 and PRECISIONS[artefact.precision].integer_matmul
            found[artefact.label] = _best_options(
                target, artefact, work, inputs, threads, thread_reasons, exact
            )
            bar.advance()
        return found


def _best_threads(
    target: Target, artefact: Artefact, work: Workload, inputs: Path, most: int
) -> tuple[int, dict[str, str]]:
    if most == 1:
        return 1, {"threads": "one: this machine gives no more"}
    counts = sorted(
        {2**power for power in range(1, most.bit_length()) if 2**power <= most} | {most}
    )
    variants = {f"{count} threads": JobModel(file="", threads=count) for count in counts}
    ratios = _against_defaults(target, artefact, work, inputs, variants, threads=1)
    best = max(counts, key=lambda count: ratios[f"{count} threads"].value)
    ratio = ratios[f"{best} threads"]
    reasons = {name: _told(each, "one thread") for name, each in ratios.items()}
    if ratio.low > 1:
        return best, reasons
    return 1, {**reasons, "threads": "one: more threads are not faster for sure"}


def _best_options(
    target: Target,
    artefact: Artefact,
    work: Workload,
    inputs: Path,
    threads: int,
    reasons: dict[str, str],
    exact: bool,
) -> dict[str, Any]:
    options = {
        "arena off": SessionOptions(arena=False),
        "pre-packing off": SessionOptions(prepacking=False),
        **({"spinning off": SessionOptions(spinning=False)} if threads > 1 else {}),
        **({_EXACT: SessionOptions(exact_products=True)} if exact else {}),
        **{f"graph level {level}": SessionOptions(graph_level=level) for level in _GRAPH_LEVELS},
    }
    variants = {name: JobModel(file="", session=each) for name, each in options.items()}
    ratios = _against_defaults(target, artefact, work, inputs, variants, threads=threads)
    # The arena holds what it once took, and spinning burns the other cores: off, where that costs no speed.
    arena = ratios["arena off"].low < _NO_SLOWER
    spinning = "spinning off" in ratios and ratios["spinning off"].low < _NO_SLOWER
    prepacking = ratios["pre-packing off"].low <= 1
    faster = [level for level in _GRAPH_LEVELS if ratios[f"graph level {level}"].low > 1]
    level: GraphLevel = max(
        faster, key=lambda each: ratios[f"graph level {each}"].value, default="all"
    )
    session = SessionOptions(
        arena=arena,
        spinning=spinning,
        prepacking=prepacking,
        graph_level=level,
        exact_products=exact,
    )
    told = {**reasons, **{name: _told(each, "the defaults") for name, each in ratios.items()}}
    return {
        "intra_op_num_threads": threads,
        "enable_cpu_mem_arena": arena,
        "graph_optimization_level": level,
        "config": {
            "session.intra_op.allow_spinning": "1" if spinning else "0",
            "session.disable_prepacking": "0" if prepacking else "1",
            **({"session.x64quantprecision": "1"} if exact else {}),
        },
        "in_words": _in_words(threads, session),
        "reasons": told,
    }


def _in_words(threads: int, session: SessionOptions) -> str:
    return (
        f"{threads} thread{'s' if threads > 1 else ''}, arena {'on' if session.arena else 'off'}, "
        f"spinning {'on' if session.spinning else 'off'}, pre-packing {'on' if session.prepacking else 'off'}, "
        f"graph level {session.graph_level}{', ' + _EXACT if session.exact_products else ''}"
    )


def _told(ratio: Ratio, against: str) -> str:
    return f"{ratio.value:.2f} times as fast as {against} ({ratio.low:.2f} to {ratio.high:.2f})"


def _against_defaults(
    target: Target,
    artefact: Artefact,
    work: Workload,
    inputs: Path,
    variants: dict[str, JobModel],
    *,
    threads: int,
) -> dict[str, Ratio]:
    """How many times faster each variant is than the defaults; all are alive in one process and take turns."""
    file = artefact.job_model().file
    models = {_DEFAULTS: JobModel(file=file)}
    models.update({name: each.model_copy(update={"file": file}) for name, each in variants.items()})
    lengths = sorted(work.lengths)
    keys = work.lengths[lengths[len(lengths) // 2]]
    job = Job(
        models=models,
        cases=[Case(name="tune", keys=keys)],
        phases=[],
        alternate=[
            Alternation(
                name=name,
                first=_DEFAULTS,
                second=name,
                keys=keys,
                blocks=_BLOCKS,
                calls_per_block=_CALLS,
            )
            for name in variants
        ],
        threads=threads,
        timeout_seconds=1800,
    )
    reply = target.run(job, {"inputs.npz": inputs, **artefact.job_files()})
    raise_failure(reply, source=target.source)
    return {answer.name: _ratio(answer) for answer in reply.alternation}


def _ratio(answer: AlternationResult) -> Ratio:
    return speed_ratio([[(sum(block.first_ns), sum(block.second_ns)) for block in answer.blocks]])

"""Finds the fastest session options of each artefact on one machine, for session.json.

Every option is compared with the defaults: both sessions are in one process and alternate, so that
noise hits both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgedistil.core import console
from edgedistil.core.format import plural
from edgedistil.core.precision import PRECISIONS
from edgedistil.core.records import NotMeasured
from edgedistil.core.session import GraphLevel, SessionAdvice, SessionOptions
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import Ratio
from edgedistil.profiling.limits import private_memory_bytes, require_success
from edgedistil.profiling.turns import compare_in_turns
from edgedistil.profiling.workload import Workload, Workloads
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.protocol import Alternation, Case, Job, JobModel, Reply
from edgedistil.runtime.target import Target

# Fewer undisturbed processes than these give intervals that are too wide to decide by.
PROCESSES = 6
# Blocks of a process with all texts of one length: an even number, so that both sessions are first
# equally often.
BLOCKS = 4
# The arena and spinning have a cost besides time, so they are switched off unless that makes calls
# slower for certain by more than this.
_SLOWER_THAN_DEFAULTS = 0.98
# Far above any comparison seen: only a hung process ends here.
TIMEOUT_SECONDS = 1800

# Names of the variants, as the reasons in session.json show them.
_DEFAULTS = "defaults"
_ARENA_OFF = "arena off"
_SPINNING_OFF = "spinning off"
_PREPACKING_OFF = "pre-packing off"
_EXACT_INT8 = "exact int8 sums"
# Levels below the default. Exported graphs are fused already and need little of the optimizer
# (docs/log.md#lower-optimization-levels), so a lower level may be as fast or faster.
_GRAPH_LEVELS: tuple[GraphLevel, ...] = ("extended", "basic", "disabled")


def tune(
    target: Target, artefacts: Sequence[Artefact], workloads: Workloads, *, max_threads: int
) -> dict[str, SessionAdvice]:
    """Returns the recommended session of every artefact that is not a teacher.

    Args:
        target: The machine.
        artefacts: Artefacts of a run, or a single one.
        workloads: The inputs; those of the middle length are used.
        max_threads: Most threads to try.
    Returns:
        Artefact label → advice.
    Conditions:
        Each option alone against the defaults, at the best thread count, in 6 undisturbed
        processes. Exact int8 sums are set for 8-bit artefacts on x86-64 whatever they cost, because
        without VNNI the outputs are wrong otherwise; the reasons contain the cost.
    Raises:
        TargetError: The target sent no reply, or a session could not be created.
    """
    # Teachers are not deployed.
    tuned = [artefact for artefact in artefacts if artefact.role != "teacher"]
    on_x86 = target.identify().machine == "x86_64"
    advice = {}
    with console.progress("tuning", 2 * len(tuned), unit="jobs") as bar:
        for artefact in tuned:
            comparison = SessionComparison(target, artefact, workloads.of(artefact))
            # Threads first: whether the other options pay depends on them.
            threads, thread_reasons = best_threads(comparison, max_threads)
            bar.advance()
            exact_int8 = on_x86 and PRECISIONS[artefact.precision].integer_matmul
            session, reasons = _best_options(comparison, threads, exact_int8=exact_int8)
            bar.advance()
            advice[artefact.label] = SessionAdvice(
                session=session,
                reasons={**thread_reasons, **reasons},
                precision=artefact.precision,
                target_device=target.name,
            )
    return advice


@dataclass(frozen=True)
class SessionComparison:
    """Compares sessions of one artefact with the default session."""

    target: Target
    artefact: Artefact
    workload: Workload

    def run(
        self, variants: Mapping[str, JobModel], *, threads: int
    ) -> dict[str, Ratio | NotMeasured]:
        """Returns how many times faster each variant is than the defaults, where it is certain.

        Args:
            variants: Name → model of the job with its own session.
            threads: Threads of the default session, and of variants that have none set.
        """
        # The most threads of a variant: the machine has to have them free.
        most = max([threads, *(model.session.threads for model in variants.values())])
        comparisons = compare_in_turns(
            lambda _, names: self._run_process({n: variants[n] for n in names}, threads),
            variants,
            processes=PROCESSES,
            threads=most,
        )
        return {name: comparison.ratio(PROCESSES) for name, comparison in comparisons.items()}

    def _run_process(self, variants: Mapping[str, JobModel], threads: int) -> Reply:
        """Runs one process, in which each variant takes turns with the defaults."""
        lengths = sorted(self.workload.lengths)
        keys = self.workload.lengths[lengths[len(lengths) // 2]]
        alternations = [
            Alternation(
                name=name,
                first=_DEFAULTS,
                second=name,
                keys=keys,
                blocks=BLOCKS,
                calls_per_block=len(keys),
            )
            for name in variants
        ]
        job = Job(
            models={_DEFAULTS: self.artefact.job_model(), **variants},
            cases=[Case(name="tune", keys=keys)],
            phases=[],
            alternate=alternations,
            threads=threads,
            timeout_seconds=TIMEOUT_SECONDS,
            # All variants are loaded at once.
            private_memory_bytes=private_memory_bytes(
                [self.artefact] * len(alternations), longest=max(lengths), threads=threads
            ),
        )
        reply = run_job(self.target, [self.artefact], job, self.workload, check=False)
        require_success(self.target, reply, [self.artefact])
        return reply

    def model(self, session: SessionOptions) -> JobModel:
        """Returns the artefact as a model of a job with its own session."""
        return self.artefact.job_model().model_copy(update={"session": session})


def best_threads(comparison: SessionComparison, max_threads: int) -> tuple[int, dict[str, str]]:
    """Returns the fastest number of threads, and the reasons."""
    if max_threads == 1:
        return 1, {"threads": "one: this machine has no more"}
    # Powers of two, and all that the machine has.
    counts = {2**power for power in range(1, max_threads.bit_length())}
    counts = {count for count in counts if count <= max_threads} | {max_threads}
    names = {count: plural(count, "thread") for count in sorted(counts)}
    variants = {
        name: comparison.model(SessionOptions(threads=count)) for count, name in names.items()
    }
    ratios = comparison.run(variants, threads=1)
    reasons = {name: describe_ratio(ratio, "one thread") for name, ratio in ratios.items()}
    # Fewer threads leave cores to the application: more have to be faster for certain.
    faster = {count: certain_ratio(ratios[name]) for count, name in names.items()}
    best = max(faster, key=lambda count: faster[count])
    if faster[best] > 1:
        return best, reasons
    return 1, {**reasons, "threads": "one: more threads are not faster for certain"}


def _best_options(
    comparison: SessionComparison, threads: int, *, exact_int8: bool
) -> tuple[SessionOptions, dict[str, str]]:
    """Returns the fastest session options at a number of threads, and the reasons."""
    # One change from the defaults each.
    variants = {
        _ARENA_OFF: SessionOptions(arena=False),
        _PREPACKING_OFF: SessionOptions(prepacking=False),
    }
    if threads > 1:
        variants[_SPINNING_OFF] = SessionOptions(spinning=False)
    if exact_int8:
        variants[_EXACT_INT8] = SessionOptions(exact_int8=True)
    for level in _GRAPH_LEVELS:
        variants[_graph_level_name(level)] = SessionOptions(graph_level=level)
    models = {name: comparison.model(session) for name, session in variants.items()}
    ratios = comparison.run(models, threads=threads)

    # The arena keeps the memory it has taken, and spinning occupies the other cores. Without
    # undisturbed processes the defaults remain.
    arena = not _as_fast(ratios[_ARENA_OFF])
    spinning = _SPINNING_OFF in ratios and not _as_fast(ratios[_SPINNING_OFF])
    session = SessionOptions(
        threads=threads,
        arena=arena,
        spinning=spinning,
        prepacking=certain_ratio(ratios[_PREPACKING_OFF]) == 0,
        graph_level=_best_graph_level(ratios),
        exact_int8=exact_int8,
    )
    reasons = {name: describe_ratio(ratio, "the defaults") for name, ratio in ratios.items()}
    return session, reasons


def _best_graph_level(ratios: Mapping[str, Ratio | NotMeasured]) -> GraphLevel:
    """Returns the fastest level of those that are faster than the default for certain."""
    best: GraphLevel = "all"
    best_value = 0.0
    for level in _GRAPH_LEVELS:
        value = certain_ratio(ratios[_graph_level_name(level)])
        if value > best_value:
            best, best_value = level, value
    return best


def _graph_level_name(level: GraphLevel) -> str:
    return f"graph level {level}"


def certain_ratio(ratio: Ratio | NotMeasured) -> float:
    """Returns the ratio where it is above 1 for certain, otherwise 0."""
    if isinstance(ratio, NotMeasured) or ratio.low <= 1:
        return 0.0
    return ratio.value


def _as_fast(ratio: Ratio | NotMeasured) -> bool:
    """Whether a variant is as fast as the defaults for certain, up to a small loss."""
    return isinstance(ratio, Ratio) and ratio.low >= _SLOWER_THAN_DEFAULTS


def describe_ratio(ratio: Ratio | NotMeasured, baseline: str) -> str:
    if isinstance(ratio, NotMeasured):
        return f"not decided, the machine was disturbed: {ratio.not_measured}"
    return f"{ratio.value:.2f} times as fast as {baseline} ({ratio.low:.2f} to {ratio.high:.2f})"

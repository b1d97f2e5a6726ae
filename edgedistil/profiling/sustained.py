"""Long series of calls: whether a device holds its speed when it is hot (`--sustained`)."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core import console
from edgedistil.core.profile_records import Sustained
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import median_of
from edgedistil.profiling.limits import private_memory_bytes, require_success
from edgedistil.profiling.rows import describe_conditions, throttling
from edgedistil.profiling.workload import Workloads
from edgedistil.runtime.disturbance import TimedSeries, series_disturbances
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.protocol import Case, Job, Reply, SustainedTimes
from edgedistil.runtime.target import Target

# The length closest to this one, as for operators.
_LENGTH = 128
# Time for start, load and first call, beyond the series itself.
_START_SECONDS = 600.0


def measure_sustained(
    target: Target,
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    *,
    threads: int,
    seconds: float,
) -> list[Sustained]:
    """Returns the first and the last minute's median of calls without a pause.

    Args:
        target: The machine.
        artefacts: What to run; teachers, which are not deployed, are left out.
        workloads: The inputs; the length closest to 128 tokens is used.
        threads: Threads of the sessions.
        seconds: Duration for each artefact; below 120 s the halves take the place of the minutes.
    Raises:
        TargetError: A job failed there.
    """
    length = min(workloads.first.lengths, key=lambda length: abs(length - _LENGTH))
    deployed = [artefact for artefact in artefacts if artefact.role != "teacher"]
    results = []
    with console.progress(f"{seconds:g} s of calls each", len(deployed), unit="artefacts") as bar:
        for artefact in deployed:
            bar.note(artefact.label)
            job = Job(
                models={artefact.label: artefact.job_model()},
                cases=[Case(name=str(length), keys=workloads.first.lengths[length])],
                phases=["sustained"],
                threads=threads,
                sustained_seconds=seconds,
                timeout_seconds=seconds + _START_SECONDS,
                private_memory_bytes=private_memory_bytes(
                    [artefact], longest=length, threads=threads
                ),
            )
            # One artefact a process, so that heat of the one before is all that they share.
            reply = run_job(target, [artefact], job, workloads.of(artefact), check=False)
            require_success(target, reply, [artefact])
            results.append(_result(artefact, reply, target, length, threads))
            bar.advance()
    return results


def _result(
    artefact: Artefact, reply: Reply, target: Target, length: int, threads: int
) -> Sustained:
    times = reply.models[artefact.label].sustained
    assert times is not None, "check_reply has seen it"
    first, last = _median_ms(times.first_ns), _median_ms(times.last_ns)
    change: Figure = NotMeasured(not_measured="a window has fewer than 5 calls")
    if isinstance(first, float) and isinstance(last, float):
        change = last / first - 1
    return Sustained(
        model=artefact.model,
        role=artefact.role,
        task=artefact.task,
        precision=artefact.precision,
        artefact_sha256=artefact.sha256,
        device=target.name,
        threads=threads,
        length=length,
        seconds=times.wall_ns / 1e9,
        window_s=times.window_seconds,
        calls=times.calls,
        first_p50_ms=first,
        last_p50_ms=last,
        change=change,
        throttled=throttling(times.before, times.after),
        disturbed="; ".join(_signs(times, threads)) or None,
        conditions=describe_conditions(times.before, times.after),
    )


def _signs(times: SustainedTimes, threads: int) -> list[str]:
    # Without the samples: that calls become slower is what is measured.
    series = TimedSeries(times.wall_ns, times.cpu_ns, times.calls, threads, times.interference)
    return series_disturbances(series)


def _median_ms(samples_ns: Sequence[int]) -> Figure:
    return median_of([nanoseconds / 1e6 for nanoseconds in samples_ns])

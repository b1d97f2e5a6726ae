"""Measures artefacts on a target: builds the jobs, and turns the replies into a ProfileRecord."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgedistil.core import console
from edgedistil.core.format import plural
from edgedistil.core.profile_records import Claim, OpTime, ProfileRecord, ProfileRow
from edgedistil.core.records import provenance
from edgedistil.core.task import FILL_MASK_TASK
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.claim_jobs import (
    TIMEOUT_SECONDS,
    alternated_keys,
    alternating_job,
    artefacts_of,
)
from edgedistil.profiling.claims import (
    ClaimSetting,
    Pairing,
    pairings,
    size_claims,
    speed_claim,
)
from edgedistil.profiling.limits import private_memory_bytes, require_success
from edgedistil.profiling.repeat import mark_slower_than_one, replace_times
from edgedistil.profiling.rows import layer_times, op_times, rows_from_reply
from edgedistil.profiling.turns import compare_in_turns
from edgedistil.profiling.workload import PAIRS, Workloads
from edgedistil.runtime.disturbance import MIN_DRIFT_CALLS
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.protocol import Case, Job, NodeTime, Phase, Reply
from edgedistil.runtime.target import Target

# Operator times are taken at the length closest to this one, averaged over a few calls: the shares
# of the operators change little with either.
_OPS_LENGTH = 128
_OPS_CALLS = 5
# Phases without those that are measured once per artefact.
_STEADY: list[Phase] = ["steady"]


@dataclass(frozen=True)
class MeasurementBudget:
    """How long a profile may take, and how many calls its figures need.

    p90 needs 30 calls, p95 60 and p99 300; with fewer there is a lower bound. A case (one artefact
    at one length and thread count) makes `min_calls`, which its drift needs, and up to
    `desired_calls` as far as its share of `steady_seconds` allows: a single small model gets a p99,
    and a run with many artefacts ends in time (docs/log.md#duration-of-a-profile).

    Attributes:
        min_calls: Calls of a steady case, however slow they are.
        min_seconds: Time of a steady case, however fast its calls are.
        desired_calls: Calls of a steady case while its share of the time lasts.
        steady_seconds: Time for the desired calls of all cases.
        max_share_seconds: Most of it that one case may use.
        max_seconds: A steady case ends here even below `min_calls`.
        processes: Undisturbed processes of a speed claim, the samples of its interval.
        energy_seconds: Time of the energy measurement of an artefact.
        pass_seconds: The pass over the sentence pairs ends here.
    """

    min_calls: int = MIN_DRIFT_CALLS
    min_seconds: float = 0.06
    desired_calls: int = 300
    steady_seconds: float = 6.0
    max_share_seconds: float = 0.5
    max_seconds: float = 10.0
    processes: int = 8
    energy_seconds: float = 1.0
    pass_seconds: float = 20.0

    def share_seconds(self, cases: int) -> float:
        """Returns the seconds for the desired calls of one of `cases`."""
        return min(self.max_share_seconds, self.steady_seconds / max(cases, 1))


DEFAULT_BUDGET = MeasurementBudget()


def measure(
    target: Target,
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    *,
    threads: Sequence[int],
    budget: MeasurementBudget = DEFAULT_BUDGET,
    conditions: Mapping[str, str] | None = None,
    with_claims: bool = True,
) -> ProfileRecord:
    """Returns the rows, claims and operator times of artefacts on a target.

    Args:
        target: The machine.
        artefacts: What to measure.
        workloads: The inputs of each artefact.
        threads: Thread counts. At the first one, energy and operators are measured too, the pass
            covers all sentence pairs, and all claims are made; at the others the pass covers the
            pairs of the claims, and only the speed of the encoders is claimed.
        budget: How long to measure.
        conditions: Added to the conditions of every row.
        with_claims: Whether teacher and student are compared.
    Conditions:
        Every artefact runs at every thread count in a fresh process: load, first call, warm-up (3
        calls at each length, and 0.3 s), steady calls at each length, and, unless it is a fill-mask
        model, one pass over the sentence pairs. Disturbed cases are measured once more. Claims come
        from processes in which both models alternate.
    Raises:
        TargetError: The target sent no reply, or a job failed there.
    """
    measurement = _Measurement(target, artefacts, workloads, threads, budget, conditions or {})
    rows: list[ProfileRow] = []
    claims: list[Claim] = []
    operators: dict[str, list[OpTime]] = {}
    layers: dict[str, list[OpTime]] = {}
    with console.progress(f"measuring on {target.name}", None, unit="jobs") as bar:
        # One thread first: the other counts are compared with it.
        for count in sorted(threads, key=lambda count: count != 1):
            # Latency and memory: each artefact in a process of its own.
            for artefact in artefacts:
                bar.note(f"{artefact.label}, {plural(count, 'thread')}")
                measured = measurement.measure(artefact, count, rows)
                rows += measured.rows
                if measured.nodes:
                    operators[artefact.label] = op_times(measured.nodes)
                    layers[artefact.label] = layer_times(artefact, measured.nodes)
                bar.advance()

            # Speed claims: pairs of artefacts in common processes.
            pairs = measurement.pairs(count) if with_claims else []
            if pairs:
                bar.note(f"teacher and student alternating, {plural(count, 'thread')}")
                claims += measurement.speed_claims(pairs, count)
                bar.advance()
    if with_claims:
        claims += size_claims(artefacts, device=target.name, method=target.method)
    return ProfileRecord(
        device=target.name,
        method=target.method,
        rows=rows,
        claims=claims,
        op_times=operators,
        layer_times=layers,
        notes=[f"workload: {workloads.first.source}"],
        provenance=provenance(),
    )


# --- jobs and claims -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Rows of one artefact at one thread count, and its operators where they were timed."""

    rows: list[ProfileRow]
    nodes: list[NodeTime]


@dataclass(frozen=True)
class _Measurement:
    """What all jobs of one profile share; the fields are the arguments of `measure`."""

    target: Target
    artefacts: Sequence[Artefact]
    workloads: Workloads
    threads: Sequence[int]
    budget: MeasurementBudget
    conditions: Mapping[str, str]

    def run(self, artefacts: Sequence[Artefact], job: Job) -> Reply:
        """Runs a job within its memory; raises ModelError or TargetError if it failed."""
        longest = max(self.workloads.of(artefact).longest for artefact in artefacts)
        memory = private_memory_bytes(artefacts, longest=longest, threads=job.threads)
        job = job.model_copy(update={"private_memory_bytes": memory})
        inputs = self.workloads.joint(artefacts)
        reply = run_job(self.target, artefacts, job, inputs, check=False)
        require_success(self.target, reply, artefacts)
        return reply

    def job(self, artefact: Artefact, threads: int) -> Job:
        """Returns the job that measures one artefact at one thread count."""
        budget = self.budget
        case_count = len(self.artefacts) * len(self.threads) * len(self.workloads.first.lengths)
        # Energy and operators need calls of their own: once per artefact is enough.
        phases: list[Phase] = ["steady"]
        if threads == self.threads[0]:
            phases.append("energy")
            # The profiler is onnxruntime's.
            if artefact.form.runtime == "onnxruntime":
                phases.append("ops")
        return Job(
            models=self.workloads.job_models([artefact]),
            cases=self._cases(artefact, threads),
            phases=phases,
            threads=threads,
            min_calls=budget.min_calls,
            min_seconds=budget.min_seconds,
            desired_calls=budget.desired_calls,
            desired_seconds=budget.share_seconds(case_count),
            max_seconds=budget.max_seconds,
            energy_seconds=budget.energy_seconds,
            ops_calls=_OPS_CALLS,
            ops_keys=self._ops_keys(),
            timeout_seconds=TIMEOUT_SECONDS,
        )

    def measure(self, artefact: Artefact, threads: int, earlier: Sequence[ProfileRow]) -> Measured:
        """Measures an artefact at one thread count, and its disturbed cases once more.

        Args:
            artefact: The artefact.
            threads: Threads of the session.
            earlier: Rows that were measured before, with those at one thread.
        """
        job = self.job(artefact, threads)
        reply = self.run([artefact], job)
        rows = mark_slower_than_one(self.rows(artefact, reply, threads), earlier)
        nodes = reply.models[artefact.label].ops
        disturbed = {str(row.length) for row in rows if row.disturbed}
        if not disturbed:
            return Measured(rows, nodes)
        cases = [case for case in job.cases if case.name in disturbed]
        reply = self.run([artefact], job.model_copy(update={"cases": cases, "phases": _STEADY}))
        again = mark_slower_than_one(self.rows(artefact, reply, threads), earlier)
        return Measured(replace_times(rows, again), nodes)

    def _cases(self, artefact: Artefact, threads: int) -> list[Case]:
        """Returns steady calls at each length, and a pass over sentence pairs."""
        lengths = self.workloads.first.lengths
        cases = [Case(name=str(length), keys=keys) for length, keys in lengths.items()]
        # Fill-mask models make no pass: a call costs a multiple of the encoder's, and the paper's
        # table is about encoders.
        if artefact.task == FILL_MASK_TASK:
            return cases
        # A pass over all pairs takes long (docs/log.md#duration-of-a-profile): only one is made.
        pairs = self.workloads.first.claim_pairs
        if threads == self.threads[0]:
            pairs = self.workloads.first.pairs
        if pairs:
            pass_seconds = self.budget.pass_seconds
            cases.append(Case(name=PAIRS, keys=pairs, mode="pass", max_seconds=pass_seconds))
        return cases

    def _ops_keys(self) -> list[str] | None:
        """Keys of the inputs at which operators are timed; None without lengths."""
        lengths = self.workloads.first.lengths
        if not lengths:
            return None
        nearest = min(lengths, key=lambda length: abs(length - _OPS_LENGTH))
        return lengths[nearest]

    def rows(self, artefact: Artefact, reply: Reply, threads: int) -> list[ProfileRow]:
        """Returns the rows of one artefact at one thread count."""
        return rows_from_reply(
            artefact,
            reply,
            device=self.target.name,
            method=self.target.method,
            threads=threads,
            tokens_per_pair=self.workloads.of(artefact).tokens_per_pair,
            conditions=self.conditions,
        )

    def pairs(self, threads: int) -> list[Pairing]:
        """Returns the pairs of artefacts that claims are made about at a thread count."""
        if not self.workloads.first.claim_pairs:
            return []
        pairs = pairings(self.artefacts)
        if threads == self.threads[0]:
            return pairs
        # The paper's claim is made at every thread count, the others once: they take as long.
        return [p for p in pairs if p.kind == "speed" and p.first.task != FILL_MASK_TASK]

    def speed_claims(self, pairs: Sequence[Pairing], threads: int) -> list[Claim]:
        """Measures pairs of artefacts in several processes and returns their claims."""
        by_name = {pairing.name: pairing for pairing in pairs}
        runtime = ""

        def run_process(number: int, names: Collection[str]) -> Reply:
            nonlocal runtime
            selected = [by_name[name] for name in names]
            artefacts = artefacts_of(selected)
            models = self.workloads.job_models(artefacts)
            job = alternating_job(selected, models, self._claim_keys(number), threads)
            reply = self.run(artefacts, job)
            runtime = f"onnxruntime {reply.identity.onnxruntime}"
            return reply

        processes = self.budget.processes
        comparisons = compare_in_turns(run_process, by_name, processes=processes, threads=threads)
        claims = []
        for pairing in pairs:
            texts = len(alternated_keys(pairing, self.workloads.first.claim_pairs))
            setting = ClaimSetting(
                device=self.target.name,
                method=self.target.method,
                threads=threads,
                runtime=runtime,
                text=f"{texts} sentence pairs, batch 1{self._token_counts(pairing)}",
            )
            claims.append(speed_claim(pairing, comparisons[pairing.name].ratio(processes), setting))
        return claims

    def _token_counts(self, pairing: Pairing) -> str:
        """Describes the tokens of the pairs where two models have different tokenizers."""
        first, second = self.workloads.of(pairing.first), self.workloads.of(pairing.second)
        if first is second:
            return ""
        return (
            f" ({first.tokens_per_pair:.1f} and {second.tokens_per_pair:.1f} tokens a pair: the "
            "same texts, each model with its own vocabulary)"
        )

    def _claim_keys(self, number: int) -> list[str]:
        """Returns the sentence pairs of one process; all processes together have all of them."""
        pairs = self.workloads.first.claim_pairs
        # Fewer pairs than processes: some have the same one.
        return pairs[number :: self.budget.processes] or [pairs[number % len(pairs)]]

"""Measures artefacts on a target: builds the jobs, and turns the replies into a ProfileRecord."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgedistil.core import console
from edgedistil.core.format import plural
from edgedistil.core.records import Claim, OpTime, ProfileRecord, ProfileRow, provenance
from edgedistil.core.task import FILL_MASK_TASK
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.claims import (
    ClaimSetting,
    Pairing,
    pairings,
    size_claims,
    speed_claim,
)
from edgedistil.profiling.limits import private_memory_bytes, require_success
from edgedistil.profiling.rows import layer_times, op_times, rows_from_reply
from edgedistil.profiling.workload import PAIRS, Workload
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.protocol import Alternation, Block, Case, Job, Phase, Reply
from edgedistil.runtime.target import Target

# Operator times are taken at the length closest to this one, averaged over a few calls: the shares
# of the operators change little with either.
_OPS_LENGTH = 128
_OPS_CALLS = 5
# Calls of one model before the other one takes its turn: few, so that a change of clock or load
# hits both models.
_CALLS_PER_BLOCK = 5
# With fewer blocks the interval of a ratio would be that of single blocks.
_MIN_BLOCKS = 3
# Limit of a job with all its cases: far above any run seen, so that only a hung one ends here.
_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class MeasurementBudget:
    """How long a profile may take, and how many calls its figures need.

    p90 needs 10 calls, p95 20 and p99 100; a percentile without enough samples is reported as not
    measured. A case (one artefact at one length and thread count) makes `min_calls`, and up to
    `desired_calls` as far as its share of `steady_seconds` allows: a single small model gets a p99,
    and a run with many artefacts ends in time (docs/log.md#duration-of-a-profile).

    Attributes:
        min_calls: Calls of a steady case, however slow they are.
        min_seconds: Time of a steady case, however fast its calls are.
        desired_calls: Calls of a steady case while its share of the time lasts.
        steady_seconds: Time for the desired calls of all cases.
        max_share_seconds: Most of it that one case may use.
        max_seconds: A steady case ends here even below `min_calls`.
        processes: Processes of a speed claim: what differs between starts is in its interval.
        energy_seconds: Time of the energy measurement of an artefact.
        pass_seconds: The pass over the sentence pairs ends here.
    """

    min_calls: int = 10
    min_seconds: float = 0.06
    desired_calls: int = 100
    steady_seconds: float = 6.0
    max_share_seconds: float = 0.5
    max_seconds: float = 10.0
    processes: int = 3
    energy_seconds: float = 1.0
    pass_seconds: float = 20.0

    def share_seconds(self, cases: int) -> float:
        """Returns the seconds for the desired calls of one of `cases`."""
        return min(self.max_share_seconds, self.steady_seconds / max(cases, 1))


DEFAULT_BUDGET = MeasurementBudget()


def measure(
    target: Target,
    artefacts: Sequence[Artefact],
    workload: Workload,
    *,
    threads: Sequence[int],
    budget: MeasurementBudget = DEFAULT_BUDGET,
    conditions: Mapping[str, str] | None = None,
) -> ProfileRecord:
    """Returns the rows, claims and operator times of artefacts on a target.

    Args:
        target: The machine.
        artefacts: What to measure.
        workload: The inputs.
        threads: Thread counts. At the first one, energy and operators are measured too, the pass
            covers all sentence pairs, and all claims are made; at the others the pass covers the
            pairs of the claims, and only the speed of the encoders is claimed.
        budget: How long to measure.
        conditions: Added to the conditions of every row.
    Conditions:
        Every artefact runs at every thread count in a fresh process: load, first call, 3 warm-up
        calls, steady calls at each length, and, unless it is a fill-mask model, one pass over the
        sentence pairs. Claims come from processes in which both models alternate.
    Raises:
        TargetError: The target sent no reply, or a job failed there.
    """
    measurement = _Measurement(target, artefacts, workload, threads, budget, conditions or {})
    rows: list[ProfileRow] = []
    claims: list[Claim] = []
    operators: dict[str, list[OpTime]] = {}
    layers: dict[str, list[OpTime]] = {}
    with console.progress(f"measuring on {target.name}", None, unit="jobs") as bar:
        for count in threads:
            # Latency and memory: each artefact in a process of its own.
            for artefact in artefacts:
                bar.note(f"{artefact.label}, {plural(count, 'thread')}")
                reply = measurement.run([artefact], measurement.job(artefact, count))
                rows += measurement.rows(artefact, reply, count)
                nodes = reply.models[artefact.label].ops
                if nodes:
                    operators[artefact.label] = op_times(nodes)
                    layers[artefact.label] = layer_times(artefact, nodes)
                bar.advance()

            # Speed claims: pairs of artefacts in common processes.
            pairs = measurement.pairs(count)
            if pairs:
                bar.note(f"teacher and student alternating, {plural(count, 'thread')}")
                claims += measurement.speed_claims(pairs, count)
                bar.advance()
    claims += size_claims(artefacts, device=target.name, method=target.method)
    return ProfileRecord(
        device=target.name,
        method=target.method,
        rows=rows,
        claims=claims,
        op_times=operators,
        layer_times=layers,
        notes=[f"workload: {workload.source}"],
        provenance=provenance(),
    )


# --- jobs and claims -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measurement:
    """What all jobs of one profile share; the fields are the arguments of `measure`."""

    target: Target
    artefacts: Sequence[Artefact]
    workload: Workload
    threads: Sequence[int]
    budget: MeasurementBudget
    conditions: Mapping[str, str]

    def run(self, artefacts: Sequence[Artefact], job: Job) -> Reply:
        """Runs a job within its memory; raises ModelError or TargetError if it failed."""
        memory = private_memory_bytes(artefacts, longest=self.workload.longest, threads=job.threads)
        job = job.model_copy(update={"private_memory_bytes": memory})
        reply = run_job(self.target, artefacts, job, self.workload, check=False)
        require_success(self.target, reply, artefacts)
        return reply

    def job(self, artefact: Artefact, threads: int) -> Job:
        """Returns the job that measures one artefact at one thread count."""
        budget = self.budget
        case_count = len(self.artefacts) * len(self.threads) * len(self.workload.lengths)
        # Energy and operators need calls of their own: once per artefact is enough.
        phases: list[Phase] = ["steady"]
        if threads == self.threads[0]:
            phases += ["energy", "ops"]
        return Job(
            models={artefact.label: artefact.job_model()},
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
            timeout_seconds=_TIMEOUT_SECONDS,
        )

    def _cases(self, artefact: Artefact, threads: int) -> list[Case]:
        """Returns steady calls at each length, and a pass over sentence pairs."""
        lengths = self.workload.lengths
        cases = [Case(name=str(length), keys=keys) for length, keys in lengths.items()]
        # Fill-mask models make no pass: a call costs a multiple of the encoder's, and the paper's
        # table is about encoders.
        if artefact.task == FILL_MASK_TASK:
            return cases
        # A pass over all pairs takes long (docs/log.md#duration-of-a-profile): only one is made.
        pairs = self.workload.claim_pairs
        if threads == self.threads[0]:
            pairs = self.workload.pairs
        if pairs:
            pass_seconds = self.budget.pass_seconds
            cases.append(Case(name=PAIRS, keys=pairs, mode="pass", max_seconds=pass_seconds))
        return cases

    def _ops_keys(self) -> list[str] | None:
        """Keys of the inputs at which operators are timed; None without lengths."""
        lengths = self.workload.lengths
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
            conditions=self.conditions,
        )

    def pairs(self, threads: int) -> list[Pairing]:
        """Returns the pairs of artefacts that claims are made about at a thread count."""
        if not self.workload.claim_pairs:
            return []
        pairs = pairings(self.artefacts)
        if threads == self.threads[0]:
            return pairs
        # The paper's claim is made at every thread count, the others once: they take as long.
        return [p for p in pairs if p.kind == "speed" and p.first.task != FILL_MASK_TASK]

    def speed_claims(self, pairs: Sequence[Pairing], threads: int) -> list[Claim]:
        """Measures pairs of artefacts in several processes and returns their claims."""
        artefacts = _artefacts_of(pairs)
        blocks: dict[str, list[list[Block]]] = {}
        runtime = ""
        for keys in self._keys_by_process():
            job = _alternating_job(pairs, artefacts, keys, threads)
            reply = self.run(artefacts, job)
            runtime = f"onnxruntime {reply.identity.onnxruntime}"
            for result in reply.alternation:
                blocks.setdefault(result.name, []).append(result.blocks)

        claims = []
        for pairing in pairs:
            texts = len(_alternated_keys(pairing, self.workload.claim_pairs))
            setting = ClaimSetting(
                device=self.target.name,
                method=self.target.method,
                threads=threads,
                runtime=runtime,
                text=f"{texts} sentence pairs, batch 1",
            )
            claims.append(speed_claim(pairing, blocks[pairing.name], setting))
        return claims

    def _keys_by_process(self) -> Iterator[list[str]]:
        """Splits the sentence pairs over the processes, so that no pair counts twice."""
        for number in range(self.budget.processes):
            keys = self.workload.claim_pairs[number :: self.budget.processes]
            if keys:
                yield keys


def _alternating_job(
    pairs: Sequence[Pairing], artefacts: Sequence[Artefact], keys: list[str], threads: int
) -> Job:
    """Returns a job in which the artefacts of each pairing alternate on common texts."""
    return Job(
        models={artefact.label: artefact.job_model() for artefact in artefacts},
        cases=[Case(name=PAIRS, keys=keys, mode="pass")],
        alternate=[_alternation(pairing, keys) for pairing in pairs],
        phases=[],
        threads=threads,
        timeout_seconds=_TIMEOUT_SECONDS,
    )


def _alternation(pairing: Pairing, keys: list[str]) -> Alternation:
    pairing_keys = _alternated_keys(pairing, keys)
    return Alternation(
        name=pairing.name,
        first=pairing.first.label,
        second=pairing.second.label,
        keys=pairing_keys,
        blocks=max(_MIN_BLOCKS, len(pairing_keys) // _CALLS_PER_BLOCK),
        calls_per_block=_CALLS_PER_BLOCK,
    )


def _alternated_keys(pairing: Pairing, keys: list[str]) -> list[str]:
    """Returns the sentence pairs that a pairing alternates on."""
    # A call of a fill-mask model costs a multiple of the encoder's: half of the pairs are enough
    # (docs/log.md#duration-of-a-profile).
    return keys[::2] if pairing.first.task == FILL_MASK_TASK else keys


def _artefacts_of(pairs: Sequence[Pairing]) -> list[Artefact]:
    """Returns the artefacts of all pairings, each one once."""
    artefacts: dict[str, Artefact] = {}
    for pairing in pairs:
        artefacts[pairing.first.label] = pairing.first
        artefacts[pairing.second.label] = pairing.second
    return list(artefacts.values())

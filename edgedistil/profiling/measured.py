"""Artefacts × workload × target → a measured ProfileRecord: which jobs are sent, and what is made of the replies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.records import Claim, OpTime, ProfileRecord, ProfileRow, provenance
from edgedistil.core.task import FILL_MASK_TASK
from edgedistil.profiling import claims
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.pairing import Pairing, pairings
from edgedistil.profiling.rows import layer_times, op_times, rows_of
from edgedistil.profiling.workload import PAIRS, Workload
from edgedistil.runtime.protocol import Alternation, Block, Case, Job, Phase, Reply, SessionOptions
from edgedistil.runtime.target import Target, raise_failure

_OPS_LENGTH, _OPS_CALLS = 128, 5
_CALLS_PER_BLOCK = 5


@dataclass(frozen=True)
class Effort:
    """How long is measured. A percentile that the samples do not carry is refused, never guessed.

    p90 needs 10 calls, p95 20, p99 100: a case (an artefact at a length and thread count) gets 10, and up to 100 as far
    as its share of `steady_seconds` reaches: one small model has its p99, a run with many artefacts ends in time.
    The pass over all sentence pairs is made at the first thread count and ends after `pass_seconds` on a slow machine;
    at the others it goes over the claim's pairs.
    """

    min_calls: int = 10
    min_seconds: float = 0.06
    desired_calls: int = 100
    steady_seconds: float = 6.0
    longest_share: float = 0.5
    max_seconds: float = 10.0
    processes: int = 3
    energy_seconds: float = 1.0
    pass_seconds: float = 20.0

    def share(self, cases: int) -> float:
        """Seconds of one of `cases`, beyond which its calls end as soon as the minima are met."""
        return min(self.longest_share, self.steady_seconds / max(cases, 1))


DEFAULT_EFFORT = Effort()
DEFAULT_SESSION = SessionOptions()


def measure(
    target: Target,
    artefacts: Sequence[Artefact],
    workload: Workload,
    *,
    device: str,
    threads: Sequence[int],
    effort: Effort = DEFAULT_EFFORT,
    session: SessionOptions = DEFAULT_SESSION,
    conditions: dict[str, str] | None = None,
) -> ProfileRecord:
    """Rows, claims and operator times of `artefacts` on `target`.

    Conditions: every artefact at every thread count runs in a fresh process of its own (load, first call, 3 warm-up
    calls, then steady calls at each length and, unless it is a fill-mask model, a pass over the sentence pairs). The
    claims come from processes that hold both models and let them take turns.
    Raises:
        TargetError: The target gave no reply, or a job failed there.
    """
    pairs = pairings(artefacts)
    rows: list[ProfileRow] = []
    operators: dict[str, list[OpTime]] = {}
    layers: dict[str, list[OpTime]] = {}
    ratios: list[Claim] = []
    share = effort.share(len(artefacts) * len(threads) * len(workload.lengths))
    with (
        _files(workload) as inputs,
        console.progress(f"measuring on {device}", None, unit="jobs") as bar,
    ):
        for count in threads:
            for artefact in artefacts:
                bar.note(f"{artefact.label}, {claims.told_threads(count)}")
                phases: list[Phase] = (
                    ["steady", "energy", "ops"] if count == threads[0] else ["steady"]
                )
                over = workload.pairs if count == threads[0] else workload.claim_pairs
                job = _job(artefact, workload, over, count, effort, session, phases, share)
                reply = _visit(target, [artefact], job, inputs)
                rows += rows_of(
                    artefact,
                    reply,
                    device=device,
                    method=target.method,
                    threads=count,
                    conditions=conditions,
                )
                if nodes := reply.models[artefact.label].ops:
                    operators[artefact.label] = op_times(nodes)
                    layers[artefact.label] = layer_times(artefact, nodes)
                bar.advance()
            asked = (
                pairs if count == threads[0] else [each for each in pairs if _of_the_paper(each)]
            )
            if asked and workload.claim_pairs:
                bar.note(f"teacher and student taking turns, {claims.told_threads(count)}")
                ratios += _claims(target, asked, workload, inputs, device, count, effort, session)
                bar.advance()
    return ProfileRecord(
        device=device,
        method=target.method,
        rows=rows,
        claims=[*ratios, *claims.size_claims(artefacts, device=device, method=target.method)],
        op_times=operators,
        layer_times=layers,
        notes=[f"workload: {workload.source}"],
        provenance=provenance(),
    )


def _of_the_paper(pairing: Pairing) -> bool:
    """The one claim that is made at every thread count: the encoders' speed."""
    return pairing.kind == "speed" and pairing.first.task != FILL_MASK_TASK


@contextmanager
def _files(workload: Workload) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgedistil-inputs-") as folder:
        path = Path(folder) / "inputs.npz"
        workload.save(path)
        yield path


def _visit(target: Target, artefacts: Sequence[Artefact], job: Job, inputs: Path) -> Reply:
    files = {"inputs.npz": inputs}
    for artefact in artefacts:
        files.update(artefact.job_files())
    reply = target.run(job, files)
    raise_failure(reply, source=target.source)
    return reply


def _job(
    artefact: Artefact,
    workload: Workload,
    pairs: list[str],
    threads: int,
    effort: Effort,
    session: SessionOptions,
    phases: list[Phase],
    share: float,
) -> Job:
    cases = [Case(name=str(length), keys=keys) for length, keys in workload.lengths.items()]
    if pairs and artefact.task != FILL_MASK_TASK:
        cases.append(Case(name=PAIRS, keys=pairs, mode="pass", max_seconds=effort.pass_seconds))
    shown = min(workload.lengths, key=lambda each: abs(each - _OPS_LENGTH), default=None)
    return Job(
        models={artefact.label: artefact.job_model()},
        cases=cases,
        phases=phases,
        threads=threads,
        session=session,
        min_calls=effort.min_calls,
        min_seconds=effort.min_seconds,
        desired_calls=effort.desired_calls,
        desired_seconds=share,
        ops_calls=_OPS_CALLS,
        max_seconds=effort.max_seconds,
        energy_seconds=effort.energy_seconds,
        ops_keys=workload.lengths[shown] if shown is not None else None,
        timeout_seconds=3600,
    )


def _claims(
    target: Target,
    asked: Sequence[Pairing],
    workload: Workload,
    inputs: Path,
    device: str,
    threads: int,
    effort: Effort,
    session: SessionOptions,
) -> list[Claim]:
    """The speed claims: several processes, each with its share of the sentence pairs, so that no pair counts twice."""
    blocks: dict[str, list[list[Block]]] = {}
    runtime = ""
    for number in range(effort.processes):
        share = workload.claim_pairs[number :: effort.processes]
        if not share:
            continue
        reply = _visit(
            target, _distinct(asked), _alternating_job(asked, share, threads, session), inputs
        )
        runtime = f"onnxruntime {reply.identity.onnxruntime}"
        for answer in reply.alternation:
            blocks.setdefault(answer.name, []).append(answer.blocks)
    return [
        claims.speed_claim(
            each.kind,
            each.name,
            each.first,
            each.second,
            blocks[_name(each)],
            device=device,
            method=target.method,
            threads=threads,
            runtime=runtime,
            text=f"{len(_texts(each, workload.claim_pairs))} sentence pairs, batch 1",
        )
        for each in asked
    ]


def _alternating_job(
    asked: Sequence[Pairing], keys: list[str], threads: int, session: SessionOptions
) -> Job:
    alternations = [
        Alternation(
            name=_name(each),
            first=each.first.label,
            second=each.second.label,
            keys=texts,
            blocks=max(3, len(texts) // _CALLS_PER_BLOCK),
            calls_per_block=_CALLS_PER_BLOCK,
        )
        for each in asked
        for texts in [_texts(each, keys)]
    ]
    return Job(
        models={artefact.label: artefact.job_model() for artefact in _distinct(asked)},
        cases=[Case(name=PAIRS, keys=keys, mode="pass")],
        alternate=alternations,
        phases=[],
        threads=threads,
        session=session,
        timeout_seconds=3600,
    )


def _texts(pairing: Pairing, keys: list[str]) -> list[str]:
    """Half of the pairs serve the fill-mask models: each call costs a multiple, and theirs is the second row."""
    return keys[::2] if pairing.first.task == FILL_MASK_TASK else keys


def _distinct(asked: Sequence[Pairing]) -> list[Artefact]:
    return list({a.label: a for each in asked for a in (each.first, each.second)}.values())


def _name(pairing: Pairing) -> str:
    return f"{pairing.kind} {pairing.name}"

"""The door of the profiler: takes the flags apart, chooses the way to the device, leaves ProfileRecords in the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.cpu import usable_cores
from edgedistil.core.device import HOST, DeviceSpec, load_device
from edgedistil.core.errors import InputError
from edgedistil.core.records import Method, ProfileRecord, read_record, write_record
from edgedistil.core.rundir import RunDir, open_run, write_json
from edgedistil.profiling import calibrate as calibration
from edgedistil.profiling import claims, tune, workload
from edgedistil.profiling import memory_limit as fit
from edgedistil.profiling.artefacts import Artefact, file_artefact, run_artefacts
from edgedistil.profiling.measured import measure
from edgedistil.profiling.predicted import predict
from edgedistil.profiling.sample_text import SAMPLE_TEXT
from edgedistil.profiling.workload import Workload
from edgedistil.runtime import host
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.match import match_device
from edgedistil.runtime.target import Target


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
    claim_pairs: int = workload.CLAIM_PAIRS,
) -> tuple[RunDir | None, list[ProfileRecord]]:
    """Records of a run's artefacts (or of one file) on a device, by the way that the flags choose.

    Without flags this host is measured, and any other device is predicted; what an earlier --ssh or --emulate found
    about the same artefacts is returned beside the prediction.

    Args:
        run_name: The run whose exports are profiled; not looked at when `model` is given.
        device: "host" or a device file's name.
        ssh: Measure on the board behind this destination.
        emulate: Run under the device's instruction set on this machine: no latency comes of it.
        model: One ONNX file instead of a run's exports; its records are returned and not written.
        threads: Thread counts; none: 1 and all.
        lengths: Tokens; none: 16 to 256, as far as the model has positions.
        text: The user's text, one sequence a line; none: the run's held-out text.
        memory_limit: "512M": only find out whether the artefacts fit in it, on this host or emulated.
        tune: Find the best session options and write session.json.
        bootstrap: With `ssh`: send numpy and onnxruntime to a board that lacks them.
        calibrate: Fit the device's constants from this measurement, for later predictions.
        sentence_pairs: Pairs of the pass that stands beside the paper's table 3.
        claim_pairs: Pairs over which teacher and student take turns for a speed claim.
    Raises:
        InputError: Flags that exclude each other, a device, run, model or text that is none.
        TargetError: The device could not be reached, or could not run it.
        ParityError: Emulated outputs are outside the tolerance.
    """
    asked = _Flags(device, ssh, emulate, memory_limit, tune, bootstrap, calibrate)
    asked.check()
    spec = None if device == HOST else load_device(device)
    run, artefacts = _what(run_name, model)
    work = _workload(run, artefacts, lengths, text, sentence_pairs, claim_pairs)
    ask = _Ask(run, artefacts, work, list(threads) if threads else None, asked)
    if emulate:
        assert spec is not None
        return run, [_emulated(ask, spec, lengths)]
    if ssh is not None:
        return run, [_over_ssh(ask, spec)]
    if spec is not None:
        return run, [_predicted(ask, spec), *_earlier(ask, spec)]
    return run, [_on_host(ask)]


def check_requirements(requirements: Sequence[str]) -> None:
    """Does nothing when all of them can be read: said before anything is measured.

    Raises:
        InputError: One cannot be read.
    """
    for text in requirements:
        claims.read_requirement(text)


def require_claims(records: Sequence[ProfileRecord], requirements: Sequence[str]) -> None:
    """Does nothing when all requirements ("speedup>=1.6", "peak_mib<=400") hold.

    Raises:
        InputError: One that cannot be read.
        ClaimError: A required claim does not hold or is inconclusive.
    """
    claims.require(records, requirements)


@dataclass(frozen=True)
class _Flags:
    device: str
    ssh: str | None
    emulate: bool
    memory_limit: str | None
    tune: bool
    bootstrap: bool
    calibrate: bool

    def check(self) -> None:
        if self.emulate and self.ssh is not None:
            raise InputError(
                "--emulate and --ssh exclude each other: a board is emulated or reached"
            )
        if self.emulate and self.device == HOST:
            raise InputError(
                "--emulate needs a board",
                hint="for example --device rpi4; edgedistil devices lists them",
            )
        if self.bootstrap and self.ssh is None:
            raise InputError("--bootstrap goes with --ssh: it sends a board what it lacks")
        if self.memory_limit is not None and self.ssh is not None:
            raise InputError(
                "--memory-limit goes with this host or --emulate; a board has its own memory"
            )
        runs_something = self.ssh is not None or self.device == HOST
        for flag, given in (("--tune", self.tune), ("--calibrate", self.calibrate)):
            if given and (not runs_something or self.emulate):
                raise InputError(f"{flag} needs a real run: on this host, or on a board with --ssh")
        if self.memory_limit is not None and self.device != HOST and not self.emulate:
            raise InputError(
                f"--memory-limit runs something: add --emulate, or leave out --device {self.device}"
            )


@dataclass(frozen=True)
class _Ask:
    """What is profiled, on what, how."""

    run: RunDir | None
    artefacts: list[Artefact]
    work: Workload
    threads: list[int] | None
    flags: _Flags

    def counts(self, cores: int) -> list[int]:
        return self.threads or sorted({1, cores})

    def keep(self, record: ProfileRecord) -> ProfileRecord:
        if self.run is not None:
            write_record(self.run.profile(record.device, record.method), record)
        return record


def _on_host(ask: _Ask) -> ProfileRecord:
    target = LocalTarget()
    if ask.flags.memory_limit is not None:
        limit = fit.parse_bytes(ask.flags.memory_limit)
        record = fit.fit_within(limit, ask.artefacts, ask.work, threads=ask.counts(1)[0])
        if ask.run is not None:  # a file of its own: what was measured without a limit stays
            write_record(ask.run.profile_within(HOST, limit), record)
        return record
    identity = host.identity()
    record = _measured(ask, target, HOST, ask.counts(usable_cores()), host.conditions())
    if ask.flags.calibrate:
        _calibrate(
            ask, match_device(identity), record, identity.cpu or identity.board or "this machine"
        )
    return record


def _over_ssh(ask: _Ask, spec: DeviceSpec | None) -> ProfileRecord:
    from edgedistil.runtime.ssh.target import SshTarget

    assert ask.flags.ssh is not None
    with SshTarget(ask.flags.ssh, bootstrap=ask.flags.bootstrap, spec=spec) as target:
        identity = target.identify()
        found = match_device(identity)
        if spec is not None and found is not None and found.name != spec.name:
            raise InputError(
                f"{target.source} is a {found.name} ({identity.board or identity.cpu}), not a {spec.name}",
                hint=f"leave --device out, or say --device {found.name}",
            )
        known = spec or found
        cores = known.cores if known is not None else identity.cores_allowed or identity.cores or 1
        told = {
            "kernels": host.dispatched_kernels(identity.machine or "", identity.flags),
            "board": identity.board or "not told",
        }
        record = _measured(ask, target, target.name, ask.counts(cores), told)
    if ask.flags.calibrate:
        _calibrate(ask, known, record, ask.flags.ssh)
    return record


def _measured(
    ask: _Ask, target: Target, device: str, counts: list[int], told: dict[str, str]
) -> ProfileRecord:
    record = measure(
        target, ask.artefacts, ask.work, device=device, threads=counts, conditions=told
    )
    if ask.flags.tune:
        found = tune.tune(target, ask.artefacts, ask.work, most_threads=max(counts))
        path = (ask.run.profiles if ask.run is not None else Path()) / "session.json"
        write_json(path, {"device": device, "sessions": found})
        note = f"session options: {path}: " + "; ".join(
            f"{label}: {each['in_words']}" for label, each in found.items()
        )
        record = record.model_copy(update={"notes": [*record.notes, note]})
    return ask.keep(record)


def _calibrate(ask: _Ask, spec: DeviceSpec | None, record: ProfileRecord, source: str) -> None:
    if spec is None:
        raise InputError(
            f"--calibrate: no device file fits {source}",
            hint="draft one first: edgedistil devices probe",
        )
    path = calibration.calibrate(spec, ask.artefacts, record, source=source)
    console.say(f"calibrated {spec.name}: {path}; later predictions use it")


def _predicted(ask: _Ask, spec: DeviceSpec) -> ProfileRecord:
    record = predict(
        spec,
        ask.artefacts,
        lengths=sorted(ask.work.lengths),
        pair_lengths=ask.work.pair_lengths(),
        threads=ask.counts(spec.cores),
        constants=calibration.load(spec),
    )
    return ask.keep(
        record.model_copy(update={"notes": [*record.notes, f"workload: {ask.work.source}"]})
    )


def _earlier(ask: _Ask, spec: DeviceSpec) -> list[ProfileRecord]:
    """What an earlier --ssh or --emulate left about these very artefacts; rows of others are left out and told."""
    if ask.run is None:
        return []
    found = []
    methods: tuple[Method, ...] = ("measured", "emulated")
    present = {artefact.sha256 for artefact in ask.artefacts}
    for method in methods:
        path = ask.run.profile(spec.name, method)
        if not path.is_file():
            continue
        record = read_record(path, ProfileRecord)
        rows = [row for row in record.rows if row.artefact_sha256 in present]
        if len(rows) == len(record.rows):
            found.append(record)
        else:
            console.say(
                f"{path} is about artefacts that were exported again since: measure again to have it here"
            )
    return found


def _emulated(ask: _Ask, spec: DeviceSpec, lengths: Sequence[int] | None) -> ProfileRecord:
    from edgedistil.parity.gate import require_parity
    from edgedistil.profiling.emulated import emulate, run_probes

    limit = None if ask.flags.memory_limit is None else fit.parse_bytes(ask.flags.memory_limit)
    found = emulate(
        spec,
        ask.artefacts,
        ask.work,
        lengths=lengths,
        memory_limit_bytes=limit,
        probes_of=run_probes(ask.run),
    )
    record = ask.keep(found.record)
    for parity in found.parities.values():
        if ask.run is not None:
            write_record(
                ask.run.parity_on(spec.name, parity.model, parity.task, parity.precision), parity
            )
    for parity in found.parities.values():
        require_parity(parity)
    return record


def _what(run_name: str, model: Path | None) -> tuple[RunDir | None, list[Artefact]]:
    if model is not None:
        return None, [file_artefact(model)]
    run = open_run(run_name)
    console.say(f"run {run.name}")
    return run, run_artefacts(run)


def _workload(
    run: RunDir | None,
    artefacts: list[Artefact],
    lengths: Sequence[int] | None,
    text: Path | None,
    pairs: int,
    claim_pairs: int,
) -> Workload:
    if text is not None:
        lines, source = workload.read_lines(text), str(text)
    elif run is not None and run.heldout_text.is_file():
        lines, source = workload.read_lines(run.heldout_text), f"held-out text of run {run.name}"
    else:
        lines, source = SAMPLE_TEXT.splitlines(), "the built-in sample text (no run, no --text)"
    positions = [a.max_length for a in artefacts if a.max_length is not None]
    chosen = workload.checked_lengths(lengths, min(positions) if positions else None)
    return workload.build(
        artefacts[0].tokenizer,
        lines,
        source=source,
        lengths=chosen,
        pairs=pairs,
        claim_pairs=claim_pairs,
    )

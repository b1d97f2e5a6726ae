"""`edgedistil profile`: measures, emulates or predicts artefacts, and stores the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.device import HOST, DeviceSpec, load_device
from edgedistil.core.errors import InputError, Interrupted, ModelError
from edgedistil.core.options import ProfileOptions
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import Method, read_record, write_record
from edgedistil.core.rundir import RunDir, open_run
from edgedistil.core.session import SESSION_FILE, write_session_file
from edgedistil.core.text import read_lines
from edgedistil.costmodel.calibration import load_calibration
from edgedistil.profiling.artefacts import Artefact, file_artefact, run_artefacts
from edgedistil.profiling.batches import BatchSetting, measure_batches
from edgedistil.profiling.calibrate import calibrate
from edgedistil.profiling.encoder import InputShape
from edgedistil.profiling.measured import measure
from edgedistil.profiling.memory_limit import measure_fits, parse_bytes
from edgedistil.profiling.predicted import predict
from edgedistil.profiling.predicted_batches import predict_batches
from edgedistil.profiling.request import ProfileRequest
from edgedistil.profiling.rows import NOT_REPORTED
from edgedistil.profiling.safe_batches import find_limits, require_batches
from edgedistil.profiling.sustained import measure_sustained
from edgedistil.profiling.tokenization import (
    add_cpp_tokenization,
    add_tokenization,
    require_cpp_program,
)
from edgedistil.profiling.tune import tune
from edgedistil.profiling.workload import (
    SAMPLE_TEXT,
    Workload,
    Workloads,
    build_workloads,
    select_lengths,
)
from edgedistil.runtime import host
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.match import identify_board, match_device
from edgedistil.runtime.target import Target


def profile(run_name: str, options: ProfileOptions) -> tuple[RunDir | None, list[ProfileRecord]]:
    """Profiles a run's artefacts, or one ONNX file, on a device.

    The host is measured. Any other device is measured over SSH, emulated, or else predicted;
    earlier measurements and emulations of the same artefacts are returned after the prediction.

    Args:
        run_name: Run whose exports are profiled; not used if `options.model` is set.
        options: Device, method, inputs and what else to do.
    Returns:
        The run, and its records, which were written to it. None for an ONNX file, whose records are
        not written.
    Raises:
        InputError: Options exclude each other, or a device, run, model or text is invalid.
        TargetError: The device could not be reached, or could not run the artefacts.
        ParityError: Outputs of the emulated device are outside the tolerance.
        Interrupted: SIGINT or SIGTERM; nothing was stored.
    """
    check_options(options)
    spec = None if options.device == HOST else load_device(options.device)
    with _nothing_stored_if_interrupted(options):
        run, artefacts = _find_artefacts(run_name, options.model)
        request = ProfileRequest(options, run, artefacts, _make_workloads(run, artefacts, options))
        return run, _make_records(request, spec)


@contextmanager
def _nothing_stored_if_interrupted(options: ProfileOptions) -> Iterator[None]:
    """Says after an interruption that half a profile replaces no complete one."""
    try:
        yield
    except KeyboardInterrupt:
        # Records of a single file are never stored.
        if options.model is not None:
            raise
        raise Interrupted(
            "interrupted: a profile is stored when it is complete, so nothing was stored",
            hint="the same command measures again; earlier profiles of the run are as they were",
        ) from None


def _make_records(request: ProfileRequest, spec: DeviceSpec | None) -> list[ProfileRecord]:
    """Profiles by the method that the options ask for, and stores the record."""
    options = request.options
    if options.browser is not None:
        # Imported here: most profiles need no browser.
        from edgedistil.profiling.browser_stage import profile_in_browser

        return [profile_in_browser(request)]
    if options.runtime is not None:
        # Imported here: most profiles need no other runtime.
        from edgedistil.profiling.openvino import profile_in_openvino

        return [profile_in_openvino(request)]
    if options.ssh is not None:
        return [_profile_over_ssh(request, options.ssh, spec)]
    if spec is None:
        return [_profile_host(request)]
    if options.emulate:
        return [_emulate(request, spec)]
    if options.batches is not None:
        return [_predict_batches(request, spec)]
    return [_predict(request, spec), *_earlier_records(request, spec)]


def check_options(options: ProfileOptions) -> None:
    """Raises InputError if options exclude each other or lack another one."""
    on_host = options.device == HOST
    # Whether something runs on the device itself.
    runs_there = options.ssh is not None or (on_host and not options.emulate)
    if options.browser is not None:
        _check_local_options(options, "--browser")
    if options.runtime is not None:
        _check_local_options(options, "--runtime")
    if options.emulate and options.ssh is not None:
        raise InputError("--emulate and --ssh exclude each other: leave one of them out")
    if options.emulate and on_host:
        raise InputError(
            "--emulate needs a board",
            hint="for example --device rpi4; edgedistil devices list shows all",
        )
    if options.bootstrap and options.ssh is None:
        raise InputError("--bootstrap needs --ssh: it installs onnxruntime on a board")
    if options.memory_limit is not None and options.ssh is not None:
        raise InputError("--memory-limit and --ssh exclude each other: a board has its own memory")
    if options.memory_limit is not None and not on_host and not options.emulate:
        raise InputError(
            "--memory-limit has to run the artefacts: "
            f"add --emulate, or leave out --device {options.device}"
        )
    if options.memory_limit is not None:
        parse_bytes(options.memory_limit)
    if options.batches is not None and options.emulate:
        raise InputError("--batch and --emulate exclude each other: an emulator gives no times")
    if options.cpp is not None:
        _check_local_options(options, "--cpp")
        require_cpp_program(options.cpp)
    measuring = {
        "--tune": options.tune,
        "--calibrate": options.calibrate,
        "--sustained": options.sustained is not None,
    }
    for flag, is_set in measuring.items():
        if is_set and not runs_there:
            raise InputError(f"{flag} has to measure: on this host, or on a board with --ssh")
        if is_set and options.batches is not None:
            raise InputError(f"--batch and {flag} exclude each other: {flag} is about single texts")


def _check_local_options(options: ProfileOptions, flag: str) -> None:
    """Raises InputError for options that a browser or another runtime here cannot have."""
    excluded = {
        "--device": options.device != HOST,
        "--ssh": options.ssh is not None,
        "--emulate": options.emulate,
        "--batch": options.batches is not None,
        "--memory-limit": options.memory_limit is not None,
        "--sustained": options.sustained is not None,
        "--calibrate": options.calibrate,
    }
    if flag == "--cpp":
        excluded = {name: excluded[name] for name in ("--device", "--ssh", "--emulate", "--batch")}
        excluded |= {"--browser": options.browser is not None}
    # A browser has session options of its own to search for.
    if flag == "--runtime":
        excluded |= {
            "--browser": options.browser is not None,
            "--tune": options.tune,
            "--cpp": options.cpp is not None,
        }
    for other, is_set in excluded.items():
        if is_set:
            raise InputError(f"{flag} and {other} exclude each other: leave one of them out")


# --- artefacts and inputs ------------------------------------------------------------------------


def _find_artefacts(run_name: str, model: Path | None) -> tuple[RunDir | None, list[Artefact]]:
    if model is not None:
        return None, [file_artefact(model)]
    run = open_run(run_name)
    console.say(f"run {run.name}")
    return run, run_artefacts(run)


def _make_workloads(
    run: RunDir | None, artefacts: list[Artefact], options: ProfileOptions
) -> Workloads:
    """Tokenizes the user's text, the run's held-out text, or the built-in sample."""
    if options.text is not None:
        lines, source = read_lines(options.text), str(options.text)
    elif run is not None and run.heldout_text.is_file():
        lines, source = read_lines(run.heldout_text), f"held-out text of run {run.name}"
    else:
        lines, source = read_lines(SAMPLE_TEXT), "the built-in sample text (no run, no --text)"
    shape = _common_shape(artefacts)
    workloads = build_workloads(
        [artefact.tokenizer for artefact in artefacts],
        lines,
        source=source,
        lengths=select_lengths(options.lengths, shape),
        shape=shape,
        pairs=options.sentence_pairs,
        claim_pairs=options.claim_pairs,
    )
    for artefact in artefacts:
        _check_ids(workloads.of(artefact), artefact)
    return workloads


def _common_shape(artefacts: list[Artefact]) -> InputShape:
    """Returns the sequences that all artefacts can take, because all get the same inputs."""
    graphs = [artefact.graph for artefact in artefacts]
    fixed = {graph.length for graph in graphs if graph.length is not None}
    if len(fixed) > 1:
        raise InputError(f"the graphs take different fixed lengths: {sorted(fixed)} tokens")
    positions = [a.max_length for a in artefacts if a.max_length is not None]
    segments = [graph.segments for graph in graphs if graph.segments is not None]
    return InputShape(
        max_length=min(positions, default=None),
        fixed_length=next(iter(fixed), None),
        segments=min(segments, default=None),
        batch=max(graph.batch for graph in graphs),
    )


def _check_ids(workload: Workload, artefact: Artefact) -> None:
    """Raises ModelError if the tokenizer gives ids that a graph's vocabulary does not have."""
    rows = artefact.graph.vocabulary
    largest = max(int(feeds["input_ids"].max()) for feeds in workload.inputs.values())
    if rows is not None and largest >= rows:
        raise ModelError(
            f"the tokenizer in {artefact.tokenizer} gives the token id {largest}, but "
            f"{artefact.path} has a vocabulary of {rows} tokens",
            hint="copy the tokenizer of this model next to its graph",
        )


# --- measured ------------------------------------------------------------------------------------


def _profile_host(request: ProfileRequest) -> ProfileRecord:
    if request.options.memory_limit is not None:
        return _check_memory_limit(request, request.options.memory_limit)
    counts = request.thread_counts(host.usable_threads())
    if request.options.batches is not None:
        return _measure_batches(request, LocalTarget(), max(counts), host.conditions())
    identity = host.identity()
    record = _measure(request, LocalTarget(), counts, host.conditions())
    # The host's constants belong to the device file that matches it.
    if request.options.calibrate:
        name = identity.cpu or identity.board or "this machine"
        _calibrate(request, match_device(identity), record, name)
    return record


def _check_memory_limit(request: ProfileRequest, limit_text: str) -> ProfileRecord:
    limit = parse_bytes(limit_text)
    # One thread by default: more need more memory.
    threads = request.thread_counts(host.usable_threads())[0]
    record = measure_fits(limit, request.artefacts, request.workloads, threads=threads)
    lengths = sorted(request.workloads.first.lengths)
    limits = find_limits(limit, request.artefacts, lengths, threads=threads)
    record = record.model_copy(update={"limits": limits})
    # A file of its own: figures that were measured without a limit remain.
    if request.run is not None:
        write_record(request.run.profile_within(HOST, limit), record)
    if request.options.batches is not None:
        require_batches(limits, request.options.batches, lengths)
    return record


def _profile_over_ssh(
    request: ProfileRequest, destination: str, spec: DeviceSpec | None
) -> ProfileRecord:
    # Imported here: most profiles need no connection.
    from edgedistil.runtime.ssh.target import SshTarget

    with SshTarget(destination, bootstrap=request.options.bootstrap, spec=spec) as target:
        identity = target.identify()
        spec = identify_board(spec, identity, target.source)
        # A board reports what it may use itself, which can be less than its device file has.
        cores = identity.usable_threads or 1
        conditions = {
            "kernels": host.dispatched_kernels(identity.machine or "", identity.flags),
            "board": identity.board or NOT_REPORTED,
        }
        counts = request.thread_counts(cores, machine=target.source)
        if request.options.batches is not None:
            return _measure_batches(request, target, max(counts), conditions)
        record = _measure(request, target, counts, conditions)
    if request.options.calibrate:
        _calibrate(request, spec, record, destination)
    return record


def _measure(
    request: ProfileRequest, target: Target, threads: list[int], conditions: Mapping[str, str]
) -> ProfileRecord:
    """Measures, also with --sustained and --tune, and stores the record."""
    record = measure(
        target, request.artefacts, request.workloads, threads=threads, conditions=conditions
    )
    if isinstance(target, LocalTarget):
        rows = add_tokenization(record.rows, request.artefacts, request.workloads)
        if request.options.cpp is not None:
            bundle = request.options.cpp
            rows = add_cpp_tokenization(rows, request.artefacts, request.workloads, bundle)
        record = record.model_copy(update={"rows": rows})
    if request.options.sustained is not None:
        sustained = measure_sustained(
            target,
            request.artefacts,
            request.workloads,
            threads=max(threads),
            seconds=request.options.sustained,
        )
        record = record.model_copy(update={"sustained": sustained})
    if request.options.tune:
        note = _tune(request, target, max(threads))
        record = record.model_copy(update={"notes": [*record.notes, note]})
    return request.store(record)


def _measure_batches(
    request: ProfileRequest, target: Target, threads: int, conditions: Mapping[str, str]
) -> ProfileRecord:
    """Measures calls with many texts, and stores the record in a file of its own."""
    setting = BatchSetting(sorted(set(request.options.batches or ())), threads, conditions)
    record = measure_batches(target, request.artefacts, request.workloads, setting)
    return request.store_batches(record)


def _tune(request: ProfileRequest, target: Target, max_threads: int) -> str:
    """Writes session.json and describes it in one line."""
    # Without a run the file goes to the working directory.
    advice = tune(target, request.artefacts, request.workloads, max_threads=max_threads)
    folder = request.run.profiles if request.run is not None else Path()
    path = folder / SESSION_FILE
    write_session_file(path, advice)
    sessions = [f"{label}: {entry.session.describe()}" for label, entry in advice.items()]
    return f"session options: {path}: {'; '.join(sessions)}"


def _calibrate(
    request: ProfileRequest, spec: DeviceSpec | None, record: ProfileRecord, source: str
) -> None:
    if spec is None:
        raise InputError(
            f"--calibrate: no device file matches {source}",
            hint="draft one first: edgedistil devices probe",
        )
    path = calibrate(spec, request.artefacts, record, source=source)
    console.say(f"calibrated {spec.name}: {path}; later predictions use it")


# --- emulated ------------------------------------------------------------------------------------


def _emulate(request: ProfileRequest, spec: DeviceSpec) -> ProfileRecord:
    """Emulates the artefacts, stores the records, then raises if a parity check failed."""
    # Imported here: most profiles need no emulator.
    from edgedistil.parity.gate import require_parity
    from edgedistil.profiling.device_parity import run_probes
    from edgedistil.profiling.emulated import emulate

    limit = request.options.memory_limit
    emulation = emulate(
        spec,
        request.artefacts,
        request.workloads,
        lengths=request.options.lengths,
        memory_limit_bytes=None if limit is None else parse_bytes(limit),
        probes_of=run_probes(request.run),
    )
    # Everything is stored before a failed check ends the command.
    record = request.store(emulation.record)
    for parity in emulation.parities.values():
        request.store_parity(parity, device=spec.name)
    for parity in emulation.parities.values():
        require_parity(parity)
    return record


# --- predicted -----------------------------------------------------------------------------------


def _predict(request: ProfileRequest, spec: DeviceSpec) -> ProfileRecord:
    workloads = request.workloads
    record = predict(
        spec,
        request.artefacts,
        lengths=sorted(workloads.first.lengths),
        pair_lengths={a.label: workloads.of(a).pair_lengths() for a in request.artefacts},
        threads=request.thread_counts(spec.cores, machine=spec.name),
        constants=load_calibration(spec),
    )
    notes = [*record.notes, f"workload: {workloads.first.source}"]
    return request.store(record.model_copy(update={"notes": notes}))


def _predict_batches(request: ProfileRequest, spec: DeviceSpec) -> ProfileRecord:
    record = predict_batches(
        spec,
        request.artefacts,
        lengths=sorted(request.workloads.first.lengths),
        batches=sorted(set(request.options.batches or ())),
        threads=max(request.thread_counts(spec.cores, machine=spec.name)),
        constants=load_calibration(spec),
    )
    return request.store_batches(record)


def _earlier_records(request: ProfileRequest, spec: DeviceSpec) -> list[ProfileRecord]:
    """Returns stored measurements and emulations, if all their rows are about these artefacts."""
    if request.run is None:
        return []
    records = []
    present = {artefact.sha256 for artefact in request.artefacts}
    methods: tuple[Method, ...] = ("measured", "emulated")
    for method in methods:
        path = request.run.profile(spec.name, method)
        if not path.is_file():
            continue
        # Figures of an older export would be shown next to a prediction of the new one.
        record = read_record(path, ProfileRecord)
        if all(row.artefact_sha256 in present for row in record.rows):
            records.append(record)
        else:
            console.say(
                f"{path} is left out: its artefacts were exported again since; "
                f"profile {spec.name} again to include it"
            )
    return records

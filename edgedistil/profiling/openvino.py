"""`edgedistil profile --runtime openvino`: rows, checks, and the comparison with onnxruntime.

Every exported float32 and int8 artefact is measured in OpenVINO, its float32 graph also in bfloat16
where the processor has it, and as NNCF quantizes it. All of them go through the parity check. Each
form then takes turns with our artefact in onnxruntime, at every length.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.cpu import BFLOAT16_FLAGS, this_cpu
from edgedistil.core.errors import InputError, ParityError
from edgedistil.core.export_records import ParityRecord
from edgedistil.core.format import form_name, plural
from edgedistil.core.precision import Precision
from edgedistil.core.profile_records import ProfileRecord, ProfileRow, RuntimeComparison
from edgedistil.core.records import NotMeasured, text_sha256
from edgedistil.core.rundir import sha256_file
from edgedistil.core.scratch import scratch_folder
from edgedistil.parity.gate import list_failures
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.claim_jobs import TIMEOUT_SECONDS
from edgedistil.profiling.device_parity import (
    ProbesOf,
    check_on_target,
    describe_parity,
    run_probes,
)
from edgedistil.profiling.latency import Ratio
from edgedistil.profiling.limits import private_memory_bytes, require_success
from edgedistil.profiling.measured import DEFAULT_BUDGET, MeasurementBudget, measure
from edgedistil.profiling.request import ProfileRequest
from edgedistil.profiling.rows import runtime_name
from edgedistil.profiling.turns import compare_in_turns
from edgedistil.profiling.workload import Workloads
from edgedistil.runtime import host
from edgedistil.runtime.forms import OPENVINO, OPENVINO_BF16, OPENVINO_NNCF
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.openvino_packages import quantize_with_nncf, require_openvino
from edgedistil.runtime.plain_graph import write_plain_graph
from edgedistil.runtime.protocol import Alternation, Case, Job, Reply

# Device of the rows and name of the record: profile/openvino.measured.json.
DEVICE = "openvino"
# NNCF's own default.
_CALIBRATION_SEQUENCES = 300
# Rounds of a length in one process; an even number, so that both are first equally often.
_BLOCKS = 4
_MAX_CALLS_PER_BLOCK = 4


@dataclass(frozen=True)
class OpenVinoProfile:
    """Result of measuring several artefacts in OpenVINO.

    Attributes:
        record: The rows and the comparisons.
        parities: Label of a form → its parity check, where there are probes.
        forms: The forms that were measured.
    """

    record: ProfileRecord
    parities: Mapping[str, ParityRecord]
    forms: Sequence[Artefact]


def profile_in_openvino(request: ProfileRequest) -> ProfileRecord:
    """Measures in OpenVINO, stores the records, then raises if a parity check failed.

    Args:
        request: Artefacts and options of the command.
    Raises:
        InputError: No artefact is in float32 or int8.
        TargetError: OpenVINO is not installed, or could not run the artefacts.
        ParityError: Outputs of a graph of ours are outside the tolerance. The records are stored.
    """
    require_openvino()
    profile = measure_in_openvino(
        request.artefacts,
        request.workloads,
        threads=request.thread_counts(host.usable_threads()),
        probes_of=run_probes(request.run),
    )
    # Everything is stored before a failed check ends the command.
    request.store(profile.record)
    for form in profile.forms:
        if form.label in profile.parities:
            folder = form.form.suffix.lstrip(".")
            request.store_parity(profile.parities[form.label], device=folder)
    _require_parities(profile)
    return profile.record


def measure_in_openvino(
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    *,
    threads: Sequence[int],
    probes_of: ProbesOf,
    budget: MeasurementBudget = DEFAULT_BUDGET,
) -> OpenVinoProfile:
    """Returns rows of artefacts in OpenVINO, their checks, and their times against onnxruntime's.

    Args:
        artefacts: What was exported; float32 and int8 are measured.
        workloads: The inputs.
        threads: Thread counts.
        probes_of: Returns the probes of an artefact, or None if it has none.
        budget: How long to measure.
    Raises:
        InputError: No artefact is in float32 or int8.
        ModelError: OpenVINO cannot run a graph.
        TargetError: A job failed.
    """
    target = LocalTarget(name=DEVICE)
    with scratch_folder("openvino") as folder:
        forms = make_forms(artefacts, workloads, folder)
        # Wrong outputs make times meaningless: the check comes first.
        parities = _check_all(target, forms, probes_of)
        record = measure(
            target, forms, workloads, threads=threads, budget=budget, with_claims=False
        )
        compared = [form for form in forms if _is_comparable(form, parities.get(form.label))]
        runtimes: list[RuntimeComparison] = []
        for count in threads:
            pairs = comparison_pairs(artefacts, compared)
            runtimes += compare_runtimes(target, pairs, workloads, threads=count, budget=budget)
    rows = [_with_parity(row, forms, parities) for row in record.rows]
    notes = [
        f"{form_name(row)}: {row.conditions['parity']}"
        for row in rows
        if (row.threads, row.length) == (rows[0].threads, rows[0].length)
    ]
    notes += uncompared_notes(artefacts, compared)
    changes = {"rows": rows, "runtimes": runtimes, "notes": [*record.notes, *notes]}
    return OpenVinoProfile(record.model_copy(update=changes), parities, forms)


def _is_comparable(form: Artefact, parity: ParityRecord | None) -> bool:
    """Whether a form takes turns with ours: not if a graph of ours computes wrong outputs."""
    # NNCF's errors are part of what a user gets in its place.
    return parity is None or parity.passed or not form.form.ours


# --- forms ---------------------------------------------------------------------------------------


def make_forms(artefacts: Sequence[Artefact], workloads: Workloads, folder: Path) -> list[Artefact]:
    """Returns the artefacts as OpenVINO computes them.

    Args:
        artefacts: What was exported.
        workloads: Sentence pairs of the first one calibrate NNCF.
        folder: Where the graphs are written.
    Raises:
        InputError: No artefact is in float32 or int8.
        TargetError: NNCF failed.
    """
    forms = []
    read = [artefact for artefact in artefacts if artefact.precision in ("fp32", "int8")]
    if not read:
        names = ", ".join(artefact.label for artefact in artefacts)
        raise InputError(
            f"--runtime openvino measures fp32 and int8, and there is only {names}",
            hint="edgedistil export --quantize int8",
        )
    with console.progress("preparing for OpenVINO", len(read), unit="artefacts") as bar:
        for number, artefact in enumerate(read):
            # A folder of its own: a label may be no file name.
            bar.note(artefact.label)
            own = folder / str(number)
            own.mkdir()
            graph = own / "graph.onnx"
            write_plain_graph(artefact.path, graph)
            plain = replace(artefact, path=graph, external=(), exported=artefact.path)
            forms.append(replace(plain, form=OPENVINO))
            if artefact.precision == "fp32":
                if BFLOAT16_FLAGS & set(this_cpu().flags):
                    forms.append(replace(plain, form=OPENVINO_BF16))
                forms.append(_nncf_form(plain, workloads, own))
            bar.advance()
    return forms


def _nncf_form(plain: Artefact, workloads: Workloads, folder: Path) -> Artefact:
    """Returns a float32 artefact as NNCF quantizes it to int8."""
    # Pairs have the lengths of real sentences; without them, the texts of exact lengths.
    workload = workloads.of(plain)
    keys = workload.pairs or [key for keys in workload.lengths.values() for key in keys]
    feeds = {}
    for key in keys[:_CALIBRATION_SEQUENCES]:
        inputs = workload.inputs[key]
        feeds[key] = {name: inputs[source] for name, source in plain.graph.inputs.items()}
    files = quantize_with_nncf(plain.path, feeds, folder, exported=plain.named_file)
    digest = text_sha256("".join(f"{sha256_file(file)}\n" for file in files))
    return replace(
        plain,
        precision="int8",
        path=files[0],
        file_bytes=sum(file.stat().st_size for file in files),
        sha256=digest,
        form=OPENVINO_NNCF,
    )


# --- parity --------------------------------------------------------------------------------------


def _check_all(
    target: LocalTarget, forms: Sequence[Artefact], probes_of: ProbesOf
) -> dict[str, ParityRecord]:
    """Runs the probes of every form that has some."""
    parities = {}
    with console.progress("checking outputs", len(forms), unit="artefacts") as bar:
        for form in forms:
            bar.note(form.label)
            parity = check_on_target(target, form, probes_of)
            if parity is not None:
                parities[form.label] = parity
            bar.advance()
    return parities


def _with_parity(
    row: ProfileRow, forms: Sequence[Artefact], parities: Mapping[str, ParityRecord]
) -> ProfileRow:
    form = next(form for form in forms if _is_about(row, form))
    conditions = {
        **row.conditions,
        "kernels": "OpenVINO's",
        "parity": describe_parity(parities.get(form.label)),
    }
    return row.model_copy(update={"conditions": conditions})


def _is_about(row: ProfileRow, form: Artefact) -> bool:
    return (row.artefact_sha256, row.form) == (form.sha256, form.form.words)


def _require_parities(profile: OpenVinoProfile) -> None:
    """Raises ParityError for a wrong graph of ours; warns of a wrong one of NNCF's."""
    for form in profile.forms:
        parity = profile.parities.get(form.label)
        if parity is None or parity.passed:
            continue
        failures = "; ".join(list_failures(parity))
        message = f"{form.label} does not match the model it was exported from: {failures}"
        if form.form.ours:
            raise ParityError(
                f"in {parity.runtime}, {message}",
                hint="its rows say FAILED; the export's own check is onnxruntime's",
            )
        console.warn(f"{message}; its times are shown all the same")


# --- against onnxruntime -------------------------------------------------------------------------


def comparison_pairs(
    artefacts: Sequence[Artefact], forms: Sequence[Artefact]
) -> list[tuple[Artefact, Artefact]]:
    """Returns each form with the artefact of ours that a user would have in its place.

    That is the int8 artefact for bfloat16 and int8, and the float32 one for float32. Teachers are
    not deployed and left out, unless there is nothing else.
    """
    pairs = [(form, _counterpart(form, artefacts)) for form in _deployed(forms)]
    return [(form, ours) for form, ours in pairs if ours is not None]


def uncompared_notes(artefacts: Sequence[Artefact], forms: Sequence[Artefact]) -> list[str]:
    """Returns a note for each form that no artefact of ours can be compared with."""
    return [
        f"{form.label} is not compared with onnxruntime: no {_counterpart_precision(form)} "
        "artefact; edgedistil export --quantize int8"
        for form in _deployed(forms)
        if _counterpart(form, artefacts) is None
    ]


def _deployed(forms: Sequence[Artefact]) -> list[Artefact]:
    return [form for form in forms if form.role != "teacher"] or list(forms)


def _counterpart(form: Artefact, artefacts: Sequence[Artefact]) -> Artefact | None:
    key = (form.model, form.task, _counterpart_precision(form))
    ours = {(a.model, a.task, a.precision): a for a in artefacts}
    return ours.get(key)


def _counterpart_precision(form: Artefact) -> Precision:
    exact = form.precision == "fp32" and form.form.arithmetic == "f32"
    return "fp32" if exact else "int8"


def compare_runtimes(
    target: LocalTarget,
    pairs: Sequence[tuple[Artefact, Artefact]],
    workloads: Workloads,
    *,
    threads: int,
    budget: MeasurementBudget = DEFAULT_BUDGET,
) -> list[RuntimeComparison]:
    """Returns how many times as long each form takes as ours in onnxruntime, at every length.

    Args:
        target: This machine.
        pairs: Form, and artefact of ours.
        workloads: The inputs.
        threads: Threads of both.
        budget: Its number of processes.
    """
    if not pairs:
        return []
    turns = _Turns(target, pairs, workloads, threads)
    with console.progress(f"taking turns, {plural(threads, 'thread')}", None, unit="jobs"):
        compared = compare_in_turns(
            turns.run_process, turns.cases, processes=budget.processes, threads=threads
        )
    return [turns.comparison(name, compared[name].ratio(budget.processes)) for name in turns.cases]


@dataclass(frozen=True)
class _Case:
    """A form and an artefact of ours that take turns with sequences of one length."""

    form: Artefact
    ours: Artefact
    length: int


class _Turns:
    """Processes in which forms take turns with artefacts of ours.

    Attributes:
        cases: Name of a comparison → what is compared.
    """

    def __init__(
        self,
        target: LocalTarget,
        pairs: Sequence[tuple[Artefact, Artefact]],
        workloads: Workloads,
        threads: int,
    ) -> None:
        self._target = target
        self._workloads = workloads
        self._threads = threads
        # Label of a form → names and versions of both runtimes.
        self._runtimes: dict[str, str] = {}
        self.cases: dict[str, _Case] = {}
        for form, ours in pairs:
            for length in workloads.first.lengths:
                self.cases[f"{form.label} {length}"] = _Case(form, ours, length)

    def run_process(self, _number: int, names: Collection[str]) -> Reply:
        """Runs a process with the named comparisons."""
        selected = {name: self.cases[name] for name in names}
        # Ours is in several pairs and loaded once.
        artefacts = {case.form.label: case.form for case in selected.values()}
        artefacts |= {case.ours.label: case.ours for case in selected.values()}
        models = list(artefacts.values())
        inputs = self._workloads.joint(models)
        reply = run_job(self._target, models, self._job(selected, models), inputs, check=False)
        require_success(self._target, reply, models)
        for case in selected.values():
            names_of_both = f"{runtime_name(case.form, reply)}, {runtime_name(case.ours, reply)}"
            self._runtimes[case.form.label] = names_of_both
        return reply

    def _job(self, cases: Mapping[str, _Case], artefacts: Sequence[Artefact]) -> Job:
        lengths = self._workloads.first.lengths
        return Job(
            models=self._workloads.job_models(artefacts),
            cases=[Case(name="turns", keys=next(iter(lengths.values())))],
            phases=[],
            alternate=[
                _alternation(name, case.form, case.ours, lengths[case.length])
                for name, case in cases.items()
            ],
            threads=self._threads,
            timeout_seconds=TIMEOUT_SECONDS,
            private_memory_bytes=private_memory_bytes(
                artefacts, longest=max(lengths), threads=self._threads
            ),
        )

    def comparison(self, name: str, ratio: Ratio | NotMeasured) -> RuntimeComparison:
        """Returns the entry of the record for a comparison that ran."""
        case = self.cases[name]
        return RuntimeComparison(
            model=case.form.model,
            role=case.form.role,
            task=case.form.task,
            precision=case.form.precision,
            artefact_sha256=case.form.sha256,
            device=self._target.name,
            form=case.form.form.words,
            runtimes=self._runtimes[case.form.label],
            against=case.ours.precision,
            threads=self._threads,
            length=case.length,
            ratio=ratio if isinstance(ratio, NotMeasured) else ratio.value,
            low=ratio if isinstance(ratio, NotMeasured) else ratio.low,
            high=ratio if isinstance(ratio, NotMeasured) else ratio.high,
        )


def _alternation(name: str, form: Artefact, ours: Artefact, keys: list[str]) -> Alternation:
    return Alternation(
        name=name,
        first=form.label,
        second=ours.label,
        keys=keys,
        blocks=_BLOCKS,
        calls_per_block=min(len(keys), _MAX_CALLS_PER_BLOCK),
    )

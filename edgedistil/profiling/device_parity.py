"""Parity on a device: the probes of an export run there, and the gate judges their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.export_records import ParityRecord
from edgedistil.core.rundir import RunDir
from edgedistil.core.scratch import scratch_folder
from edgedistil.parity.compare import compare
from edgedistil.parity.gate import format_failure, judge
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.limits import require_success
from edgedistil.profiling.rows import runtime_name
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.protocol import Case, Job
from edgedistil.runtime.target import Target

# Multiply-adds that the probes of an artefact may cost. An emulated core computes about 0.2 G of
# them a second in fp32, so this takes a minute or two (docs/log.md#cost-of-an-emulated-call).
_PROBE_MACS = 1.5e10
# Bounds on the probes' tokens: enough to find a wrong kernel, and no more than a small model needs.
_MIN_PROBE_TOKENS = 256
_MAX_PROBE_TOKENS = 2048
# Far above any probe seen: only a hung job ends here.
_TIMEOUT_SECONDS = 1800
# Name of the file with the probes' outputs in a job's folder.
OUTPUTS_FILE = "outputs.npz"

# Finds the probes of an artefact; None if it has none.
ProbesOf = Callable[[Artefact], Probes | None]


def run_probes(run: RunDir | None) -> ProbesOf:
    """Returns a function that loads an artefact's probes from a run."""

    def load_probes(artefact: Artefact) -> Probes | None:
        if run is None or not run.probes(artefact.model, artefact.task).is_file():
            return None
        return Probes.load(run.probes(artefact.model, artefact.task))

    return load_probes


def select_probes(probes: Probes | None, parameters: int) -> Probes | None:
    """Returns the smallest probes, as many as an emulator computes in minutes; at least one.

    Args:
        probes: All probes of the artefact; None if it has none.
        parameters: Parameters of the artefact; a token costs about as many multiply-adds.
    """
    if probes is None:
        return None
    affordable = int(_PROBE_MACS / max(parameters, 1))
    budget = min(_MAX_PROBE_TOKENS, max(_MIN_PROBE_TOKENS, affordable))
    # Small calls first: they cover more texts for the same number of tokens.
    sizes = [int(batch.input_ids_BL.size) for batch in probes]
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    selected: list[int] = []
    tokens = 0
    for index in by_size:
        tokens += sizes[index]
        if selected and tokens > budget:
            break
        selected.append(index)
    return probes.select(selected)


def probe_keys(probes: Probes) -> list[str]:
    """Returns the keys of the probes' calls in a job."""
    return [f"probe{index}" for index in range(len(probes.batches))]


def probe_arrays(probes: Iterable[ProbeBatch]) -> dict[str, Any]:
    """Returns the inputs of the probes, named KEY/INPUT."""
    arrays = {}
    for index, batch in enumerate(probes):
        feeds = batch.feeds()
        # Probes without token types mean zeros: PyTorch's model adds them itself.
        feeds.setdefault("token_type_ids", feeds["input_ids"] * 0)
        for name, array in feeds.items():
            arrays[f"probe{index}/{name}"] = array
    return arrays


def check_on_target(target: Target, artefact: Artefact, probes_of: ProbesOf) -> ParityRecord | None:
    """Runs the probes of an artefact on a target and judges its outputs; None without probes.

    Raises:
        ModelError: The runtime refuses the model.
        TargetError: The job failed there.
    """
    probes = select_probes(probes_of(artefact), artefact.parameters)
    if probes is None:
        return None
    keys = probe_keys(probes)
    job = Job(
        models={artefact.label: artefact.job_model()},
        # The first call needs an input; nothing is timed.
        cases=[Case(name="probes", keys=keys[:1])],
        phases=["outputs"],
        threads=1,
        outputs=OUTPUTS_FILE,
        output_keys=keys,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    with scratch_folder("outputs") as folder:
        outputs = folder / OUTPUTS_FILE
        inputs = NpzInputs(probe_arrays(probes))
        reply = run_job(target, [artefact], job, inputs, outputs_to=outputs, check=False)
        require_success(target, reply, [artefact])
        return check_outputs(artefact, probes, outputs, target, runtime_name(artefact, reply))


def check_outputs(
    artefact: Artefact, probes: Probes, outputs: Path, target: Target, runtime: str
) -> ParityRecord:
    """Compares a target's outputs with PyTorch's, and judges them.

    Args:
        artefact: The artefact that ran.
        probes: The probes that it ran.
        outputs: npz with arrays LABEL/KEY/OUTPUT.
        target: Where it ran.
        runtime: The runtime in the record.
    """
    form = artefact.form
    # Only our own graphs have the roundings of the reference.
    rounded_like = artefact.precision if form.ours and form.bounds is None else None
    outputs_of_calls = _read_outputs(outputs, artefact.label, probes)
    comparison = compare(probes, outputs_of_calls, precision=rounded_like)
    return judge(
        replace(comparison, bounds=form.bounds),
        precision=artefact.precision,
        model=artefact.model,
        task=artefact.task,
        artefact_sha256=artefact.sha256,
        runtime=runtime,
        method=target.method,
        device=target.name,
    )


def _read_outputs(outputs: Path, label: str, probes: Probes) -> Iterator[Mapping[str, Any]]:
    """Yields output name → array of each probe call, one call at a time."""
    with np.load(outputs, allow_pickle=False) as stored:
        for key in probe_keys(probes):
            prefix = f"{label}/{key}/"
            arrays = {}
            for name in stored.files:
                if name.startswith(prefix):
                    arrays[name.removeprefix(prefix)] = stored[name]
            yield arrays


def describe_parity(parity: ParityRecord | None) -> str:
    """Describes the outcome of a parity check in one line, with its figures."""
    if parity is None:
        return "not checked: no probes of this artefact"
    overall = parity.overall
    figures = f"{overall.sequences} sequences, largest error {overall.max_abs:.2g}"
    if isinstance(overall.agreement, float):
        figures += f", agreement {overall.agreement:.1%}"
    if parity.passed:
        return f"passed under these kernels: {figures}"
    failures = [format_failure(result) for result in parity.results if not result.holds]
    return f"FAILED under these kernels: {figures}: {'; '.join(failures)}"

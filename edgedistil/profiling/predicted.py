"""A device without the device: the cost model's bands for every artefact, and what follows for the claims.

It runs nothing on the device, so it is no `Target`. The graph is traced on this host for its counts; no time of this
host gets into a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnxruntime

from edgedistil.core import console
from edgedistil.core.device import DeviceSpec
from edgedistil.core.records import (
    Band,
    Claim,
    MemoryStats,
    NotMeasured,
    ProfileRecord,
    ProfileRow,
    provenance,
)
from edgedistil.costmodel.model import (
    ONNXRUNTIME_CONSTANTS,
    Constants,
    core_family,
    latency_band,
    memory_band,
    predict_seconds,
    ratio_band,
)
from edgedistil.costmodel.workload import NodeWork, count_work
from edgedistil.profiling import claims
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.pairing import Pairing, pairings
from edgedistil.profiling.rows import facts

_NOT_RUN = NotMeasured(not_measured="predicted: nothing was run on this device")
_FROM_STORAGE = NotMeasured(not_measured="not predicted: it depends on what the file is read from")


def predict(
    spec: DeviceSpec,
    artefacts: Sequence[Artefact],
    *,
    lengths: Sequence[int],
    pair_lengths: Sequence[int],
    threads: Sequence[int],
    constants: Constants | None = None,
) -> ProfileRecord:
    """Bands for every artefact, length and thread count on a device, and predicted claims.

    Args:
        pair_lengths: Token counts of the sentence pairs of the workload; their row is predicted over all of them.
        constants: Calibrated ones; none: those of onnxruntime on the device's family of cores.
    Raises:
        ModelError: A graph does not run on this host, where its work is counted.
    """
    known = constants or ONNXRUNTIME_CONSTANTS[core_family(spec)]
    steps = _steps(lengths, pair_lengths)
    works: dict[str, dict[int, list[NodeWork]]] = {}
    with console.progress(f"predicting {spec.name}", len(artefacts), unit="artefacts") as bar:
        for artefact in artefacts:
            works[artefact.label] = count_work(artefact.path, artefact.inputs, steps)
            bar.advance()
    rows = [
        row
        for count in threads
        for artefact in artefacts
        for row in _rows(spec, artefact, works[artefact.label], lengths, pair_lengths, count, known)
    ]
    ratios = [
        _claim(spec, each, works, pair_lengths, count, known)
        for count in threads
        for each in pairings(artefacts)
        if pair_lengths
    ]
    return ProfileRecord(
        device=spec.name,
        method="predicted",
        rows=rows,
        claims=[*ratios, *claims.size_claims(artefacts, device=spec.name, method="predicted")],
        notes=_notes(spec, known),
        provenance=provenance(),
    )


def _steps(lengths: Sequence[int], pair_lengths: Sequence[int]) -> list[int]:
    """Lengths that are traced: the asked ones, and enough to interpolate the pairs'."""
    if not pair_lengths:
        return sorted(set(lengths))
    low, high = min(pair_lengths), max(pair_lengths)
    return sorted({*lengths, low, (low + high) // 2, high})


def _notes(spec: DeviceSpec, constants: Constants) -> list[str]:
    clock = spec.clusters[0].clock_ghz.value
    return [
        f"predicted, not measured: no figure here was taken on a {spec.title}",
        f"bands for onnxruntime at {clock:g} GHz; constants: {constants.origin}; high is {constants.spread:.2g} × low",
    ]


def _conditions(spec: DeviceSpec, constants: Constants, threads: int) -> dict[str, str]:
    scaling = spec.thread_scaling
    return {
        "runtime": f"onnxruntime, graph as {onnxruntime.__version__} runs it here",
        "clock": f"{spec.clusters[0].clock_ghz.value:g} GHz, {spec.clusters[0].core}",
        "threads": f"{threads}; speed-up {scaling.of(threads):g} ({scaling.source or scaling.assumed})",
        "calibration": constants.origin,
    }


def _rows(
    spec: DeviceSpec,
    artefact: Artefact,
    work: dict[int, list[NodeWork]],
    lengths: Sequence[int],
    pair_lengths: Sequence[int],
    threads: int,
    constants: Constants,
) -> list[ProfileRow]:
    peak = _memory(spec, artefact, work)
    fits = peak.high <= spec.memory_bytes
    told = _conditions(spec, constants, threads)
    if not fits:
        told["memory"] = f"may not fit: the device has {spec.memory.size_gib.value:g} GiB"
    bands: list[tuple[int | Literal["sentence-pairs"], Band]] = [
        (length, latency_band(work[length], spec, constants, threads=threads)) for length in lengths
    ]
    if pair_lengths:
        middle = float(np.median(_over_lengths(spec, work, pair_lengths, threads, constants)))
        bands.append(("sentence-pairs", _around(middle * 1000, constants)))
    return [
        ProfileRow(
            **facts(artefact),
            device=spec.name,
            method="predicted",
            runtime="onnxruntime (predicted)",
            threads=threads,
            batch=1,
            length=length,
            latency_ms=band,
            latency=_NOT_RUN,
            load_ms=_FROM_STORAGE,
            first_call_ms=_NOT_RUN,
            start_to_first_result_ms=_FROM_STORAGE,
            memory=MemoryStats(
                after_import_bytes=_NOT_RUN,
                after_load_bytes=_NOT_RUN,
                after_run_bytes=_NOT_RUN,
                peak_bytes=_NOT_RUN,
            ),
            peak_memory_bytes=peak,
            valid=True,
            conditions=told,
        )
        for length, band in bands
    ]


def _memory(spec: DeviceSpec, artefact: Artefact, work: dict[int, list[NodeWork]]) -> Band:
    return memory_band(
        artefact.file_bytes,
        external=bool(artefact.external),
        work=work[max(work)],
        page_bytes=spec.memory.page_kib.value * 1024,
    )


def _around(middle: float, constants: Constants) -> Band:
    step = math.sqrt(constants.spread)
    return Band(low=middle / step, high=middle * step)


def _over_lengths(
    spec: DeviceSpec,
    work: dict[int, list[NodeWork]],
    pair_lengths: Sequence[int],
    threads: int,
    constants: Constants,
) -> list[float]:
    """Seconds at each of `pair_lengths`, interpolated between the traced lengths."""
    known = sorted(work)
    times = [predict_seconds(work[length], spec, constants, threads=threads) for length in known]
    return [float(each) for each in np.interp(pair_lengths, known, times)]


def _claim(
    spec: DeviceSpec,
    pairing: Pairing,
    works: dict[str, dict[int, list[NodeWork]]],
    pair_lengths: Sequence[int],
    threads: int,
    constants: Constants,
) -> Claim:
    """The ratio at the pairs' mean length, where the pass spends its time on average."""
    first, second = works[pairing.first.label], works[pairing.second.label]
    nearest = min(first, key=lambda length: abs(length - float(np.mean(pair_lengths))))
    middle, band = ratio_band(first[nearest], second[nearest], spec, constants, threads=threads)
    return claims.predicted_claim(
        pairing.kind,
        pairing.name,
        pairing.first,
        pairing.second,
        middle,
        band,
        device=spec.name,
        conditions=f"{pairing.first.label} against {pairing.second.label}, onnxruntime, "
        f"{claims.told_threads(threads)}, {nearest} tokens; constants: {constants.origin}",
        threads=threads,
    )

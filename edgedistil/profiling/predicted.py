"""Predicts the profile of artefacts on a device that is not there, with the cost model.

Nothing runs on the device, so this is not a `Target`. The graph runs once on this host to count its
work; no time of this host enters a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgedistil.core import console
from edgedistil.core.device import DeviceSpec
from edgedistil.core.profile_records import Claim, MemoryStats, ProfileRecord, ProfileRow
from edgedistil.core.records import Band, NotMeasured, installed_versions, provenance
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, Constants, core_family
from edgedistil.costmodel.memory import memory_band
from edgedistil.costmodel.model import (
    counted_ratio,
    latency_band,
    ratio_band,
    scaling_is_unknown,
)
from edgedistil.costmodel.workload import NodeWork
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.claims import (
    ClaimSetting,
    Pairing,
    PredictedRatio,
    pairings,
    predicted_claim,
    size_claims,
)
from edgedistil.profiling.counting import count_artefact
from edgedistil.profiling.rows import artefact_fields
from edgedistil.profiling.workload import PAIRS

# Why figures of a predicted row are absent.
_NOT_RUN = NotMeasured(not_measured="predicted: nothing was run on this device")
_DEPENDS_ON_STORAGE = NotMeasured(
    not_measured="not predicted: it depends on the storage that the file is read from"
)
# Why a claim about int8 on several threads has no verdict.
_UNKNOWN_SCALING = (
    "the gain of int8 from more threads was not measured on this family of cores "
    "(`profile --ssh HOST --calibrate` measures it)"
)
_NO_MEMORY_STATS = MemoryStats(
    after_import_bytes=_NOT_RUN,
    after_load_bytes=_NOT_RUN,
    after_run_bytes=_NOT_RUN,
    peak_bytes=_NOT_RUN,
)

# Sequence length in tokens → nodes of one call.
WorkByLength = dict[int, list[NodeWork]]


def predict(
    spec: DeviceSpec,
    artefacts: Sequence[Artefact],
    *,
    lengths: Sequence[int],
    pair_lengths: Mapping[str, Sequence[int]],
    threads: Sequence[int],
    constants: Constants | None = None,
) -> ProfileRecord:
    """Returns a band for every artefact, length and thread count, and predicted claims.

    Args:
        spec: The device.
        artefacts: What to predict.
        lengths: Sequence lengths in tokens.
        pair_lengths: Label of an artefact → tokens of each sentence pair with its tokenizer;
            empty without pairs.
        threads: Thread counts.
        constants: Calibrated constants; None for onnxruntime's on the device's family of cores.
    Raises:
        ModelError: A graph does not run on this host, where its work is counted.
    """
    prediction = _Prediction(
        spec=spec,
        lengths=lengths,
        pair_lengths=pair_lengths,
        constants=constants or ONNXRUNTIME_CONSTANTS[core_family(spec)],
    )
    work_by_label = _count_all(artefacts, prediction)

    # Rows and claims, in the order of a measured record.
    rows: list[ProfileRow] = []
    claims: list[Claim] = []
    for count in threads:
        for artefact in artefacts:
            rows += prediction.rows(artefact, work_by_label[artefact.label], count)
        if any(pair_lengths.values()):
            pairs = pairings(artefacts)
            claims += [prediction.claim(pairing, work_by_label, count) for pairing in pairs]
    claims += size_claims(artefacts, device=spec.name, method="predicted")
    return ProfileRecord(
        device=spec.name,
        method="predicted",
        rows=rows,
        claims=claims,
        notes=prediction_notes(spec, prediction.constants),
        provenance=provenance(),
    )


def _count_all(artefacts: Sequence[Artefact], prediction: _Prediction) -> dict[str, WorkByLength]:
    """Counts the work of each artefact once; all thread counts use it."""
    work_by_label = {}
    label = f"predicting {prediction.spec.name}"
    with console.progress(label, len(artefacts), unit="artefacts") as bar:
        for artefact in artefacts:
            lengths = prediction.counted_lengths(artefact)
            work_by_label[artefact.label] = count_artefact(artefact, lengths)
            bar.advance()
    return work_by_label


@dataclass(frozen=True)
class _Prediction:
    """What all rows and claims of a predicted record share.

    Attributes:
        spec: The device.
        lengths: Sequence lengths in tokens.
        pair_lengths: Label of an artefact → tokens of each sentence pair.
        constants: Constants of the cost model.
    """

    spec: DeviceSpec
    lengths: Sequence[int]
    pair_lengths: Mapping[str, Sequence[int]]
    constants: Constants

    def counted_lengths(self, artefact: Artefact) -> list[int]:
        """Lengths at which the work of a call is counted."""
        # Counting runs the graph, so of the pairs only the shortest, the mean and the longest
        # length are counted; times between them are interpolated.
        lengths = set(self.lengths)
        pairs = self._pairs(artefact)
        if pairs:
            lengths |= {min(pairs), self._mean_pair(artefact), max(pairs)}
        return sorted(lengths)

    def _pairs(self, artefact: Artefact) -> Sequence[int]:
        return self.pair_lengths.get(artefact.label, ())

    def _mean_pair(self, artefact: Artefact) -> int:
        """Mean tokens of a pair, rounded: a pass over all pairs spends its time there."""
        return round(float(np.mean(self._pairs(artefact))))

    def rows(self, artefact: Artefact, work: WorkByLength, threads: int) -> list[ProfileRow]:
        """Returns a row for each length, and one for the sentence pairs."""
        # Memory is that of the longest call.
        peak_memory = memory_band(
            artefact.file_bytes,
            external=bool(artefact.external),
            work=work[max(work)],
            page_bytes=self.spec.memory.page_kib.value * 1024,
        )
        conditions = self._conditions(threads)
        if peak_memory.high > self.spec.memory_bytes:
            size_gib = self.spec.memory.size_gib.value
            conditions["memory"] = f"may not fit: the device has {size_gib:g} GiB"
        return [
            ProfileRow(
                **artefact_fields(artefact),
                device=self.spec.name,
                method="predicted",
                runtime="onnxruntime (predicted)",
                threads=threads,
                batch=artefact.graph.batch,
                length=length,
                tokens_per_pair=self._tokens_per_pair(artefact, length),
                latency_ms=band,
                latency=_NOT_RUN,
                load_ms=_DEPENDS_ON_STORAGE,
                first_call_ms=_NOT_RUN,
                start_to_first_result_ms=_DEPENDS_ON_STORAGE,
                memory=_NO_MEMORY_STATS,
                peak_memory_bytes=peak_memory,
                valid=True,
                conditions=conditions,
            )
            for length, band in self._latencies(artefact, work, threads)
        ]

    def claim(
        self, pairing: Pairing, work_by_label: dict[str, WorkByLength], threads: int
    ) -> Claim:
        """Returns the predicted claim at the mean length of the pairs, in each model's tokens."""
        lengths = [self._mean_pair(artefact) for artefact in (pairing.first, pairing.second)]
        first = work_by_label[pairing.first.label][lengths[0]]
        second = work_by_label[pairing.second.label][lengths[1]]
        middle, band = ratio_band(first, second, self.spec, self.constants, threads=threads)
        unknown = any(
            scaling_is_unknown(work, self.constants, threads=threads) for work in (first, second)
        )
        tokens = f"{lengths[0]} tokens"
        if lengths[0] != lengths[1]:
            tokens = f"{lengths[0]} and {lengths[1]} tokens for the same texts"
        setting = ClaimSetting(
            device=self.spec.name,
            method="predicted",
            threads=threads,
            runtime="onnxruntime",
            text=f"{tokens}; constants: {self.constants.origin}",
        )
        predicted = PredictedRatio(
            middle,
            band,
            counted=counted_ratio(first, second, self.spec),
            undecided=_UNKNOWN_SCALING if unknown else None,
        )
        return predicted_claim(pairing, predicted, setting)

    def _tokens_per_pair(self, artefact: Artefact, length: int | str) -> float | None:
        return float(np.mean(self._pairs(artefact))) if length == PAIRS else None

    def _latencies(
        self, artefact: Artefact, work: WorkByLength, threads: int
    ) -> list[tuple[int | Literal["sentence-pairs"], Band]]:
        latencies: list[tuple[int | Literal["sentence-pairs"], Band]]
        latencies = [(length, self._band(work[length], threads)) for length in self.lengths]
        pairs = self._pairs(artefact)
        if pairs:
            latencies.append(("sentence-pairs", self._pairs_band(pairs, work, threads)))
        return latencies

    def _pairs_band(self, pairs: Sequence[int], work: WorkByLength, threads: int) -> Band:
        """Band of the median over the sentence pairs, interpolated between counted lengths."""
        counted = sorted(work)
        bands = [self._band(work[length], threads) for length in counted]

        # The median of the pairs' times, as a measured row reports it.
        def median(ends: list[float]) -> float:
            return float(np.median(np.interp(pairs, counted, ends)))

        return Band(
            low=median([band.low for band in bands]), high=median([band.high for band in bands])
        )

    def _band(self, work: list[NodeWork], threads: int) -> Band:
        return latency_band(work, self.spec, self.constants, threads=threads)

    def _conditions(self, threads: int) -> dict[str, str]:
        cluster = self.spec.clusters[0]
        # A file that only assumes its scaling says so here.
        scaling = self.spec.thread_scaling
        origin = scaling.source or scaling.assumed
        return {
            "runtime": f"onnxruntime, graph as {installed_versions()['onnxruntime']} runs it here",
            "clock": f"{cluster.clock_ghz.value:g} GHz, {cluster.core}",
            "threads": f"{threads}; speed-up {scaling.of(threads):g} ({origin})",
            "calibration": self.constants.origin,
        }


def prediction_notes(spec: DeviceSpec, constants: Constants) -> list[str]:
    """Returns notes that say that nothing was measured, and how wide the bands are."""
    clock = spec.clusters[0].clock_ghz.value
    return [
        f"predicted, not measured: no figure here was taken on a {spec.title}",
        f"bands for onnxruntime at {clock:g} GHz; constants: {constants.origin}; "
        f"high is {constants.spread:.2g} × low ({constants.spread_origin})",
    ]

"""Measures random candidates of a search on this host, and counts how many verdicts were right.

    python benchmarks/search_truth.py [--candidates 20] [--seed 7] [--length 64] [--threads 1]
    python benchmarks/search_truth.py --scale 3    predictions scaled by other measured candidates

Searches MiniLM's students on the device file that matches this machine, with limits in the middle
of the candidates' bands, so that all three verdicts occur. Each drawn candidate is built with
random weights in its sizes, exported without a parity check, and timed alone in a fresh process.
`--scale` first measures some more of each precision, as `search --measure` does. About 5 seconds a
candidate on two quiet cores. Needs an idle machine.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from page import RESULTS, argument_parser, write_raw

from edgedistil.core import console
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.recipe import load_recipe
from edgedistil.core.records import Band
from edgedistil.core.rundir import artefact_files
from edgedistil.core.search_records import Candidate, SearchRecord
from edgedistil.runtime.local import LocalTarget
from edgedistil.search.scaling import Scale, find_scales, scale_times
from edgedistil.search.stage import search
from edgedistil.search_measuring import GraphMaker, time_graph


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=int, default=0, help="candidates that scale a precision")
    arguments = parser.parse_args()

    draw = random.Random(arguments.seed)
    everything = search_host(arguments, ["1000s"])
    scales = measure_scales(everything, draw, arguments.scale)
    candidates = scale_times(everything.candidates, scales, everything.budget)
    # Limits at the medians: half of the candidates are on either side of each.
    middle_ms = statistics.median(middle(c.latency_ms) for c in candidates)
    middle_bytes = statistics.median(middle(c.file_bytes) for c in candidates)
    under = [f"{middle_ms:.4f}ms", f"{middle_bytes / 1e6:.3f}MB"]
    record = search_host(arguments, under)
    candidates = scale_times(record.candidates, scales, record.budget)
    drawn = draw.sample(candidates, arguments.candidates)

    rows = [measure_candidate(candidate, record) for candidate in drawn]
    for verdict, fits in (("fits", True), ("does not fit", False)):
        of_verdict = [row for row in rows if row["verdict"] == verdict]
        right = sum(row["fitted"] == fits for row in of_verdict)
        console.result(f"{verdict}: {right} of {len(of_verdict)} right")
    in_band = sum(row["band_ms"][0] <= row["ms"] <= row["band_ms"][1] for row in rows)
    console.result(f"times within their band: {in_band} of {len(rows)}")
    content = {"budget": under, "scales": [scale.describe() for scale in scales], "rows": rows}
    stem = "search_truth-scaled" if scales else "search_truth"
    console.result(str(write_raw(RESULTS, stem, content)))


def search_host(arguments: Namespace, under: list[str]) -> SearchRecord:
    """Searches MiniLM's students for this machine."""
    options = SearchOptions(
        device="host", length=arguments.length, threads=arguments.threads, under=under
    )
    return search(load_recipe("tiny"), options)


def measure_scales(record: SearchRecord, draw: random.Random, count: int) -> list[Scale]:
    """Measures some candidates of each precision, and returns how far predictions are off."""
    pairs = []
    for precision in ("fp32", "int8") if count else ():
        of_precision = [c for c in record.candidates if c.precision == precision]
        for candidate in draw.sample(of_precision, count):
            row = measure_candidate(candidate, record)
            band = Band(low=row["ms"], high=row["ms"])
            pairs.append((candidate, candidate.model_copy(update={"latency_ms": band})))
    return find_scales(pairs)


def middle(band: object) -> float:
    return (band.low + band.high) / 2  # type: ignore[attr-defined]


def measure_candidate(candidate: Candidate, record: SearchRecord) -> dict[str, Any]:
    """Builds, exports and times one candidate; returns its prediction and what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        graph = GraphMaker(load_recipe("tiny"), Path(folder)).graph(candidate)
        size = sum(file.stat().st_size for file in artefact_files(graph.path))
        time = time_graph(graph, LocalTarget(), length=record.length, threads=record.threads)
        ms = time.ms
    budget = record.budget
    fits_bytes = budget.file_bytes is None or size <= budget.file_bytes
    row: dict[str, Any] = {
        "layers": candidate.layers,
        "intermediate": candidate.intermediate,
        "heads": candidate.heads,
        "vocabulary": candidate.vocabulary,
        "embedding": candidate.embedding,
        "precision": candidate.precision,
        "verdict": candidate.fit,
        "band_ms": [candidate.latency_ms.low, candidate.latency_ms.high],
        "ms": ms,
        "predicted_bytes": middle(candidate.file_bytes),
        "bytes": size,
        "fitted": ms <= (budget.latency_ms or math.inf) and fits_bytes,
    }
    console.result(str(row))
    return row


if __name__ == "__main__":
    main()

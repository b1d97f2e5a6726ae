"""Measures random candidates of a search on this host, and counts how many verdicts were right.

    python benchmarks/search_truth.py [--candidates 20] [--seed 7] [--length 64] [--threads 1]

Searches MiniLM's students on the device file that matches this machine, with limits in the middle
of the candidates' bands, so that all three verdicts occur. Each drawn candidate is built with
random weights in its sizes, exported without a parity check, and timed alone in a fresh process.
About 20 seconds a candidate: 7 minutes for 20 on two quiet cores. Needs an idle machine.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from pathlib import Path

from page import RESULTS, argument_parser

from edgedistil.core import console
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.recipe import load_recipe
from edgedistil.core.rundir import artefact_files, write_json
from edgedistil.core.search_records import Candidate, SearchRecord
from edgedistil.runtime.local import LocalTarget
from edgedistil.search.stage import search
from edgedistil.search_measuring import GraphMaker, time_graph


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    # Limits at the medians: half of the candidates are on either side of each.
    options = {"device": "host", "length": arguments.length, "threads": arguments.threads}
    everything = search(load_recipe("tiny"), SearchOptions(**options, under=["1000s"]))
    middle_ms = statistics.median(middle(c.latency_ms) for c in everything.candidates)
    middle_bytes = statistics.median(middle(c.file_bytes) for c in everything.candidates)
    under = [f"{middle_ms:.4f}ms", f"{middle_bytes / 1e6:.3f}MB"]
    record = search(load_recipe("tiny"), SearchOptions(**options, under=under))
    drawn = random.Random(arguments.seed).sample(record.candidates, arguments.candidates)

    rows = [measure_candidate(candidate, record) for candidate in drawn]
    for verdict, fits in (("fits", True), ("does not fit", False)):
        of_verdict = [row for row in rows if row["verdict"] == verdict]
        right = sum(row["fitted"] == fits for row in of_verdict)
        console.result(f"{verdict}: {right} of {len(of_verdict)} right")
    in_band = sum(row["band_ms"][0] <= row["ms"] <= row["band_ms"][1] for row in rows)
    console.result(f"times within their band: {in_band} of {len(rows)}")
    file = RESULTS / "search_truth.json"
    write_json(file, {"budget": under, "rows": rows, **record.provenance.model_dump(mode="json")})
    console.result(f"{file}")


def middle(band: object) -> float:
    return (band.low + band.high) / 2  # type: ignore[attr-defined]


def measure_candidate(candidate: Candidate, record: SearchRecord) -> dict[str, object]:
    """Builds, exports and times one candidate; returns its prediction and what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        graph = GraphMaker(load_recipe("tiny"), Path(folder)).graph(candidate)
        size = sum(file.stat().st_size for file in artefact_files(graph.path))
        time = time_graph(graph, LocalTarget(), length=record.length, threads=record.threads)
        ms = time.ms
    budget = record.budget
    assert budget.latency_ms is not None
    assert budget.file_bytes is not None
    row: dict[str, object] = {
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
        "fitted": ms <= budget.latency_ms and size <= budget.file_bytes,
    }
    console.result(str(row))
    return row


if __name__ == "__main__":
    main()

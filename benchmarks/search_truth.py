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

import numpy as np
import torch
from page import RESULTS, argument_parser
from peers.graphs import save_precisions
from transformers import DistilBertConfig, DistilBertModel

from edgedistil.core import console
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.precision import Precision
from edgedistil.core.recipe import load_recipe
from edgedistil.core.rundir import artefact_files, write_json
from edgedistil.core.search_records import Candidate, SearchRecord
from edgedistil.core.task import ENCODER_TASK
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Case, Job, JobModel
from edgedistil.search.stage import search

WIDTH, HEADS, POSITIONS = 384, 12, 512
MIN_CALLS, MIN_SECONDS = 60, 3.0


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
        files: dict[Precision, Path] = {
            "fp32": Path(folder) / "fp32" / "model.onnx",
            "int8": Path(folder) / "int8" / "model.onnx",
        }
        save_precisions(build(candidate), files, task=ENCODER_TASK)
        graph = files[candidate.precision]
        size = sum(file.stat().st_size for file in artefact_files(graph))
        ms = time_graph(graph, record.length, record.threads)
    budget = record.budget
    assert budget.latency_ms is not None
    assert budget.file_bytes is not None
    row: dict[str, object] = {
        "layers": candidate.layers,
        "intermediate": candidate.intermediate,
        "vocabulary": candidate.vocabulary,
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


def build(candidate: Candidate) -> DistilBertModel:
    """A model of a candidate's sizes, with random weights."""
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=candidate.vocabulary,
        dim=WIDTH,
        n_heads=HEADS,
        n_layers=candidate.layers,
        hidden_dim=candidate.intermediate,
        max_position_embeddings=POSITIONS,
    )
    return DistilBertModel(config).eval().requires_grad_(False)


def time_graph(graph: Path, length: int, threads: int) -> float:
    """Median time of a call in a fresh process, in milliseconds."""
    job = Job(
        models={"graph": JobModel(file=str(graph))},
        cases=[Case(name="text", keys=["text"])],
        phases=["steady"],
        threads=threads,
        min_calls=MIN_CALLS,
        min_seconds=MIN_SECONDS,
    )
    ids_BL = np.ones((1, length), np.int64)
    inputs = NpzInputs({"text/input_ids": ids_BL, "text/attention_mask": np.ones_like(ids_BL)})
    reply = run_job(LocalTarget(), [_Graph(graph)], job, inputs, check=False)
    if reply.error is not None:
        raise RuntimeError(reply.error.message)
    return statistics.median(reply.models["graph"].cases["text"].samples_ns) / 1e6


class _Graph:
    """A graph on this host, as a file of a job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def job_files(self) -> dict[str, Path]:
        return {str(self.path): self.path}


if __name__ == "__main__":
    main()

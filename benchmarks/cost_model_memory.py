"""Peak memory of the benchmark's encoders, and the memory model fitted to it.

    python benchmarks/cost_model_memory.py             measures, then fits
    python benchmarks/cost_model_memory.py --fit-only  fits the stored measurements

Every encoder of cost_model_shapes.py runs in a fresh process, in fp32 and int8, with its weights in
external files and inside the graph, up to 32 and up to 256 tokens, on token ids from all of the
vocabulary, as texts have them. Other work on the machine does not change memory. Writes
benchmarks/results/cost_model_memory.json and prints the constants of
edgedistil/costmodel/memory.py, the errors on shapes that were left out, and those on figures of
other machines.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cost_model_work import PRECISIONS, stored_work
from numpy.typing import NDArray
from page import RESULTS, argument_parser, today
from scipy.optimize import least_squares

from edgedistil.core import console
from edgedistil.core.records import provenance
from edgedistil.core.rundir import read_json, write_json
from edgedistil.costmodel.memory import (
    MEMORY_CONSTANTS,
    MemoryConstants,
    Storage,
    memory_parts,
)

OUT = RESULTS / "cost_model_memory.json"
# Texts are drawn once per length; the second length of each pair is the longest.
LENGTHS = ((32,), (32, 128, 256))
TEXTS = 8
VOCABULARY = 30_522
STORAGES: tuple[Storage, ...] = ("external", "inline")
# Measured elsewhere: (shape, precision, storage, tokens, MiB, where). The shapes are those of the
# models that were measured.
OTHER_MACHINES: tuple[tuple[str, str, Storage, int, float, str], ...] = (
    ("distilbert-6x768-12", "fp32", "inline", 128, 417, "server with AMX, after a run"),
    ("distilbert-6x768-12", "int8", "inline", 128, 165, "server with AMX, after a run"),
    ("distilbert-3x384-12", "fp32", "external", 256, 141, "server with AMX, peak in README.md"),
    ("bert-6x384-12", "fp32", "external", 256, 166, "server with AMX, peak in README.md"),
    ("bert-6x384-12", "fp32", "external", 128, 115, "guest memory of an emulated Cortex-A72"),
    ("bert-6x384-12-mlm", "fp32", "external", 128, 229, "guest memory of an emulated Cortex-A72"),
)


@dataclass(frozen=True)
class Peak:
    """A measured peak, with what the model computes it from.

    Attributes:
        shape: Name of the encoder.
        label: Shape, precision and tokens.
        parts: See `memory_parts`.
        peak_bytes: Measured peak.
    """

    shape: str
    label: str
    parts: NDArray[np.float64]
    peak_bytes: float


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--fit-only", action="store_true", help="use the stored measurements")
    if not parser.parse_args().fit_only:
        write_json(OUT, measure())
    content = read_json(OUT)
    for storage in STORAGES:
        peaks = stored_peaks(content, storage)
        console.result(f"{storage}: {fit(peaks)}")
        errors = left_out_errors(peaks)
        worst = max(errors, key=lambda label: abs(errors[label]))
        console.result(
            f"  shapes left out: {len(errors)} peaks, largest error {errors[worst]:+.0%} ({worst})"
        )
    for label, measured, predicted in other_machines(content):
        console.result(f"  {label}: measured {measured:.0f} MiB, predicted {predicted:.0f}")


# --- measuring -----------------------------------------------------------------------------------


def measure() -> dict[str, Any]:
    """Measures the peak of every encoder, precision, storage and longest length."""
    # Imported here: a fit needs neither torch nor graphs.
    from cost_model_shapes import FITTED, JUDGED_ENCODERS, export_all, shapes_folder

    export_all(shapes_folder())
    rows = []
    encoders = (*FITTED, *JUDGED_ENCODERS)
    with console.progress("measuring memory", len(encoders), unit="encoders") as bar:
        for encoder in encoders:
            for precision in PRECISIONS:
                graph = encoder.graph(shapes_folder(), precision)
                common = {"shape": encoder.name, "precision": precision}
                rows += [{**common, **facts} for facts in _measure_graph(graph)]
            bar.advance()
    source = provenance("python benchmarks/cost_model_memory.py")
    return {"day": today(), "cpu": source.host.cpu, "versions": source.versions, "rows": rows}


def _measure_graph(external: Path) -> list[dict[str, Any]]:
    """Measures a graph with its weights in external files, and inside."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        inline = Path(folder) / "model.onnx"
        onnx.save(onnx.load(external), inline)
        data = external.with_name(f"{external.name}_data")
        sizes = {"external": external.stat().st_size + data.stat().st_size}
        sizes["inline"] = inline.stat().st_size
        for storage, path in (("external", external), ("inline", inline)):
            for lengths in LENGTHS:
                memory = _run(path, lengths)
                rows.append(
                    {
                        "storage": storage,
                        "file_bytes": sizes[storage],
                        "tokens": max(lengths),
                        "imported_bytes": memory.imported,
                        "peak_bytes": memory.peak,
                    }
                )
    return rows


def _run(path: Path, lengths: Sequence[int]) -> Any:
    """Runs a graph at some lengths in a fresh process; returns its memory by phase."""
    from edgedistil.runtime.jobs import NpzInputs, run_job
    from edgedistil.runtime.local import LocalTarget
    from edgedistil.runtime.protocol import Case, Job, JobModel

    random = np.random.default_rng(1)
    arrays: dict[str, Any] = {}
    cases = []
    for length in lengths:
        keys = [f"{length}-{text}" for text in range(TEXTS)]
        for key in keys:
            ids_BL = random.integers(0, VOCABULARY, (1, length))
            arrays[f"{key}/input_ids"] = ids_BL
            arrays[f"{key}/attention_mask"] = np.ones_like(ids_BL)
            arrays[f"{key}/token_type_ids"] = np.zeros_like(ids_BL)
        cases.append(Case(name=str(length), keys=keys, mode="pass"))
    job = Job(models={"m": JobModel(file=str(path))}, cases=cases, threads=1, warmup_calls=1)
    reply = run_job(LocalTarget(), [_Graph(path)], job, NpzInputs(arrays))
    return reply.models["m"].memory


@dataclass(frozen=True)
class _Graph:
    path: Path

    def job_files(self) -> dict[str, Path]:
        return {str(self.path): self.path}


# --- fitting -------------------------------------------------------------------------------------


def stored_peaks(content: Mapping[str, Any], storage: Storage) -> list[Peak]:
    """Returns the measured peaks of one storage."""
    peaks = []
    for row in content["rows"]:
        if row["storage"] == storage:
            work = stored_work(row["shape"], row["precision"], row["tokens"])
            peaks.append(
                Peak(
                    row["shape"],
                    f"{row['shape']} {row['precision']}, {row['tokens']} tokens",
                    memory_parts(row["file_bytes"], work),
                    row["peak_bytes"],
                )
            )
    return peaks


def fit(peaks: Sequence[Peak]) -> MemoryConstants:
    """Fits the constants to the logarithms of peaks."""
    parts = np.array([peak.parts for peak in peaks])
    measured = np.log([peak.peak_bytes for peak in peaks])

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        residual: NDArray[np.float64] = np.log(1e6 * values[0] + parts @ values[1:]) - measured
        return residual

    solution = least_squares(residuals, [70, 1, 1, 2, 1], bounds=([10, 0, 0, 0, 0], np.inf))
    megabytes, *shares = (float(value) for value in solution.x)
    return MemoryConstants(round(megabytes, 1) * 1e6, *[round(share, 2) for share in shares])


def left_out_errors(peaks: Sequence[Peak]) -> dict[str, float]:
    """Relative error of each predicted peak when its shape is left out of the fit."""
    errors = {}
    for shape in {peak.shape for peak in peaks}:
        constants = fit([peak for peak in peaks if peak.shape != shape])
        for peak in peaks:
            if peak.shape == shape:
                errors[peak.label] = constants.peak_bytes(peak.parts) / peak.peak_bytes - 1
    return errors


def other_machines(content: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Label, measured and predicted MiB of figures that were taken on other machines."""
    sizes = {(r["shape"], r["precision"], r["storage"]): r["file_bytes"] for r in content["rows"]}
    figures = []
    for shape, precision, storage, tokens, mebibytes, where in OTHER_MACHINES:
        parts = memory_parts(
            sizes[shape, precision, storage], stored_work(shape, precision, tokens)
        )
        predicted = MEMORY_CONSTANTS[storage].peak_bytes(parts) / 2**20
        figures.append((f"{shape} {precision}, {storage}, {where}", mebibytes, predicted))
    return figures


def required_memory_spread(content: Mapping[str, Any]) -> float:
    """Smallest spread whose bands hold every left-out peak and every other machine's figure."""
    factors = [1.0]
    for storage in STORAGES:
        factors += [1 + error for error in left_out_errors(stored_peaks(content, storage)).values()]
    factors += [predicted / measured for _, measured, predicted in other_machines(content)]
    return math.exp(2 * max(abs(math.log(factor)) for factor in factors))


if __name__ == "__main__":
    main()

"""Accuracy of the cost model: published measurements, left-out devices, threads, ratios, memory.

    python benchmarks/cost_model_work.py                     first: counts the work of the shapes
    python benchmarks/cost_model_host.py --tokenizer FILE    measures this host
    python benchmarks/cost_model_memory.py                   measures and fits memory
    python benchmarks/cost_model.py                          writes benchmarks/cost_model.md

Everything here is computed from the files in benchmarks/results/, without torch and graphs. The
published rows are in cost_model_published.py. Runtimes other than onnxruntime get constants of
their own, fitted on the rows marked "fit" (one row per family of cores) and judged on all others:
tested are the parts that do not depend on the runtime, device figures, costs per node and threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cost_model_memory import OUT as MEMORY
from cost_model_memory import STORAGES, left_out_errors, other_machines, stored_peaks
from cost_model_published import Published, published_rows
from cost_model_spread import (
    AMX,
    COVERAGE,
    VNNI,
    FamilySpread,
    by_device,
    family_spreads,
    matmul_factor,
    one_thread_rows,
    scale_matmuls,
)
from cost_model_threads import fit_threads, ten_profiles
from cost_model_work import record_path, stored_work
from page import argument_parser, today

from edgedistil.core.device import DeviceSpec, load_device
from edgedistil.core.rundir import read_json
from edgedistil.core.version import __version__
from edgedistil.costmodel.constants import (
    ONNXRUNTIME_CONSTANTS,
    UNCERTAIN_FIELDS,
    Constants,
    CoreFamily,
    core_family,
)
from edgedistil.costmodel.fit import fit_constants
from edgedistil.costmodel.memory import MEMORY_SPREAD
from edgedistil.costmodel.model import (
    RATIO_RESIDUAL,
    cost_terms,
    counted_ratio,
    latency_band,
    predict_seconds,
    ratio_band,
)

OUT = Path(__file__).with_suffix(".md")
# Name of the judged pair → shapes of (teacher, student); those of cost_model_shapes.JUDGED.
PAIRS = {
    "BERT-base → DistilBERT": ("bert-12x768-12", "distilbert-6x768-12"),
    "MiniLM → 3 layers": ("bert-6x384-12", "distilbert-3x384-12"),
    "MiniLM → 3 layers, fill-mask": ("bert-6x384-12-mlm", "distilbert-3x384-12-mlm"),
}
JUDGED_SHAPES = {shape for pair in PAIRS.values() for shape in pair}
# Aims: share of a measured ratio that a predicted one may be off, and share of rows in their band.
RATIO_AIM = 0.10
PYTORCH_OVERHEAD_FACTOR = 60  # Python between the operators: the 79 ms of the set's line
# `half_rows` is not a factor of a cost, so it is found by trying these values.
HALF_ROWS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


def main() -> None:
    argument_parser(__doc__).parse_args()
    lines = [
        "# The cost model against measurements",
        "",
        f"{today()}, edgedistil {__version__}. Made by `python benchmarks/cost_model.py`.",
        "",
        *render_published(published_rows()),
        *render_spreads(family_spreads()),
        *render_threads(),
        *render_ratios(),
        *render_memory(),
        *render_constants(),
    ]
    page = "\n".join(lines)
    OUT.write_text(page, encoding="utf-8")
    print(page)


# --- published rows ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """A published row, the predicted band, and whether the band holds it."""

    row: Published
    low_ms: float
    middle_ms: float
    high_ms: float

    @property
    def is_inside(self) -> bool:
        return self.low_ms <= self.row.ms <= self.high_ms

    @property
    def relative_error(self) -> float:
        """Error of the predicted time."""
        return self.middle_ms / self.row.ms - 1

    @property
    def verdict(self) -> str:
        if self.row.is_fitted:
            return "fit"
        return "in" if self.is_inside else "OUT"


def judge(rows: Sequence[Published]) -> list[Judgement]:
    """Predicts every row with the constants of its runtime and core family."""
    constants = {_group(row): fit_on(row) for row in rows if row.is_fitted}
    judgements = []
    for row in rows:
        own = constants.get(_group(row)) or ONNXRUNTIME_CONSTANTS[core_family(row.device)]
        band = latency_band(row.work, row.device, own, threads=row.threads)
        seconds = predict_seconds(row.work, row.device, own, threads=row.threads)
        judgements.append(Judgement(row, band.low, 1000 * seconds, band.high))
    return judgements


def _group(row: Published) -> tuple[str, CoreFamily]:
    return row.runtime.split()[0], core_family(row.device)


def fit_on(row: Published) -> Constants:
    """Returns onnxruntime's constants with the one MatMul efficiency that reproduces a row."""
    prior = ONNXRUNTIME_CONSTANTS[core_family(row.device)]
    if row.runtime.startswith("PyTorch"):
        overhead = prior.overhead_cycles * PYTORCH_OVERHEAD_FACTOR
        prior = replace(prior, overhead_cycles=overhead)
    return scale_matmuls(prior, matmul_factor(row, prior))


_PUBLISHED_TEXT = """\
## Published rows

Milliseconds. *fit*: the row that the runtime's efficiency on this family of cores was fitted on
(not judged); *in*, *OUT*: judged. onnxruntime's rows are judged with the shipped constants, to
which no ARM core contributed. Device figures are those of devices/*.toml, with the clock, core
count, memory and instruction set of the board in question. Sources: onnxruntime 1.24.1 on a
Neoverse N2, 4 virtual cores at 3.4 GHz, dynamic int8; where int8 on several threads was never
measured the band reaches to no gain; ncnn, the benchmark README of
Tencent/ncnn, model `vision_transformer`, fp16 is assumed on cores with it; PyTorch, the 2,000
encoders of mit-han-lab/hardware-aware-transformers by their line, 0.079 s + 0.116 s/GFLOP, whose
points test linearity and no more. All of ncnn's rows are one model on boards that differ in clock,
cores and lanes: they test these and not other models. The A53 rows contradict each other: two
boards with the same cores and clock differ by a factor of 2.03.

| board | model | runtime | measured | predicted | high/low | middle | verdict |
|---|---|---|---|---|---|---|---|
"""


def render_published(rows: Sequence[Published]) -> list[str]:
    """Renders the section on published rows."""
    judgements = judge(rows)
    judged = [judgement for judgement in judgements if not judgement.row.is_fitted]
    # PyTorch's rows are points of one line, so they count less than boards do.
    boards = [judgement for judgement in judged if not judgement.row.runtime.startswith("PyTorch")]
    inside, boards_inside = _count_inside(judged), _count_inside(boards)
    return [
        *_PUBLISHED_TEXT.splitlines(),
        *(_published_line(judgement) for judgement in judgements),
        "",
        f"**{inside} of {len(judged)} judged rows are inside their band; without PyTorch's line "
        f"{boards_inside} of {len(boards)}.** Not expressible: MobileNet v1 and v2 (convolutions).",
        "",
    ]


def _count_inside(judgements: Sequence[Judgement]) -> int:
    return sum(judgement.is_inside for judgement in judgements)


def _published_line(judgement: Judgement) -> str:
    row = judgement.row
    return (
        f"| {row.board} | {row.model} | {row.runtime} | {row.ms:,.4g}"
        f" | {judgement.low_ms:,.0f}–{judgement.high_ms:,.0f}"
        f" | {judgement.high_ms / judgement.low_ms:.1f} | {judgement.relative_error:+.0%}"
        f" | {judgement.verdict} |"
    )


# --- left-out devices ----------------------------------------------------------------------------

_SPREAD_TEXT = f"""\
## How wide a band has to be

Every device is predicted from constants of other devices (`cost_model_spread.py` says which).
*required*: the spread (high over low) that holds {COVERAGE:.0%} of the rows, each device weighing
the same. *least*: no less than 2.5 while fewer than three devices of the family were judged with
onnxruntime, and 3 without any. *shipped*: in `costmodel/constants.py`.

| family | device | runtime | rows | measured / predicted | required | least | shipped |
|---|---|---|---|---|---|---|---|
"""


def render_spreads(spreads: Sequence[FamilySpread]) -> list[str]:
    """Renders the section on left-out devices."""
    lines = [*_SPREAD_TEXT.splitlines()]
    for spread in spreads:
        shipped = shipped_spread(spread.family)
        for device, rows in by_device(spread.rows).items():
            ratios = sorted(math.exp(row.error) for row in rows)
            lines.append(
                f"| {spread.family} | {device} | {rows[0].runtime} | {len(rows)}"
                f" | {ratios[0]:.2f}–{ratios[-1]:.2f} | {spread.required:.2f}"
                f" | {spread.least:.2f} | {shipped:.1f} |"
            )
    zen4 = read_json(record_path(VNNI))
    lines += [
        "",
        f"The rows of the server with Zen 4 are processor times of a call on one thread, taken at "
        f"a load of {zen4['load_before']:.0f} on two cores: other programs emptied the caches "
        "between calls, which lengthens the shortest ones. Its ratios were not taken.",
        "",
    ]
    return lines


def shipped_spread(family: str) -> float:
    """Smallest spread of the shipped constants of a family; "x86" has the servers with AMX too."""
    names: tuple[CoreFamily, ...] = ("x86", "amx")
    spreads = {name: constants.spread for name, constants in ONNXRUNTIME_CONSTANTS.items()}
    if family in names:
        return min(spreads[name] for name in names)
    return next(spread for name, spread in spreads.items() if name == family)


# --- threads -------------------------------------------------------------------------------------


def render_threads() -> list[str]:
    """Renders the section on threads."""
    fit = fit_threads(list(ten_profiles()), load_device(AMX))
    lines = [
        "## Threads",
        "",
        "Two threads against one on the server with AMX, medians of ten profiles"
        " ([table](results/profile_repeat-2026-11-22.md)). Fitted: MatMuls"
        f" {fit.speedup:.2f} times as fast, {fit.thread_cycles:,.0f} cycles per node for dividing"
        f" it, {fit.serial_share:.0%} of the element-wise work serial; largest error"
        f" {fit.largest_error:.0%}. Families without such rows have no verdict about int8 on"
        " several threads.",
        "",
        "| shape | precision | tokens | measured | fitted |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.call.shape} | {row.call.precision} | {row.call.tokens} | {row.measured:.2f}"
        f" | {row.predicted:.2f} |"
        for row in fit.rows
    ]
    return [*lines, ""]


# --- ratios --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatioJudgement:
    """A measured teacher/student ratio, the predicted one, and what counting gives."""

    measured: Mapping[str, Any]
    predicted: float
    low: float
    high: float
    counted: float
    teacher_error: float
    student_error: float

    @property
    def ratio(self) -> float:
        return float(self.measured["ratio"])

    @property
    def is_inside(self) -> bool:
        return self.low <= self.ratio <= self.high

    @property
    def needed_residual(self) -> float:
        """Residual with which the band would just hold the ratio."""
        low, high = self.low / (1 - RATIO_RESIDUAL), self.high / (1 + RATIO_RESIDUAL)
        return max(0.0, 1 - self.ratio / low, self.ratio / high - 1)


def judge_ratios() -> list[RatioJudgement]:
    """Predicts every ratio that was measured in turns on the server with AMX."""
    spec = load_device(AMX)
    return [judge_ratio(row, spec) for row in read_json(record_path(AMX))["pairs"]]


def judge_ratio(row: Mapping[str, Any], spec: DeviceSpec) -> RatioJudgement:
    """Predicts one measured ratio."""
    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    teacher, student = (
        stored_work(shape, row["precision"], row["tokens"]) for shape in PAIRS[row["pair"]]
    )
    middle, band = ratio_band(teacher, student, spec, constants, threads=1)
    teacher_ms = 1000 * predict_seconds(teacher, spec, constants, threads=1)
    student_ms = 1000 * predict_seconds(student, spec, constants, threads=1)
    return RatioJudgement(
        measured=row,
        predicted=middle,
        low=band.low,
        high=band.high,
        counted=counted_ratio(teacher, student, spec),
        teacher_error=teacher_ms / row["teacher_ms"] - 1,
        student_error=student_ms / row["student_ms"] - 1,
    )


def required_residual(judgements: Sequence[RatioJudgement]) -> float:
    """Smallest residual with which `COVERAGE` of the ratios are inside their band."""
    needed = sorted(judgement.needed_residual for judgement in judgements)
    return needed[math.ceil(COVERAGE * len(needed)) - 1]


_RATIO_COLUMNS = (
    "pair",
    "precision",
    "tokens",
    "measured (95%)",
    "predicted (band)",
    "off",
    "counted",
    "off",
    "in band",
    "teacher's ms",
    "student's",
)


def render_ratios() -> list[str]:
    """Renders the section on teacher/student ratios."""
    judgements = judge_ratios()
    predicted = [abs(judgement.predicted / judgement.ratio - 1) for judgement in judgements]
    counted = [abs(judgement.counted / judgement.ratio - 1) for judgement in judgements]
    inside = sum(judgement.is_inside for judgement in judgements)
    return [
        *_ratio_conditions(read_json(record_path(AMX))),
        "",
        f"| {' | '.join(_RATIO_COLUMNS)} |",
        "|" + "---|" * len(_RATIO_COLUMNS),
        *(_ratio_line(judgement) for judgement in judgements),
        "",
        f"**Within {RATIO_AIM:.0%}: {_close(predicted)} of {len(judgements)} by the model,"
        f" {_close(counted)} by counting multiply-adds at the peak rate; median error"
        f" {np.median(predicted):.1%} and {np.median(counted):.1%}.** The model is worth having"
        " where the weights of one model fit into the cache and the other's do not, and for int8"
        " heads; elsewhere a count does as well.",
        "",
        f"Inside their band: {inside} of {len(judgements)}. The band's residual,"
        f" {RATIO_RESIDUAL:.0%}, is the smallest that holds {COVERAGE:.0%} of these ratios"
        f" ({required_residual(judgements):.1%}). All of them are of one machine: on another one"
        " only the constants' spread covers what differs.",
        "",
    ]


def _close(errors: Sequence[float]) -> int:
    return sum(error <= RATIO_AIM for error in errors)


def _ratio_conditions(data: Mapping[str, Any]) -> list[str]:
    return [
        "## Teacher/student ratios",
        "",
        f"{data['day']}, onnxruntime {data['versions']['onnxruntime']}, {data['cpu']}"
        f" ({data['kernels']}), device file `{AMX}`, 1 thread, load {data['load_before']:.1f}"
        f" before and {data['load_after']:.1f} after; {data['rounds']} rounds in fresh processes,"
        " both models taking turns. Random weights. No judged shape was fitted on. *counted*: the"
        " null model, multiply-adds at the peak rate and nothing else. Last columns: how far the"
        " predicted times themselves are off.",
    ]


def _ratio_line(judgement: RatioJudgement) -> str:
    row = judgement.measured
    return (
        f"| {row['pair']} | {row['precision']} | {row['tokens']}"
        f" | {row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f})"
        f" | {judgement.predicted:.2f} ({judgement.low:.2f}–{judgement.high:.2f})"
        f" | {judgement.predicted / judgement.ratio - 1:+.1%}"
        f" | {judgement.counted:.2f} | {judgement.counted / judgement.ratio - 1:+.1%}"
        f" | {'in' if judgement.is_inside else 'OUT'}"
        f" | {judgement.teacher_error:+.0%} | {judgement.student_error:+.0%} |"
    )


# --- memory --------------------------------------------------------------------------------------


def render_memory() -> list[str]:
    """Renders the section on memory."""
    content = read_json(MEMORY)
    lines = ["## Peak memory", ""]
    for storage in STORAGES:
        errors = left_out_errors(stored_peaks(content, storage))
        worst = max(errors, key=lambda label: abs(errors[label]))
        lines.append(
            f"- weights {storage}: {len(errors)} peaks of shapes that were left out of the fit, "
            f"largest error {errors[worst]:+.0%} ({worst})"
        )
    lines += [
        "",
        f"Measured on {content['cpu']}, {content['day']}, onnxruntime"
        f" {content['versions']['onnxruntime']}; a peak does not depend on the load. The band's"
        f" ends differ by {MEMORY_SPREAD:.1f}. Figures of other machines, MiB:",
        "",
        "| model | measured | predicted |",
        "|---|---|---|",
    ]
    lines += [
        f"| {label} | {measured:.0f} | {predicted:.0f} |"
        for label, measured, predicted in other_machines(content)
    ]
    return [*lines, ""]


# --- constants -----------------------------------------------------------------------------------


def fit_server(device: str) -> Constants:
    """Constants of a server fitted on the shapes that are not judged."""
    spec = load_device(device)
    shipped = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    rows = [row for row in one_thread_rows(device) if row["shape"] not in JUDGED_SHAPES]
    best, best_error = shipped, math.inf
    for half_rows in HALF_ROWS:
        prior = replace(shipped, half_rows=half_rows)
        samples = []
        for row in rows:
            work = stored_work(row["shape"], row["precision"], row["tokens"])
            terms = cost_terms(work, spec, prior, threads=1)
            samples.append((terms, row["milliseconds"] / 1000))
        fitted = fit_constants(samples, prior)
        errors = [
            math.log(float(terms @ fitted.unit_costs) / seconds) for terms, seconds in samples
        ]
        error = float(np.mean(np.square(errors)))
        if error < best_error:
            best, best_error = fitted, error
    return best


def render_constants() -> list[str]:
    """Renders what a fit on each server gives today, next to the shipped constants."""
    servers = {"x86-amx": fit_server(AMX), "x86-avx512-vnni": fit_server(VNNI)}
    shipped = {name: ONNXRUNTIME_CONSTANTS[core_family(load_device(name))] for name in servers}
    lines = [
        "## Constants",
        "",
        "Fitted on the unjudged shapes of each server, from the shipped constants as the prior,"
        " against `costmodel/constants.py`.",
        "",
        "| constant | fitted, AMX | shipped, AMX | fitted, Zen 4 | shipped, x86 |",
        "|---|---|---|---|---|",
    ]
    for name in (*UNCERTAIN_FIELDS, "half_rows"):
        figures = [
            f"{getattr(constants, name):.3g}"
            for device in servers
            for constants in (servers[device], shipped[device])
        ]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()

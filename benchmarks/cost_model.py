"""Is the prediction any good? The cost model against published rows, and its teacher/student ratio against this host.

    python benchmarks/cost_model.py [--run NAME]      writes benchmarks/cost_model.md

Published rows are of other runtimes than onnxruntime, so each runtime gets constants of its own, fitted on the rows
marked "fit" (one row a family of cores) and judged on all others. What is tested is the model: device figures, costs a
node, thread scaling. Rows of convolutional nets (MobileNet) are left out: the model has no cost of a convolution.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edgedistil.device import DeviceSpec, Figure, load_device
from edgedistil.profiling import costs, host
from edgedistil.profiling.artefacts import Artefact, run_artefacts
from edgedistil.profiling.costs import Constants, Family
from edgedistil.profiling.devices import match_device
from edgedistil.profiling.latency import speed_ratio
from edgedistil.profiling.messages import Alternation, Case, Job
from edgedistil.profiling.stage import _workload
from edgedistil.profiling.targets.interface import raise_failure
from edgedistil.profiling.targets.local import LocalTarget
from edgedistil.profiling.trace import Work, trace
from edgedistil.records import provenance
from edgedistil.rundir import open_run

OUT = Path(__file__).with_suffix(".md")
VIT = "ViT-B/32-384 (BERT-base's encoder at 145 tokens)"
FLOP_POINTS = ((0.61, 139.0, "fastest"), (1.09, 205.0, "median"))


@dataclass(frozen=True)
class Row:
    """One published measurement."""

    what: str
    device: DeviceSpec
    threads: int
    model: str
    runtime: str
    work: list[Work]
    ms: float
    fit: bool = False


# --- what was published ------------------------------------------------------------------------------------


def like(
    name: str, title: str, *, ghz: float, cores: int | None = None, half: bool = False, **memory: float
) -> DeviceSpec:
    """A shipped device with another clock, core count, memory, or with fp16 arithmetic in fp32's place."""
    spec = load_device(name)
    cluster = spec.clusters[0]
    macs = cluster.macs_per_cycle
    if half:
        twice = Figure(value=2 * macs.fp32.value, assumed="fp16 runs at twice fp32's rate")
        macs = macs.model_copy(update={"fp32": macs.fp16 or twice})
    changed = {"clock_ghz": Figure(value=ghz, assumed="as published"), "macs_per_cycle": macs}
    if cores is not None:
        changed["cores"] = Figure(value=float(cores), assumed="as published")
    kept = {key: Figure(value=value, assumed="of this board's memory") for key, value in memory.items()}
    return spec.model_copy(
        update={
            "name": title,
            "clusters": [cluster.model_copy(update=changed), *spec.clusters[1:]],
            "memory": spec.memory.model_copy(update=kept),
        }
    )


def product(rows: int, inner: int, columns: int, *, weights: bool = True, bytes_each: int = 4) -> Work:
    macs = rows * inner * columns
    size = bytes_each * inner * columns if weights else 0
    return Work("p", "MatMul", "fp32", macs, size, rows, bytes_each * rows * (inner + columns), rows * columns, False)


def light(elements: int, *, heavy: bool = False, bytes_each: int = 4) -> Work:
    return Work("e", "Gelu" if heavy else "Add", "none", 0, 0, 0, 2 * bytes_each * elements, elements, heavy)


def vit(bytes_each: int) -> list[Work]:
    """12 layers of 768 at 145 tokens, and the patch embedding: 13.04 G multiply-adds."""
    length, width, wide, heads = 145, 768, 3072, 12
    layer = [product(length, width, width, bytes_each=bytes_each) for _ in range(4)]
    layer += [product(length * heads, 64, length, weights=False), product(length * heads, length, 64, weights=False)]
    layer += [product(length, width, wide, bytes_each=bytes_each), product(length, wide, width, bytes_each=bytes_each)]
    layer += [light(length * wide, heavy=True), light(heads * length * length, heavy=True)]
    layer += [light(length * width) for _ in range(4)]
    return layer * 12 + [product(144, 32 * 32 * 3, width, bytes_each=bytes_each)]


def translation_encoder(gflop: float) -> list[Work]:
    """6 layers at 30 tokens with as many multiply-adds as the published FLOPs say, spread over 6 products a layer."""
    macs = int(gflop * 1e9 / 2 / 36)
    width = int(math.sqrt(macs / 30))
    return [product(30, width, width) for _ in range(36)] + [light(30 * width) for _ in range(120)]


def published() -> list[Row]:
    full, half = vit(4), vit(2)
    pi4, pi4_slow = like("rpi4", "Raspberry Pi 4", ghz=1.8), like("rpi4", "Raspberry Pi 4 (1.5 GHz)", ghz=1.5)
    pi5, orin = (
        like("rpi5", "Raspberry Pi 5", ghz=2.4, half=True),
        like("jetson-orin-nano", "Orin Nano", ghz=1.5, half=True),
    )
    phone = like("rk3588", "Snapdragon 855+", ghz=2.96, half=True)
    phone_4 = like("rk3588", "Snapdragon 855+ (1 at 2.96, 3 at 2.42)", ghz=2.42, half=True)
    x3 = like("rpi3", "RDK X3", ghz=1.5, bandwidth_gb_per_s=6.0)
    zero2 = like("rpi3", "Orange Pi Zero 2", ghz=1.5)
    radxa = like("rpi3", "Radxa Zero 3W (A55)", ghz=1.4, half=True, bandwidth_gb_per_s=4.0)
    rows = [
        Row("Pi 4, 1 thread", pi4, 1, VIT, "ncnn fp32", full, 6605, fit=True),
        Row("Pi 4, 4 threads", pi4, 4, VIT, "ncnn fp32", full, 1872),
        Row("RK3399, 2 × A72", like("rpi4", "RK3399", ghz=1.8, cores=2), 2, VIT, "ncnn fp32", full, 3372),
        Row("Pi 5, 1 thread", pi5, 1, VIT, "ncnn fp16", half, 1249, fit=True),
        Row("Pi 5, 4 threads", pi5, 4, VIT, "ncnn fp16", half, 601),
        Row("RK3588, 4 × A76", like("rk3588", "RK3588", ghz=2.4, half=True), 4, VIT, "ncnn fp16", half, 429),
        Row("Orin Nano CPU, 1 thread", orin, 1, VIT, "ncnn fp16", half, 2282),
        Row("Orin Nano CPU, 6 threads", orin, 6, VIT, "ncnn fp16", half, 610),
        Row("Snapdragon 855+, 1 thread", phone, 1, VIT, "ncnn fp16", half, 990),
        Row("Snapdragon 855+, 4 threads", phone_4, 4, VIT, "ncnn fp16", half, 568),
        Row("Orange Pi Zero 2, 4 × A53", zero2, 4, VIT, "ncnn fp32", full, 6842, fit=True),
        Row("RDK X3, 4 × A53", x3, 4, VIT, "ncnn fp32", full, 3373),
        Row("Radxa Zero 3W, 4 × A55", radxa, 4, VIT, "ncnn fp16", half, 3683),
    ]
    line = [(0.079 + 0.116 * 1.74) * 1000]
    encoder = "translation encoder, 30 tokens"
    top = translation_encoder(1.74)
    rows.append(Row("Pi 4, 1.74 GFLOP (the set's line)", pi4_slow, 4, encoder, "PyTorch fp32", top, line[0], fit=True))
    for gflop, ms, which in FLOP_POINTS:
        work = translation_encoder(gflop)
        rows.append(Row(f"Pi 4, {gflop} GFLOP ({which})", pi4_slow, 4, encoder, "PyTorch fp32", work, ms))
    return rows


# --- fitted and judged --------------------------------------------------------------------------------------


def fit_on(row: Row) -> Constants:
    """onnxruntime's constants of the family, with the one efficiency that makes the model tell this row."""
    prior = costs.ONNXRUNTIME[costs.family(row.device)]
    if row.runtime.startswith("PyTorch"):
        # Python between the operators: the 79 ms of its line.
        prior = replace(prior, overhead_cycles=prior.overhead_cycles * 60)
    features = costs.features(row.work, row.device, threads=row.threads, half_rows=prior.half_rows)
    others = float(features[1:] @ prior.weights[1:])
    efficiency = float(features[0]) / max(row.ms / 1000 - others, 1e-6)
    return replace(prior, fp32_efficiency=efficiency, origin=f"fitted on {row.what}")


def key(row: Row) -> tuple[str, Family]:
    return row.runtime.split()[0], costs.family(row.device)


def judge(rows: list[Row]) -> tuple[list[str], int, int]:
    fitted = {key(row): fit_on(row) for row in rows if row.fit}
    lines, inside, judged = [], 0, 0
    for row in rows:
        constants = fitted[key(row)]
        band = costs.latency_band(row.work, row.device, constants, threads=row.threads)
        middle = math.sqrt(band.low * band.high)
        held = band.low <= row.ms <= band.high
        told = "fit" if row.fit else "in" if held else "OUT"
        if not row.fit:
            judged += 1
            inside += held
        lines.append(
            f"| {row.what} | {row.model} | {row.runtime} | {row.ms:,.0f} | {band.low:,.0f}–{band.high:,.0f} | "
            f"{band.high / band.low:.1f} | {middle / row.ms - 1:+.0%} | {told} |"
        )
    return lines, inside, judged


# --- the ratio on this host ----------------------------------------------------------------------------------


def ratios(run_name: str) -> list[str]:
    """Predicted and measured teacher/student ratios, one line a length and precision; both models take turns."""
    run = open_run(run_name)
    found = match_device(host.identity())
    if found is None:
        return ["No device file fits this host."]
    artefacts = [a for a in run_artefacts(run) if a.task == "feature-extraction"]
    by = {(a.role, a.precision): a for a in artefacts}
    how = "1 thread; 15 blocks that took turns, the fastest call of each"
    lines = [f"Device file: `{found.name}`; run `{run.name}`; {how}.", ""]
    lines += ["| precision | tokens | measured (95%) | predicted (band) | off |", "|---|---|---|---|---|"]
    work = _workload(run, artefacts, None, None, 10)
    for precision in ("fp32", "int8"):
        pair = by.get(("teacher", precision)), by.get(("student", precision))
        if pair[0] is None or pair[1] is None:
            continue
        lines += _of_pair(found, pair[0], pair[1], work.lengths, work)
    return lines


def _of_pair(
    spec: DeviceSpec, first: Artefact, second: Artefact, lengths: dict[int, list[str]], work: object
) -> list[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        work.save(inputs)  # type: ignore[attr-defined]
        job = Job(
            models={each.label: each.job_model() for each in (first, second)},
            cases=[Case(name="x", keys=lengths[min(lengths)])],
            phases=[],
            alternate=[
                Alternation(
                    name=str(length),
                    first=first.label,
                    second=second.label,
                    keys=keys,
                    blocks=40,
                    calls_per_block=_calls(length),
                )
                for length, keys in lengths.items()
            ],
        )
        target = LocalTarget()
        reply = target.run(job, {"inputs.npz": inputs, **first.job_files(), **second.job_files()})
        raise_failure(reply, source=target.source)
    one, two = (trace(each.path, each.inputs, list(lengths)) for each in (first, second))
    constants = costs.ONNXRUNTIME[costs.family(spec)]
    lines = []
    for answer in reply.alternation:
        length = int(answer.name)
        # The fastest call of each block: another program's time slice is in the others.
        got = speed_ratio([[(min(block.first_ns), min(block.second_ns)) for block in answer.blocks]])
        middle, band = costs.ratio_band(one[length], two[length], spec, constants, threads=1)
        lines.append(
            f"| {first.precision} | {length} | {got.value:.2f} ({got.low:.2f}–{got.high:.2f}) | "
            f"{middle:.2f} ({band.low:.2f}–{band.high:.2f}) | {middle / got.value - 1:+.1%} |"
        )
    return lines


def _calls(length: int) -> int:
    """Short calls are taken more often: a time slice of another program is many of them long."""
    return max(2, min(16, 512 // length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run with exported encoders, for the ratio on this host")
    asked = parser.parse_args()
    rows = published()
    lines, inside, judged = judge(rows)
    _, few_inside, few = judge([row for row in rows if row.runtime.startswith("ncnn")])
    made = provenance("python benchmarks/cost_model.py")
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    text = [
        "# The cost model against measurements",
        "",
        f"{day}, edgedistil {made.versions['edgedistil']}, onnxruntime {made.versions['onnxruntime']}, "
        f"{made.host.cpu}, {made.host.cores} cores. Made by `{made.command}`.",
        "",
        "## Published rows",
        "",
        "Milliseconds. *fit*: the row that the runtime's efficiency on this family of cores was fitted on (not",
        "judged); *in*, *OUT*: judged. The band's ends differ by a factor of 2 (A72, A76) and 3 (A53, A55). Device",
        "figures are those of devices/*.toml, with the clock, core count and memory of the board in question. Source",
        "of the ncnn rows: Tencent/ncnn, benchmark README, model `vision_transformer`; fp16 is assumed on cores with",
        "it. PyTorch's: the 2,000 encoders of mit-han-lab/hardware-aware-transformers by their line, 0.079 s + 0.116",
        "s/GFLOP;",
        "its points test linearity and no more. The A53 rows contradict each other: two boards with the same cores and",
        "clock differ by a factor of 2.03, so fitted on either one the other one is outside a band of 3.",
        "",
        "| board | model | runtime | measured | predicted | high/low | middle | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *lines,
        "",
        f"**{inside} of {judged} judged rows are inside their band ({inside / judged:.0%}); without PyTorch's line "
        f"{few_inside} of {few}.** Aim: 80%.",
        "",
        "Not expressible: MobileNet v1 and v2 (convolutions).",
        "",
        "No published row is of onnxruntime on an ARM core, so the constants that predictions of boards use",
        "(`costs.py`) are assumed from instruction counts and say so; `profile --ssh HOST --calibrate` replaces them.",
        "",
        "## Teacher/student ratio on this host",
        "",
        *(ratios(asked.run) if asked.run else ["Not run: give `--run NAME`."]),
        "",
    ]
    OUT.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()

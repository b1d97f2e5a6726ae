"""Our artefacts against what other exporters make of the same model: speed, load, memory, size and fidelity.

    python benchmarks/export_peers.py [--rounds 30] [--student FOLDER] [--no-alternatives]

Every peer exports in an environment of its own (made once, under the cache). Then all ONNX artefacts run in this one
process with this onnxruntime, interleaved: a round calls every artefact once, so that a slow moment of the machine hits
all of them. What is compared is the median over rounds of (best peer's time / our time) within a round.
OpenVINO and PyTorch answer from processes of their own, in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from transformers import AutoModel, AutoTokenizer, DistilBertConfig, DistilBertModel

from edgedistil.assets import cache_root
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.storage import save_graph
from edgedistil.export.target import advise_int8, find_target
from edgedistil.export.trace import trace
from edgedistil.models.student import make_student
from edgedistil.models.teacher import load_teacher
from edgedistil.records import this_host

HERE = Path(__file__).resolve().parent
LENGTHS = (16, 32, 64, 128, 256)
REQUIREMENTS = {
    "optimum-onnx": ["optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.*", "torch==2.13.0"],
    "openvino": ["openvino", "nncf", "onnx"],
}


@dataclass
class Row:
    """An artefact or runner, and its seconds by (threads, length)."""

    name: str
    precision: str
    graph: Path | None = None
    worker: list[str] = field(default_factory=list)
    seconds: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    cold: list[dict[str, float]] = field(default_factory=list)
    mean_error: float | None = None
    max_error: float | None = None
    cosine: float | None = None

    @property
    def bytes(self) -> int:
        assert self.graph is not None
        return sum(path.stat().st_size for path in self.graph.parent.glob(f"{self.graph.name}*"))


# --- making -------------------------------------------------------------------------------------------


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment, made if it is not there."""
    place = cache_root() / "peers" / peer
    if not (place / ".ready").exists():
        print(f"making the environment of {peer}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/python", "-m", "pip", "install", "-q", *REQUIREMENTS[peer]], check=True)
        (place / ".ready").touch()
    return str(place / "bin" / "python")


def make_models(work: Path, student: Path | None) -> dict[str, Path]:
    """Folders of the two encoders: DistilBERT's shapes with random weights, and a student of MiniLM."""
    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    random, small = work / "distilbert-shapes", work / "minilm-student"
    if not random.exists():
        torch.manual_seed(0)
        DistilBertModel(DistilBertConfig()).save_pretrained(random)
        teacher.tokenizer.save_pretrained(random)
    if not small.exists():
        if student is not None:
            model = AutoModel.from_pretrained(student)
        else:
            options = {"init": "teacher", "fold_segment": True, "copy_head_transform": True, "freeze_positions": False}
            model = make_student(teacher.model, layer_map=[0, 2, 4], dropout=0.1, seed=0, **options).distilbert
        model.save_pretrained(small)
        teacher.tokenizer.save_pretrained(small)
    return {"DistilBERT shapes, random weights": random, "student of MiniLM, 3 layers": small}


def make_rows(source: Path, *, alternatives: bool) -> list[Row]:
    """Every artefact of a model, made where it is not there yet."""
    made = source.with_name(source.name + ".artefacts")
    ours(source, made / "ours")
    if not (made / "optimum").exists():
        script = [
            python_of("optimum-onnx"),
            HERE / "peers/optimum_onnx.py",
            source,
            "feature-extraction",
            made / "optimum",
        ]
        subprocess.run(script, check=True, stderr=subprocess.DEVNULL)
    if not (made / "transformers").exists():
        script = [sys.executable, HERE / "peers/transformers_exporters.py", source, made / "transformers"]
        subprocess.run(script, check=True, stderr=subprocess.DEVNULL)
    rows = [
        Row("ours", "fp32", made / "ours/model.onnx"),
        Row("ours", "int8", made / "ours/model_int8.onnx"),
        Row("optimum-onnx 0.1.0", "fp32", made / "optimum/fp32/model.onnx"),
        Row("optimum-onnx 0.1.0", "int8", made / "optimum/int8/model_quantized.onnx"),
        Row("optimum-onnx 0.1.0, per channel", "int8", made / "optimum/int8-per-channel/model_quantized.onnx"),
    ]
    for folder in sorted((made / "transformers").glob("*")):
        graph = next(iter(sorted(folder.rglob("*.onnx"))), None)
        if graph is not None:
            rows.append(Row(f"transformers.exporters {folder.name}", folder.name.split("-")[0], graph))
    if alternatives:
        python, fp32 = python_of("openvino"), str(made / "optimum/fp32/model.onnx")
        for precision in ("fp32", "bf16", "int8"):
            rows.append(Row("OpenVINO" + (" NNCF" if precision == "int8" else ""), precision))
            rows[-1].worker = [python, str(HERE / "peers/openvino_worker.py"), fp32, precision]
        for precision in ("fp32", "bf16", "compiled"):
            rows.append(Row("PyTorch", precision))
            rows[-1].worker = [sys.executable, str(HERE / "peers/pytorch_worker.py"), str(source), precision]
    return rows


def ours(source: Path, folder: Path) -> None:
    model = AutoModel.from_pretrained(source).eval().requires_grad_(False)
    graph = trace(model, task="feature-extraction", token_types=False)
    run_passes(graph, standard_passes(Shape.of(graph, model.config), token_types=False, drop_token_types=False))
    save_graph(graph, folder / "model.onnx", external=True)
    quantize_dynamic(graph, advise_int8(find_target(None), signed=True).plan)
    save_graph(graph, folder / "model_int8.onnx", external=True)


# --- measuring ----------------------------------------------------------------------------------------


def open_sessions(rows: list[Row], threads: int) -> dict[str, ort.InferenceSession]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return {
        key(row): ort.InferenceSession(row.graph, options, providers=["CPUExecutionProvider"])
        for row in rows
        if row.graph
    }


def key(row: Row) -> str:
    return f"{row.name} {row.precision}"


def measure_latency(rows: list[Row], *, threads: int, rounds: int) -> None:
    """One thread: processor time of the calling thread, which a busy machine does not stretch. More: wall clock."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    sessions = open_sessions(rows, threads)
    workers = {key(row): start_worker(row, threads) for row in rows if row.worker}
    rng = np.random.default_rng(7)
    for length in LENGTHS:
        for index in range(rounds + 2):
            ids = rng.integers(1000, 30000, (1, length))
            for row in rows:
                if row.worker:
                    seconds = ask(workers[key(row)], length)
                else:
                    session = sessions[key(row)]
                    feeds = {
                        each.name: ids if each.name == "input_ids" else np.ones_like(ids)
                        for each in session.get_inputs()
                    }
                    started = clock()
                    session.run(None, feeds)
                    seconds = clock() - started
                if index >= 2 and seconds is not None:
                    row.seconds.setdefault((threads, length), []).append(seconds)
        print(f"  {threads} threads, {length} tokens: done", flush=True)
    for worker in workers.values():
        if worker is not None:
            worker.stdin.close()
            worker.wait()


def start_worker(row: Row, threads: int) -> subprocess.Popen | None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    worker = subprocess.Popen(
        [*row.worker, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    for line in worker.stdout:
        if line.strip() == "ready":
            return worker
    print(f"  {key(row)}: did not start", flush=True)
    return None


def ask(worker: subprocess.Popen | None, length: int) -> float | None:
    if worker is None:
        return None
    worker.stdin.write(f"{length}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def measure_cold(rows: list[Row], *, rounds: int) -> None:
    for _ in range(rounds):
        for row in rows:
            if row.graph:
                script = [sys.executable, HERE / "peers/cold_start.py", row.graph]
                done = subprocess.run(script, capture_output=True, text=True, check=True)
                row.cold.append(json.loads(done.stdout))


def measure_fidelity(rows: list[Row], source: Path) -> None:
    """Hidden states against PyTorch's float32 on this repository's documents, padded batches of three."""
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    text = [line for path in sorted(HERE.parent.glob("docs/*.md")) for line in path.read_text().splitlines()]
    text = [line for line in text if len(line) > 60][:60]
    sessions = open_sessions(rows, 1)
    errors: dict[str, list[np.ndarray]] = {name: [] for name in sessions}
    cosines: dict[str, list[np.ndarray]] = {name: [] for name in sessions}
    for start in range(0, len(text), 3):
        batch = tokenizer(text[start : start + 3], padding=True, truncation=True, max_length=256, return_tensors="pt")
        feeds = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            want = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).last_hidden_state.numpy()
        attended = feeds["attention_mask"] == 1
        for name, session in sessions.items():
            got = session.run(None, feeds)[0][attended]
            errors[name].append(np.abs(got - want[attended]))
            norms = np.linalg.norm(got, axis=-1) * np.linalg.norm(want[attended], axis=-1)
            cosines[name].append((got * want[attended]).sum(axis=-1) / norms)
    for row in rows:
        if row.graph:
            row.mean_error = float(np.concatenate(errors[key(row)]).mean())
            row.max_error = float(max(each.max() for each in errors[key(row)]))
            row.cosine = float(min(each.min() for each in cosines[key(row)]))


# --- telling ------------------------------------------------------------------------------------------


def best_ratio(rows: list[Row], precision: str, at: tuple[int, int]) -> tuple[float, str]:
    """Median over rounds of the best peer's time over ours; the best peer is the one with the smallest median."""
    mine = next(row for row in rows if row.name == "ours" and row.precision == precision)
    peers = [row for row in rows if row.graph and row.name != "ours" and row.precision == precision]
    best = min(peers, key=lambda row: statistics.median(row.seconds[at]))
    return statistics.median(t / m for t, m in zip(best.seconds[at], mine.seconds[at], strict=True)), best.name


def told(title: str, rows: list[Row], threads: list[int]) -> list[str]:
    lines = [f"## {title}", ""]
    for count in threads:
        clock = "processor time" if count == 1 else "wall clock"
        lines += [f"### {count} thread{'s' * (count > 1)}: median ms ({clock} of ONNX rows; workers by wall clock)", ""]
        lines += ["| | precision | " + " | ".join(map(str, LENGTHS)) + " |", "|---|---|" + "---|" * len(LENGTHS)]
        for row in rows:
            cells = [row.seconds.get((count, length)) for length in LENGTHS]
            shown = [f"{1e3 * statistics.median(each):.2f}" if each else "–" for each in cells]
            lines.append(f"| {row.name} | {row.precision} | " + " | ".join(shown) + " |")
        for precision in ("int8", "fp32"):
            found = [best_ratio(rows, precision, (count, length)) for length in LENGTHS]
            lines.append(
                f"| **best ONNX peer / ours** | {precision} | "
                + " | ".join(f"**{r:.2f}** ({who})" for r, who in found)
                + " |"
            )
        lines.append("")
    lines += ["### Load, memory, size, fidelity", ""]
    lines += [
        "| | precision | load ms (processor) | peak MiB over import | bytes | mean error | max error | least cosine |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if row.graph:
            load = 1e3 * statistics.median(each["load_cpu_s"] for each in row.cold)
            peak = statistics.median(each["peak_bytes"] for each in row.cold) / 2**20
            figures = f"{row.mean_error:.3g} | {row.max_error:.3g} | {row.cosine:.6f}"
            lines.append(f"| {row.name} | {row.precision} | {load:.0f} | {peak:.0f} | {row.bytes:,} | {figures} |")
    for precision in ("fp32", "int8"):
        mine, peer = (
            next(r for r in rows if r.name.startswith(n) and r.precision == precision) for n in ("ours", "optimum")
        )
        of = {
            what: statistics.median(e[what] for e in mine.cold) / statistics.median(e[what] for e in peer.cold)
            for what in ("load_cpu_s", "peak_bytes")
        }
        load, peak = of["load_cpu_s"], of["peak_bytes"]
        lines.append(f"\n{precision}: ours loads in {load:.2f} of optimum-onnx's time, with {peak:.2f} of its peak.")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cold-rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--student", type=Path, help="folder of a distilled student; else MiniLM's layers 0, 2, 4")
    parser.add_argument("--no-alternatives", action="store_true", help="leave OpenVINO and PyTorch out")
    parser.add_argument("--work", type=Path, default=cache_root() / "peers" / "work")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    host, now = this_host(), datetime.now(UTC)
    chosen.out.mkdir(exist_ok=True)
    target = chosen.out / f"export_peers-{now:%Y-%m-%d}.md"
    lines = [
        f"# Exporters compared, {now:%Y-%m-%d}",
        "",
        f"`python benchmarks/export_peers.py --rounds {chosen.rounds}` · {host.cpu}, {host.cores} cores, {host.system}",
        f"· onnxruntime {ort.__version__}, torch {torch.__version__} · load average {os.getloadavg()[0]:.1f}",
        "",
        "Encoders (feature-extraction), batch 1. Rows are interleaved call by call; ratios are medians within a",
        "round. A ratio above 1 means that ours is faster.",
        "",
    ]
    for title, source in make_models(chosen.work, chosen.student).items():
        print(title, flush=True)
        rows = make_rows(source, alternatives=not chosen.no_alternatives)
        measure_fidelity(rows, source)
        measure_cold(rows, rounds=chosen.cold_rounds)
        for threads in chosen.threads:
            measure_latency(rows, threads=threads, rounds=chosen.rounds)
        lines += told(title, rows, chosen.threads)
        target.write_text("\n".join(lines), encoding="utf-8")  # after each model: the whole takes long
    print(target)


if __name__ == "__main__":
    main()

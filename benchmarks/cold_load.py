"""Time and memory of opening an artefact under onnxruntime's options for it, in fresh processes.

    python benchmarks/cold_load.py MODEL.onnx [MODEL.onnx …] [--rounds 7]

Every variant opens the graph in a process of its own, in turns; the figures are medians of the
processor time of `InferenceSession(...)`, and the peak after one call of 128 tokens over what the
imports took. `no packing` is the floor of everything but the packing of weights; it makes calls
slower, so it is not a recommendation.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort
from page import RESULTS, argument_parser, host_line, today, write_page, write_raw

# Variant → figures of each process.
Runs = dict[str, list[dict[str, float]]]

WORKER = Path(__file__).resolve().parent / "peers" / "cold_start.py"
AS_IT_IS = "as it is"
# Variant → config entries of the session; an attribute of its options begins with a dot.
VARIANTS: Mapping[str, Mapping[str, str]] = {
    AS_IT_IS: {},
    "initializers outside the arena": {"session.use_device_allocator_for_initializers": "1"},
    "no arena": {".enable_cpu_mem_arena": "0"},
    "basic optimizations": {".graph_optimization_level": "1"},
    "no optimizations": {".graph_optimization_level": "0"},
    "no packing": {"session.disable_prepacking": "1"},
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("graphs", type=Path, nargs="+", help="artefacts of edgedistil export")
    parser.add_argument("--rounds", type=int, default=7, help="fresh processes of each variant")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    lines = [
        f"# Opening a session, {today()}",
        "",
        f"`python benchmarks/cold_load.py … --rounds {arguments.rounds}` · {host_line()} ·"
        f" onnxruntime {ort.__version__}",
    ]
    raw = []
    for graph in arguments.graphs:
        runs = measure(graph.resolve(), rounds=arguments.rounds)
        lines += section(graph.name, runs)
        raw.append({"artefact": graph, "runs": runs})
    write_raw(arguments.out, "cold_load", {"artefacts": raw})
    print(write_page(arguments.out, "cold_load", "\n".join([*lines, ""])))


def measure(graph: Path, *, rounds: int) -> Runs:
    """Opens every variant of one artefact in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: (graph, options) for name, options in VARIANTS.items()}
        files |= saved_variants(graph, Path(scratch))
        runs: Runs = {name: [] for name in files}
        for _ in range(rounds):
            for name, (file, options) in files.items():
                runs[name].append(open_in_process(file, options))
    return runs


def section(name: str, runs: Runs) -> list[str]:
    """Table of one artefact: each variant's load and peak."""
    lines = [
        "",
        f"## {name}",
        "",
        "| variant | load, ms of processor time | share | peak, MiB |",
        "|---|---|---|---|",
    ]
    base = median(runs[AS_IT_IS], "load_cpu_s")
    for variant, figures in runs.items():
        load, peak = median(figures, "load_cpu_s"), median(figures, "peak_bytes") / 2**20
        lines.append(f"| {variant} | {1e3 * load:.0f} | {load / base:.2f} | {peak:.0f} |")
    return lines


def saved_variants(graph: Path, folder: Path) -> dict[str, tuple[Path, Mapping[str, str]]]:
    """Files that a session writes after its optimizations, and how they are opened."""
    saved: dict[str, tuple[Path, Mapping[str, str]]] = {}
    for name, file, entries in (
        ("optimized and saved", "optimized.onnx", {}),
        ("packed and saved", "packed.onnx", {"save_external_prepacked_constant_initializers": "1"}),
    ):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        path = folder / file
        options.optimized_model_filepath = str(path)
        add = options.add_session_config_entry
        add("session.optimized_model_external_initializers_file_name", f"{file}_data")
        add("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        for key, value in entries.items():
            add(f"session.{key}", value)
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        saved[name] = (path, {".graph_optimization_level": "0"})
    return saved


def open_in_process(file: Path, options: Mapping[str, str]) -> dict[str, float]:
    """Figures of one fresh process."""
    command = [sys.executable, str(WORKER), str(file), json.dumps(dict(options))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def median(figures: list[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in figures)


if __name__ == "__main__":
    main()

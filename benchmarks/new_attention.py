"""Layers with rotary positions and distances against BERT's, and the memory of long texts.

    python benchmarks/new_attention.py [--layers 3] [--rounds 60]
    python benchmarks/new_attention.py --layers 1 --rounds 2      a quick try, not a figure
    python benchmarks/new_attention.py --memory      only the memory, also on a busy machine

Every model has BERT-base's width and as many multiply-adds a layer (a gated feed-forward of 2,048),
random weights, and a vocabulary of 1,000. Calls are in turns, on one thread; compared is the
processor time of a call, of which other work on the machine takes little. The peak of memory is
that of a process of its own for each length, minus what it had before the call.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from page import RESULTS, argument_parser, host_line, load_averages, today, write_page, write_raw
from transformers import AutoConfig, AutoModel

from edgedistil.core.session import PROVIDERS, SessionOptions
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace_model

PRECISIONS = ("fp32", "int8")
LENGTHS, LONG_LENGTHS = (32, 128, 512), (512, 2048, 8192)
LONG_FAMILY = "modernbert"
VOCABULARY, GATED = 1000, 2048
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "bert": {},
    "modernbert": {**_SPECIAL, "intermediate_size": GATED, "cls_token_id": 1, "sep_token_id": 2},
    "nomic_bert": {"intermediate_size": GATED},
    "eurobert": {**_SPECIAL, "intermediate_size": GATED, "mask_token_id": 4},
    # v3's settings.
    "deberta-v2": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 256,
    },
}
# Printed by a process that runs one text.
_MEASURE_PEAK = """
import sys, numpy as np, onnxruntime as ort
def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
before, ids = peak(), np.full((1, int(sys.argv[2])), 7)
session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
print(peak() - before)
"""


def main() -> None:
    """Writes the pages."""
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        names = [LONG_FAMILY] if arguments.memory else list(SHAPES)
        files = _write_graphs(Path(folder), names, arguments.layers)
        if not arguments.memory:
            _write_times(files, arguments)
        _write_memory(files, arguments)


def _write_times(files: Mapping[tuple[str, str], Path], arguments: argparse.Namespace) -> None:
    """Measures the layers of all models and writes page and record."""
    lines = _head("Layers with new attention")
    lines.append("Processor time of a layer, ms (against BERT's)")
    measured = []
    for precision in PRECISIONS:
        for length in LENGTHS:
            times = _measure(files, precision, length, arguments)
            measured.append([precision, length, times])
            lines.append(f"- {precision}, {length} tokens: {_format_row(times)}")
            print(lines[-1], flush=True)
    print(write_page(arguments.out, "new-attention", "\n".join(lines) + "\n"))
    write_raw(arguments.out, "new-attention", {"layers": arguments.layers, "layer_ms": measured})


def _write_memory(files: Mapping[tuple[str, str], Path], arguments: argparse.Namespace) -> None:
    """Measures the memory of long texts and writes page and record."""
    lines = _head("Memory of long texts")
    lines += [f"{LONG_FAMILY} with {arguments.layers} layers: MiB that a call adds, one thread", ""]
    measured = []
    for precision in PRECISIONS:
        for length in LONG_LENGTHS:
            peak = _peak_of_call(files[LONG_FAMILY, precision], length)
            measured.append([precision, length, peak])
            lines.append(f"- {precision}, {length} tokens: {peak:.0f}")
            print(lines[-1], flush=True)
    print(write_page(arguments.out, "long-texts", "\n".join(lines) + "\n"))
    write_raw(arguments.out, "long-texts", {"layers": arguments.layers, "peak_mib": measured})


def _head(title: str) -> list[str]:
    return [f"# {title}, {today()}", "", f"{host_line(cores=1)}; load {load_averages()}.", ""]


def _parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--memory", action="store_true", help="measure no times")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _write_graphs(folder: Path, names: Sequence[str], layers: int) -> dict[tuple[str, str], Path]:
    files = {}
    for name in names:
        sizes = {"vocab_size": VOCABULARY, "num_hidden_layers": layers, **SHAPES[name]}
        config = AutoConfig.for_model(name, **sizes)
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval().requires_grad_(False)
        graph = trace_model(model, task="feature-extraction")
        run_standard_passes(graph, config)
        files[name, "fp32"] = save_graph(graph, folder / f"{name}.onnx", external=True)[0]
        quantize_dynamic(graph, Int8Plan())
        files[name, "int8"] = save_graph(graph, folder / f"{name}-int8.onnx", external=True)[0]
    return files


def _measure(
    files: Mapping[tuple[str, str], Path],
    precision: str,
    length: int,
    arguments: argparse.Namespace,
) -> dict[str, list[float]]:
    """Processor time of each call, ms a layer; models take turns."""
    sessions = {name: _open(files[name, precision]) for name in SHAPES}
    ids_1L = np.random.default_rng(0).integers(5, VOCABULARY, (1, length))
    arrays = {"input_ids": ids_1L, "attention_mask": np.ones_like(ids_1L)}
    arrays["token_type_ids"] = np.zeros_like(ids_1L)
    times: dict[str, list[float]] = {name: [] for name in SHAPES}
    for _ in range(arguments.rounds + 2):
        for name, session in sessions.items():
            feeds = {value.name: arrays[value.name] for value in session.get_inputs()}
            began = time.process_time()
            session.run(None, feeds)
            times[name].append((time.process_time() - began) * 1e3 / arguments.layers)
    # The first calls reserve memory.
    return {name: values[2:] for name, values in times.items()}


def _open(file: Path) -> ort.InferenceSession:
    options = SessionOptions().to_onnxruntime()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(file, options, providers=PROVIDERS)


def _format_row(times: Mapping[str, list[float]]) -> str:
    base = statistics.median(times["bert"])
    medians = {name: statistics.median(values) for name, values in times.items()}
    return ", ".join(f"{name} {ms:.2f} ({ms / base:.2f})" for name, ms in medians.items())


def _peak_of_call(file: Path, length: int) -> float:
    command = [sys.executable, "-c", _MEASURE_PEAK, str(file), str(length)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


if __name__ == "__main__":
    main()

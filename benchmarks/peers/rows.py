"""Artefacts and runtimes that are compared; other exporters run in environments of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from peers.feeds import INPUTS, write_feeds
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
)

from edgedistil.core.places import cache_root
from edgedistil.core.precision import Precision, graph_name
from edgedistil.core.rundir import sha256_file
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK, Task
from edgedistil.export.untrained import save_precisions
from edgedistil.models.teacher import load_teacher
from edgedistil.runtime.openvino_packages import quantize_with_nncf, require_openvino

HERE = Path(__file__).resolve().parent
# Peer → packages of its environment.
REQUIREMENTS = {
    "optimum-onnx": [
        "optimum-onnx[onnxruntime]==0.1.0",
        "transformers==4.57.*",
        "sentence-transformers>=5",
    ],
    # What transformers.exporters asks for; the product does not use it.
    "transformers.exporters": [
        "torch",
        f"transformers=={transformers.__version__}",
        f"onnx=={onnx.__version__}",
        f"onnxruntime=={onnxruntime.__version__}",
        "onnxscript==0.7.0",
    ],
}
CLASSES = {FILL_MASK_TASK: AutoModelForMaskedLM, ENCODER_TASK: AutoModel}
OURS, NNCF = "ours", "OpenVINO NNCF"
ALTERNATIVES = ("openvino", "pytorch")
OUTLIER_CHANNELS, OUTLIER_GAIN = 6, 8.0
# Sequences that NNCF calibrates on, and the longest sequence of real text.
CALIBRATION_SEQUENCES = 64
# Batches of four that our int8 is calibrated on, as `edgedistil export` does.
CALIBRATION_CALLS = 24
MAX_TOKENS = 256


@dataclass
class Row:
    """An artefact or a runtime, and what was measured of it.

    Attributes:
        name: Exporter or runtime.
        precision: Precision of the artefact, or how the runtime computes.
        graph: The ONNX file; None for a runtime with a worker process.
        worker: Command of the worker, without the number of threads.
        seconds: (threads, length) → seconds of one call in each round.
        cold: Figures of each fresh process, as cold_start.py prints them.
        mean_error: Mean difference of hidden states from PyTorch's.
        max_error: Largest such difference.
        cosine: Smallest cosine of a hidden state with PyTorch's.
    """

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
    def key(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    def graph_file(self) -> Path:
        assert self.graph is not None, "only called for rows with an artefact"
        return self.graph

    @property
    def bytes(self) -> int:
        """Size of the graph with its external data."""
        files = self.graph_file.parent.glob(f"{self.graph_file.name}*")
        return sum(path.stat().st_size for path in files)


def raw_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Measured figures of rows for a raw record: seconds of every round, by threads and length."""
    return [
        {
            "name": row.name,
            "precision": row.precision,
            "bytes": None if row.graph is None else row.bytes,
            "seconds": [[*condition, seconds] for condition, seconds in row.seconds.items()],
            "cold": row.cold,
            "errors": [row.mean_error, row.max_error, row.cosine],
        }
        for row in rows
    ]


# --- environments --------------------------------------------------------------------------------


def python_of(peer: str) -> str:
    """Returns the interpreter of a peer's environment, which is created the first time."""
    folder = cache_root() / "peers" / peer
    if not (folder / ".ready").exists():
        print(f"creating the environment of {peer}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # The same torch everywhere, so that its version explains no difference.
        constraint = folder / "torch.txt"
        constraint.write_text(f"torch=={torch.__version__.split('+')[0]}\n", encoding="utf-8")
        pip = [folder / "bin/python", "-m", "pip", "install", "-q", "-c", constraint]
        subprocess.run([*pip, *REQUIREMENTS[peer]], check=True)
        (folder / ".ready").touch()
    return str(folder / "bin" / "python")


def versions_of(peer: str | None, packages: Sequence[str]) -> str:
    """Versions of packages in a peer's environment, or in this one, on one line."""
    program = (
        "import sys, importlib.metadata as m;"
        " print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    )
    python = sys.executable if peer is None else python_of(peer)
    command = [python, "-c", program, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


# --- models --------------------------------------------------------------------------------------


def random_shapes(work: Path) -> Path:
    """Writes a DistilBERT with random weights: speed, load and memory do not depend on them."""
    folder = work / "distilbert-shapes-with-outliers"
    if not folder.exists():
        torch.manual_seed(0)
        model = DistilBertModel(DistilBertConfig())
        # As in trained models: without outlier channels our int8 would skip the work for them.
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.data[:OUTLIER_CHANNELS] = OUTLIER_GAIN
        model.save_pretrained(folder)
        teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
        AutoTokenizer.from_pretrained(teacher.folder).save_pretrained(folder)
    return folder


def distilled_student(work: Path, student: Path) -> Path:
    """Copies a run's student, because its artefacts are written next to it."""
    # Peers' artefacts are reused, and those of another student must not be.
    digest = sha256_file(student / "model.safetensors")
    folder = work / f"minilm-student-{digest[:8]}"
    if not folder.exists():
        shutil.copytree(student, folder)
    return folder


def needed_bytes(source: Path, precision: str) -> int:
    """Bytes of the encoder's unique weights: 4 each, in int8 1 for those in matrices."""
    matrix_bytes = 4 if precision == "fp32" else 1
    size = 0
    for parameter in AutoModel.from_pretrained(source).parameters():
        # Biases and norms stay in float32.
        element_bytes = matrix_bytes if parameter.ndim > 1 else 4
        size += element_bytes * parameter.numel()
    return size


# --- rows ----------------------------------------------------------------------------------------


def make_rows(
    source: Path, text: Sequence[str], *, task: Task, alternatives: Sequence[str] = ()
) -> list[Row]:
    """Exports a model with every tool.

    Peers' artefacts are reused from an earlier call; ours are always exported again.

    Args:
        source: Model folder.
        text: Real text, for NNCF's calibration.
        task: What is exported.
        alternatives: Other runtimes that are rows, too: of `ALTERNATIVES`.
    """
    folder = source.with_name(f"{source.name}.{task}.artefacts")
    folder.mkdir(exist_ok=True)
    rows = [
        *our_rows(source, folder / OURS, task, text),
        *optimum_rows(source, folder / "optimum", task),
        *transformers_rows(source, folder / "transformers", task),
    ]
    if task == ENCODER_TASK:
        rows += _sentence_transformers_rows(source, folder / "sentence")
    if "openvino" in alternatives:
        fp32_graph = folder / "optimum/fp32/model.onnx"
        rows += _openvino_rows(source, fp32_graph, folder / "openvino", text)
    if "pytorch" in alternatives:
        rows += _pytorch_rows(source)
    return rows


def our_rows(
    source: Path, folder: Path, task: Task, text: Sequence[str] | None = None
) -> list[Row]:
    """Exports a model as `edgedistil export` does: float32, int8, and int8 with one scale a call.

    Args:
        source: Model folder.
        folder: Where the graphs are written.
        task: What is exported.
        text: Its odd lines calibrate int8; random tokens if None, enough for speed.
    """
    model = CLASSES[task].from_pretrained(source).eval().requires_grad_(False)
    feeds = None
    if text is not None:
        calibration = folder.with_name(f"{folder.name}-calibration.npz")
        feeds = save_text_feeds(
            calibration, source, list(text[1::2]), batch=4, count=CALIBRATION_CALLS
        )
    names: tuple[Precision, ...] = ("fp32", "int8", "int8-dynamic")
    files = {name: folder / graph_name(name) for name in names}
    save_precisions(model, files, task=task, feeds=feeds)
    return [Row(OURS, name, file) for name, file in files.items()]


def optimum_rows(source: Path, folder: Path, task: Task) -> list[Row]:
    """Exports a model with optimum-onnx; raises CalledProcessError if it cannot."""
    _run_once(folder, [python_of("optimum-onnx"), _script("optimum_onnx.py"), str(source), task])
    quantized = "model_quantized.onnx"
    return [
        Row("optimum-onnx", "fp32", folder / "fp32/model.onnx"),
        Row("optimum-onnx", "int8", folder / "int8" / quantized),
        Row("optimum-onnx per channel", "int8", folder / "int8-per-channel" / quantized),
    ]


def transformers_rows(source: Path, folder: Path, task: Task) -> list[Row]:
    """Exports a model with transformers.exporters; without the forms that it cannot export."""
    python = python_of("transformers.exporters")
    command = [python, _script("transformers_exporters.py"), str(source), task]
    _run_once(folder, command)
    rows = []
    for precision in ("fp32", "int8"):
        for suffix, words in (("", ""), ("-fused", " fused")):
            graph = folder / f"{precision}{suffix}/model.onnx"
            # An export that failed is not compared.
            if graph.exists():
                rows.append(Row(f"transformers.exporters{words}", precision, graph))
    return rows


def _sentence_transformers_rows(source: Path, folder: Path) -> list[Row]:
    command = [python_of("optimum-onnx"), _script("sentence_transformer_onnx.py"), str(source)]
    _run_once(folder, command)
    return [
        Row("sentence-transformers", precision, folder / precision / "model.onnx")
        for precision in ("fp32", "int8")
    ]


def _openvino_rows(source: Path, fp32_graph: Path, folder: Path, text: Sequence[str]) -> list[Row]:
    require_openvino()
    int8 = folder / "nncf.xml"
    if not int8.exists():
        folder.mkdir(exist_ok=True)
        # Odd lines: the errors are measured on the even ones.
        feeds = save_text_feeds(
            folder / "feeds.npz", source, list(text[1::2]), batch=1, count=CALIBRATION_SEQUENCES
        )
        by_key = {str(index): feed for index, feed in enumerate(feeds)}
        quantize_with_nncf(fp32_graph, by_key, folder, exported=fp32_graph)
    run = [sys.executable, _script("openvino_worker.py")]
    return [
        Row("OpenVINO", "fp32", worker=[*run, str(fp32_graph), "f32"]),
        Row("OpenVINO", "bf16", worker=[*run, str(fp32_graph), "bf16"]),
        Row(NNCF, "int8", worker=[*run, str(int8), "f32"]),
    ]


def _pytorch_rows(source: Path) -> list[Row]:
    run = [sys.executable, _script("pytorch_worker.py"), str(source)]
    return [
        Row("PyTorch", precision, worker=[*run, precision])
        for precision in ("fp32", "bf16", "compiled")
    ]


def save_text_feeds(
    path: Path, source: Path, text: list[str], *, batch: int, count: int
) -> list[dict[str, np.ndarray]]:
    """Writes `count` padded batches of real text to a file that every environment reads."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    feeds = []
    for start in range(0, min(len(text), batch * count), batch):
        encoding = tokenizer(
            text[start : start + batch],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="np",
        )
        feeds.append({name: encoding[name].astype(np.int64) for name in INPUTS})
    write_feeds(path, feeds)
    return feeds


def _script(name: str) -> str:
    return str(HERE / name)


def _run_once(folder: Path, command: Sequence[str]) -> None:
    """Runs an exporter unless its folder exists; an interrupted export leaves none."""
    if folder.exists():
        return
    print(f"exporting {folder}", flush=True)
    # Exported under another name and renamed at the end.
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    subprocess.run([*command, str(temporary)], check=True, stderr=subprocess.DEVNULL)
    temporary.rename(folder)

"""The artefacts and runners that are compared, each made by its own tool in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
)

from edgedistil.core.assets import cache_root
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.quantization_target import advise_int8, find_target
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace_model
from edgedistil.models.teacher import load_teacher

HERE = Path(__file__).resolve().parent
REQUIREMENTS = {
    "optimum-onnx": [
        "optimum-onnx[onnxruntime]==0.1.0",
        "transformers==4.57.*",
        "sentence-transformers>=5",
    ],
    "openvino": ["openvino", "nncf", "onnx"],
}
CLASSES = {"fill-mask": AutoModelForMaskedLM, "feature-extraction": AutoModel}
CALIBRATION = 64


@dataclass
class Row:
    """An artefact or runner, and what was measured of it; seconds by (threads, length)."""

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
    def bytes(self) -> int:
        assert self.graph is not None
        return sum(path.stat().st_size for path in self.graph.parent.glob(f"{self.graph.name}*"))


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment, made if it is not there."""
    place = cache_root() / "peers" / peer
    if not (place / ".ready").exists():
        print(f"making the environment of {peer}", flush=True)
        constraint = place / "torch.txt"
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        constraint.write_text(f"torch=={torch.__version__.split('+')[0]}\n", encoding="utf-8")
        pip = [place / "bin/python", "-m", "pip", "install", "-q", "-c", constraint]
        subprocess.run([*pip, *REQUIREMENTS[peer]], check=True)
        (place / ".ready").touch()
    return str(place / "bin" / "python")


def versions_of(peer: str, packages: list[str]) -> str:
    script = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    done = subprocess.run(
        [python_of(peer), "-c", script, *packages], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def random_shapes(work: Path) -> Path:
    """DistilBERT's shapes with random weights: speed, load and memory do not depend on them."""
    folder = work / "distilbert-shapes"
    if not folder.exists():
        torch.manual_seed(0)
        DistilBertModel(DistilBertConfig()).save_pretrained(folder)
        load_teacher("asset:minilm", revision=None, cache=cache_root()).tokenizer.save_pretrained(
            folder
        )
    return folder


def distilled_student(work: Path, student: Path) -> Path:
    """A copy of a run's student, whose artefacts lie beside it."""
    folder = work / "minilm-student"
    if not folder.exists():
        shutil.copytree(student, folder)
    return folder


def make_rows(source: Path, text: list[str], *, task: str, alternatives: bool) -> list[Row]:
    """Every artefact of a model for a task; what a peer made before is used again, ours is made anew."""
    made = source.with_name(f"{source.name}.{task}.artefacts")
    made.mkdir(exist_ok=True)
    ours(source, made / "ours", task)
    optimum = python_of("optimum-onnx")
    _once(made / "optimum", [optimum, str(HERE / "optimum_onnx.py"), str(source), task])
    _once(
        made / "transformers",
        [sys.executable, str(HERE / "transformers_exporters.py"), str(source), task],
    )
    rows = [
        Row("ours", "fp32", made / "ours/model.onnx"),
        Row("ours", "int8", made / "ours/model_int8.onnx"),
        Row("optimum-onnx", "fp32", made / "optimum/fp32/model.onnx"),
        Row("optimum-onnx", "int8", made / "optimum/int8/model_quantized.onnx"),
        Row(
            "optimum-onnx per channel",
            "int8",
            made / "optimum/int8-per-channel/model_quantized.onnx",
        ),
    ]
    for precision, fused in (("fp32", ""), ("fp32", "-fused"), ("int8", ""), ("int8", "-fused")):
        graph = made / f"transformers/{precision}{fused}/model.onnx"
        if graph.exists():
            rows.append(Row(f"transformers.exporters{fused.replace('-', ' ')}", precision, graph))
    if task == "feature-extraction":
        _once(made / "sentence", [optimum, str(HERE / "sentence_transformer_onnx.py"), str(source)])
        rows += [
            Row("sentence-transformers", each, made / f"sentence/{each}/model.onnx")
            for each in ("fp32", "int8")
        ]
    if alternatives:
        rows += _alternatives(source, made, text)
    return rows


def _alternatives(source: Path, made: Path, text: list[str]) -> list[Row]:
    python, worker = python_of("openvino"), str(HERE / "openvino_worker.py")
    fp32, int8 = str(made / "optimum/fp32/model.onnx"), made / "openvino-int8.xml"
    if not int8.exists():
        feeds = made / "calibration.npz"
        save_feeds(feeds, source, text[1::2], batch=1, count=CALIBRATION)
        subprocess.run([python, worker, "quantize", fp32, str(feeds), str(int8)], check=True)
    rows = [
        Row("OpenVINO", "fp32", worker=[python, worker, "run", fp32, "fp32"]),
        Row("OpenVINO", "bf16", worker=[python, worker, "run", fp32, "bf16"]),
        Row("OpenVINO NNCF", "int8", worker=[python, worker, "run", str(int8), "int8"]),
    ]
    for precision in ("fp32", "bf16", "compiled"):
        command = [sys.executable, str(HERE / "pytorch_worker.py"), str(source), precision]
        rows.append(Row("PyTorch", precision, worker=command))
    return rows


def save_feeds(
    path: Path, source: Path, text: list[str], *, batch: int, count: int
) -> list[dict[str, np.ndarray]]:
    """Padded batches of real text, in a file that every environment can read."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    feeds = []
    for start in range(0, min(len(text), batch * count), batch):
        made = tokenizer(
            text[start : start + batch],
            padding=True,
            truncation=True,
            max_length=256,
            return_tensors="np",
        )
        feeds.append(
            {name: made[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        )
    arrays = {
        f"{index}/{name}": value for index, each in enumerate(feeds) for name, value in each.items()
    }
    np.savez(path, **arrays)
    return feeds


def ours(source: Path, folder: Path, task: str) -> None:
    """As `edgedistil export` makes them: the same trace, passes, plan and storage."""
    model = CLASSES[task].from_pretrained(source).eval().requires_grad_(False)
    graph = trace_model(model, task=task)
    run_standard_passes(graph, model.config)
    save_graph(graph, folder / "model.onnx", external=True)
    quantize_dynamic(graph, advise_int8(find_target(None), signed=True).plan)
    save_graph(graph, folder / "model_int8.onnx", external=True)


def needed_bytes(source: Path, precision: str) -> int:
    """What the encoder's unique weights need: 4 bytes each; in int8 a byte for matrices, 4 for biases and norms."""
    model = AutoModel.from_pretrained(source)
    bytes_of_matrix = 4 if precision == "fp32" else 1
    return sum(p.numel() * (bytes_of_matrix if p.ndim > 1 else 4) for p in model.parameters())


def _once(folder: Path, command: list[str]) -> None:
    """Made aside and renamed when it is whole, so that an interrupted export is no artefact."""
    if folder.exists():
        return
    print(f"making {folder}", flush=True)
    aside = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(aside, ignore_errors=True)
    subprocess.run([*command, str(aside)], check=True, stderr=subprocess.DEVNULL)
    aside.rename(folder)

"""Packages of real MiniLM models as `edgedistil export` makes them, what PyTorch says to the same
text, the clients.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

from edgedistil.core.options import ExportOptions
from edgedistil.core.places import cache_root
from edgedistil.core.rundir import RunDir
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.export import probe_inputs, publish
from edgedistil.export.source import read_source
from edgedistil.models.student import StudentOptions, make_student
from edgedistil.models.teacher import load_teacher

HERE = Path(__file__).resolve().parent
LABELS = 3

_spec = importlib.util.spec_from_file_location("interop_environments", HERE / "environments.py")
assert _spec and _spec.loader
environments = importlib.util.module_from_spec(_spec)
import sys  # noqa: E402 - dataclasses look their module up while it is executed

sys.modules[_spec.name] = environments
_spec.loader.exec_module(environments)


@dataclass(frozen=True)
class Package:
    """A hub-ready folder, and the PyTorch model that it was exported from."""

    folder: Path
    task: str
    model: Any

    @property
    def key(self) -> str:
        return self.folder.name


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real English of several lengths, and what trips tokenizers."""
    licence = (HERE.parents[1] / "LICENSE").read_text(encoding="utf-8")
    paragraphs = [" ".join(paragraph.split()) for paragraph in licence.split("\n\n")]
    return [
        "The capital of France is Paris.",
        "It wasn't naïve: the Café's owner paid 1,299.50 € for 中文 books — and he'd do it again!",
        paragraphs[5],
        " ".join(paragraphs),  # more tokens than the model takes
    ]


@pytest.fixture(scope="session")
def masked_texts() -> list[str]:
    return [
        "The capital of France is [MASK].",
        "She opened the door and [MASK] into the dark room, where no one had been for many years.",
        "Licensor shall mean the [MASK] owner.",
    ]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> dict[str, Package]:
    """MiniLM as teacher encoder, a student of its layers 0 2 4 as masked LM, encoder and
    classifier; fp32 and int8.
    """
    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    student = make_student(
        teacher.model,
        layer_map=[0, 2, 4],
        options=StudentOptions(fold_segment=True, copy_head_transform=True, dropout=0.1, seed=7),
    )
    torch.manual_seed(7)
    config = DistilBertConfig(
        **{**student.config.to_dict(), "id2label": {i: f"class {i}" for i in range(LABELS)}}
    )
    classifier = DistilBertForSequenceClassification(config)
    classifier.distilbert.load_state_dict(student.distilbert.state_dict())
    run = RunDir(tmp_path_factory.mktemp("interop") / "run")
    packages = {}
    with pytest.MonkeyPatch.context() as patch:
        # The masked-LM head is untrained, so int8 turns its words at random: the clients are on
        # trial, not the gate.
        patch.setattr(publish, "_reject_failed", lambda *_: None)
        patch.setattr(probe_inputs, "CALLS", {512: (2,)})
        for name, task, model in (
            ("student", "fill-mask", student),
            ("student", "feature-extraction", student.distilbert),
            ("teacher", "feature-extraction", teacher.model.bert),
            ("classifier", "text-classification", classifier),
        ):
            source = run.path / "sources" / f"{name}-{task}"
            model.eval().save_pretrained(source)
            for file in TOKENIZER_FILES:
                if (teacher.folder / file).is_file():
                    shutil.copyfile(teacher.folder / file, source / file)
            publish.export_model(
                run,
                read_source(source, name=name, role="other", task=task),
                ExportOptions(precisions=["int8"]),
                text=texts,
            )
            package = Package(run.export(name, task), task, model)
            packages[package.key] = package
    return packages


@pytest.fixture(scope="session")
def pytorch(packages: dict[str, Package]) -> Callable[[Package, list[str]], dict[str, np.ndarray]]:
    """What the source model says: token ids, and the output as the clients give it."""

    def _ask(package: Package, texts: list[str]) -> dict[str, np.ndarray]:
        tokenizer = AutoTokenizer.from_pretrained(package.folder)
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=512, return_tensors="pt"
        )
        if package.model.config.model_type == "distilbert":
            inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            output = package.model(**inputs)[0]
        if package.task == "fill-mask":
            output = output[inputs["input_ids"] == tokenizer.mask_token_id]
        return {
            "input_ids": inputs["input_ids"].numpy(),
            "attention_mask": inputs["attention_mask"].numpy(),
            "output": output.numpy(),
        }

    return _ask


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`client(environment, script, jobs)`: outputs of another program in its own environment."""

    def _ask(name: str, script: str, jobs: list[dict[str, Any]]) -> Any:
        environment = environments.ENVIRONMENTS[name]
        folder = environments.build(environment)
        place = tmp_path_factory.mktemp("client")
        request, answer = (
            place / "request.json",
            place / ("answer.npz" if script.endswith(".py") else "answer.json"),
        )
        request.write_text(json.dumps({"jobs": jobs}))
        extra = [] if environment.program == "python" else [str(folder)]
        command = [
            str(environment.executable),
            str(HERE / "clients" / script),
            *extra,
            str(request),
            str(answer),
        ]
        # Offline is part of the claim: a folder of ours needs nothing from a hub.
        variables = environments.clean_environment() | {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=variables, timeout=500
        )
        assert done.returncode == 0, (
            f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
        return dict(np.load(answer)) if answer.suffix == ".npz" else json.loads(answer.read_text())

    return _ask


@pytest.fixture(scope="session")
def jobs(
    packages: dict[str, Package], texts: list[str], masked_texts: list[str]
) -> list[dict[str, Any]]:
    """Every package in fp32 and int8."""
    return list(_jobs(packages, texts, masked_texts))


def _jobs(
    packages: dict[str, Package], texts: list[str], masked_texts: list[str]
) -> Iterator[dict[str, Any]]:
    for package in packages.values():
        for dtype, file in (("fp32", "model.onnx"), ("int8", "model_int8.onnx")):
            yield {
                "key": f"{package.key}.{dtype}",
                "package": package.key,
                "folder": str(package.folder),
                "task": package.task,
                "file": file,
                "dtype": dtype,
                "texts": masked_texts if package.task == "fill-mask" else texts,
            }

"""One small model of every family in the clients' environments, compared with PyTorch.

Each client is one process for all families. A family that a client's version does not have is named
here, and the client must refuse it: it would be news if it did not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.options import ExportOptions
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import Task
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.export.publish import export_model
from edgedistil.export.source import read_source
from tests.export.families.conftest import CASES, make_model
from tests.fixtures.tokenizer_folders import our_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FLOAT32 = 1e-4  # the gate's own tolerance
TEXTS = [
    "The export writes a graph.",
    "It wasn't naïve: the Café's owner paid 1,299.50 € for 中文 books!",
    "a " * 200,  # more tokens than the model takes
]
JOBS: list[tuple[str, Task]] = [(name, "feature-extraction") for name in CASES]
JOBS += [("bert", "multiple-choice"), ("roberta", "multiple-choice")]
# optimum-onnx needs transformers 4.57.
NOT_IN_OPTIMUM = {name for name, family in FAMILIES.items() if not family.in_transformers_4}
NOT_IN_JS: set[str] = set()


@dataclass(frozen=True)
class FamilyPackage:
    """An export folder, and the model that it was exported from."""

    folder: Path
    task: Task
    model: PreTrainedModel


@pytest.fixture(scope="module")
def family_packages(
    tokenizer_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FamilyPackage]:
    packages = {}
    for name, task in JOBS:
        root = tmp_path_factory.mktemp(f"{name}-{task}")
        model = make_model(CASES[name], task)
        model.save_pretrained(root / "source")
        for file in TOKENIZER_FILES:
            source = tokenizer_folders[CASES[name].tokenizer] / file
            if source.is_file():
                shutil.copyfile(source, root / "source" / file)
        run = RunDir(root / "run")
        source = read_source(root / "source", name=name, role="other", task=task)
        export_model(run, source, ExportOptions(precisions=["fp32"]), text=our_text())
        packages[f"{name}-{task}"] = FamilyPackage(run.export(name, task), task, model)
    return packages


@pytest.fixture(scope="module")
def expected(family_packages: dict[str, FamilyPackage]) -> dict[str, dict[str, np.ndarray]]:
    """PyTorch's output for the ids of transformers' tokenizer, by job."""
    return {key: _expected(package) for key, package in family_packages.items()}


def _expected(package: FamilyPackage) -> dict[str, np.ndarray]:
    tokenizer = AutoTokenizer.from_pretrained(package.folder)
    inputs = dict(tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt"))
    asked = inputs
    if package.task == "multiple-choice":
        asked = {name: tensor[None] for name, tensor in inputs.items()}
    with torch.inference_mode():
        output = package.model(**asked)[0].numpy()
    ids, mask = (inputs[name].numpy() for name in ("input_ids", "attention_mask"))
    return {"input_ids": ids, "mask": mask, "output": output}


def _jobs(packages: dict[str, FamilyPackage]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "folder": str(package.folder),
            "task": package.task,
            "file": "model.onnx",
            "dtype": "fp32",
            "texts": TEXTS,
            "may_fail": True,
        }
        for key, package in packages.items()
    ]


def _means(reference: dict[str, np.ndarray]) -> np.ndarray:
    weights_BL1 = reference["mask"][..., None]
    means_BD: np.ndarray = (reference["output"] * weights_BL1).sum(axis=1) / weights_BL1.sum(axis=1)
    return means_BD


def _check_states(answers: dict[str, Any], key: str, reference: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(answers[f"{key}/input_ids"], reference["input_ids"], err_msg=key)
    got, output = answers[f"{key}/output"], reference["output"]
    if output.ndim == 3:
        is_token = reference["mask"] == 1
        got, output = got[is_token], output[is_token]
    assert got.shape == output.shape, key
    assert np.abs(got - output).max() <= FLOAT32, key


def _refused(answers: dict[str, Any]) -> dict[str, str]:
    """Family → error of the jobs that a client refused."""
    errors = {key: str(value) for key, value in answers.items() if key.endswith("/error")}
    return {key.split("-feature")[0].removesuffix("/error"): text for key, text in errors.items()}


def test_onnxruntime_with_tokenizers(
    client: Callable[..., Any],
    family_packages: dict[str, FamilyPackage],
    expected: dict[str, dict[str, np.ndarray]],
) -> None:
    answers = client("plain", "plain_client.py", _jobs(family_packages))
    for key, reference in expected.items():
        _check_states(answers, key, reference)


def test_optimum_and_sentence_transformers(
    client: Callable[..., Any],
    family_packages: dict[str, FamilyPackage],
    expected: dict[str, dict[str, np.ndarray]],
) -> None:
    answers = client("optimum", "optimum_client.py", _jobs(family_packages))
    refused = _refused(answers)
    assert set(refused) == NOT_IN_OPTIMUM, refused
    for key, reference in expected.items():
        if key.split("-feature")[0] in refused:
            continue
        _check_states(answers, key, reference)
        if family_packages[key].task == "feature-extraction":
            sentence = answers[f"{key}/sentence"]
            assert np.abs(sentence - _means(reference)).max() <= FLOAT32, key


@pytest.mark.needs("node", "npm")
def test_transformers_js(
    client: Callable[..., Any],
    family_packages: dict[str, FamilyPackage],
    expected: dict[str, dict[str, np.ndarray]],
) -> None:
    # It has no pipeline of multiple choice, and cuts a long text behind its last special token.
    encoders = {
        key: package for key, package in family_packages.items() if "feature" in package.task
    }
    jobs = [{**job, "texts": TEXTS[:2]} for job in _jobs(encoders)]
    answers = client("transformers.js", "transformers_js.mjs", jobs)
    refused = {key.split("-feature")[0]: a["error"] for key, a in answers.items() if "error" in a}
    assert set(refused) == NOT_IN_JS, refused
    for key, answer in answers.items():
        if "error" in answer:
            continue
        reference = _expected_of_two(family_packages[key])
        ids = np.array(answer["input_ids"]).reshape(answer["shape"])
        np.testing.assert_array_equal(ids, reference["input_ids"], err_msg=key)
        got = np.array(answer["output"]).reshape(answer["dims"])
        assert np.abs(got - _means(reference)).max() <= FLOAT32, key


def _expected_of_two(package: FamilyPackage) -> dict[str, np.ndarray]:
    tokenizer = AutoTokenizer.from_pretrained(package.folder)
    inputs = dict(tokenizer(TEXTS[:2], padding=True, return_tensors="pt"))
    with torch.inference_mode():
        output = package.model(**inputs)[0].numpy()
    ids, mask = (inputs[name].numpy() for name in ("input_ids", "attention_mask"))
    return {"input_ids": ids, "mask": mask, "output": output}

"""A package whose files say something else than the model is found before it is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.errors import ParityError
from edgedistil.core.options import ExportOptions
from edgedistil.core.rundir import RunDir
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.export.package_check import check_package
from edgedistil.export.publish import export_model
from edgedistil.export.source import read_source

from .conftest import copy_tokenizer, make

LABELS = {"0": "bad", "1": "good", "2": "fair"}


@pytest.fixture(scope="session")
def published(
    tokenizer: TextTokenizer, text: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Package and source of a classifier with named labels."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    model = make(
        "BertForSequenceClassification",
        id2label={int(key): name for key, name in LABELS.items()},
        label2id={name: int(key) for key, name in LABELS.items()},
        problem_type="single_label_classification",
    )
    model.save_pretrained(run.student)
    copy_tokenizer(tokenizer, run.student)
    source = read_source(run.student, name="student", role="student", task="text-classification")
    export_model(run, source, ExportOptions(precisions=["fp32"]), text=text)
    return run.export("student", "text-classification"), run.student


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def swap_labels(config: dict[str, Any]) -> None:
    config["id2label"] |= {"0": "good", "1": "bad"}


def other_problem_type(config: dict[str, Any]) -> None:
    config["problem_type"] = "multi_label_classification"


def other_epsilon(config: dict[str, Any]) -> None:
    config["layer_norm_eps"] = 1e-5


def swap_words(tokenizer: dict[str, Any]) -> None:
    words = tokenizer["model"]["vocab"]
    words["ban"], words["bar"] = words["bar"], words["ban"]


def keep_case(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]


def one_segment(tokenizer: dict[str, Any]) -> None:
    for part in tokenizer["post_processor"]["pair"]:
        next(iter(part.values()))["type_id"] = 0


def drop_graph(session: dict[str, Any]) -> None:
    (advice,) = session["artefacts"].values()
    session["artefacts"] = {"onnx/other.onnx": advice}


def swap_names(contract: dict[str, Any]) -> None:
    contract["labels"] = contract["labels"][::-1]


def pad_left(contract: dict[str, Any]) -> None:
    contract["tokenizer"]["padding_side"] = "left"


def no_token_types(contract: dict[str, Any]) -> None:
    contract["inputs"].pop()


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("config.json", swap_labels, "config.json has id2label = "),
        ("config.json", other_problem_type, "config.json has problem_type = "),
        ("config.json", other_epsilon, "config.json has layer_norm_eps = 1e-05, expected 1e-12"),
        ("tokenizer.json", swap_words, "tokenizer.json gives other ids than the model's"),
        ("tokenizer.json", keep_case, "tokenizer.json gives other ids than the model's"),
        ("tokenizer.json", one_segment, "tokenizer.json gives other ids for a pair"),
        ("contract.json", swap_names, "contract.json has another value of labels"),
        ("contract.json", pad_left, "contract.json has another value of tokenizer"),
        ("contract.json", no_token_types, "contract.json has another value of inputs"),
        ("session.json", drop_graph, "session.json is about ['onnx/other.onnx']"),
    ],
)
def test_a_wrong_file_is_named(
    file: str,
    change: Callable[[Any], None],
    problem: str,
    published: tuple[Path, Path],
    text: list[str],
    tmp_path: Path,
) -> None:
    folder, source = published
    check_package(folder, source, text)
    broken = tmp_path / "package"
    shutil.copytree(folder, broken)
    edit(broken / file, change)
    with pytest.raises(ParityError) as caught:
        check_package(broken, source, text)
    assert problem in str(caught.value)

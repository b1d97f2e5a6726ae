"""Cells: names, files and keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.errors import InputError
from edgedistil.core.evaluation_records import Cell
from edgedistil.core.records import provenance, write_record
from edgedistil.evaluate.cells import (
    CellFile,
    CellSettings,
    ModelSource,
    cell_key,
    model_sha256,
    parse_cell,
    read_finished,
)
from edgedistil.evaluate.spec import TaskSpec, load_task

SOURCE = ModelSource("student", Path("student"), "m")
# Of sst2, with the inputs of `key` below.
KEY = "49caa4a3475c71ed15dc43eaeca157122aa96775e02ea8b0976db7f649a0f87a"


def test_cell_is_parsed() -> None:
    assert parse_cell("sst2:student:3") == ("sst2", "student", 3)
    assert parse_cell("a/b.toml:x:y:3") == ("a/b.toml", "x:y", 3)
    assert parse_cell("a:b/c.toml:x:3") == ("a:b/c.toml", "x", 3)


@pytest.mark.parametrize("text", ["sst2", "sst2:student", "sst2:student:x", ":student:1", "a::1"])
def test_other_forms_of_a_cell_are_errors(text: str) -> None:
    with pytest.raises(InputError, match="expected TASK:MODEL:SEED"):
        parse_cell(text)


@pytest.mark.parametrize("seed", ["2147483648", "9" * 5000])
def test_a_seed_that_no_generator_takes(seed: str) -> None:
    with pytest.raises(InputError, match="expected a seed of at most 2147483647"):
        parse_cell(f"sst2:student:{seed}")


def cell_file(**changes: Any) -> CellFile:
    cell = Cell(
        task="t",
        model="m",
        seed=1,
        scores={"accuracy": 0.5},
        metric="accuracy",
        dev_examples=2,
        train_examples=3,
        seconds=1.0,
        provenance=provenance(),
    )
    values = {"labels": [0, 1], "predictions": [1, 1], "cell": cell, **changes}
    return CellFile(key="k", model_sha256="m", **values)


def test_cell_of_other_inputs_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "m-1.json"
    assert read_finished(path, "k") is None
    write_record(path, cell_file())
    assert read_finished(path, "k") == cell_file()
    assert read_finished(path, "other") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "[1]",
        lambda text: text[:100],
        lambda text: text.replace('"accuracy"', '"f1"', 1),
        lambda text: text.replace('"cell": {', '"cell": 7, "x": {'),
        lambda text: re.sub(r'"predictions": \[[^]]*]', '"predictions": [1]', text),
    ],
)
def test_corrupt_cell_is_reported_and_run_again(
    tmp_path: Path, change: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m-1.json"
    write_record(path, cell_file())
    path.write_text(change(path.read_text()))
    assert read_finished(path, "k") is None
    assert "a cell is run again" in capsys.readouterr().err


def test_digest_of_a_model_is_that_of_its_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text("weights")
        (tmp_path / name / "README.md").write_text(name)
    digest = model_sha256(tmp_path / "one")
    assert model_sha256(tmp_path / "two") == digest
    random = model_sha256(tmp_path / "one", random_weights=True)
    for file in ("model.safetensors", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / "two" / file).write_text("other")
        assert model_sha256(tmp_path / "two") != digest
        digest = model_sha256(tmp_path / "two")
    (tmp_path / "one" / "model.safetensors").write_text("other")
    assert model_sha256(tmp_path / "one", random_weights=True) == random


def key(
    spec: TaskSpec,
    *,
    source: ModelSource = SOURCE,
    data: str = "d",
    limit: int | None = None,
    seed: int = 1,
    soft: tuple[str, str] | None = None,
    share: float | None = None,
    match_steps: bool = False,
) -> str:
    settings = CellSettings(spec.training, share, match_steps)
    return cell_key(spec, settings, data, limit, source, seed, soft)


def test_key_is_stable_across_releases() -> None:
    """A change would run every cell of existing runs again; if intended, raise FORMAT."""
    assert key(load_task("sst2")) == KEY


def test_every_input_changes_the_key() -> None:
    spec = load_task("sst2")
    other_epochs = spec.training.model_copy(update={"epochs": 7})
    keys = {
        key(spec),
        key(spec, data="e"),
        key(spec, limit=100),
        key(spec, seed=2),
        key(spec, soft=("teacher's key", "texts")),
        key(spec, soft=("teacher's key", "other texts")),
        key(spec, share=0.2),
        key(spec, match_steps=True),
        key(spec, source=replace(SOURCE, random_weights=True)),
        key(spec, source=replace(SOURCE, sha256="other")),
        key(spec.model_copy(update={"training": other_epochs})),
        key(spec.model_copy(update={"metric": "f1"})),
    }
    assert len(keys) == 12


def test_title_and_licence_do_not_change_the_key() -> None:
    spec = load_task("sst2")
    assert key(spec.model_copy(update={"title": "x", "licence": "y"})) == key(spec)

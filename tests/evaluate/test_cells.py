"""Cells: names, files and keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.errors import InputError
from edgedistil.evaluate.cells import ModelSource, cell_key, parse_cell, read_key
from edgedistil.evaluate.spec import TaskSpec, load_task

SOURCE = ModelSource("student", Path("student"))
# Of sst2, with the inputs of `key` below.
KEY = "49caa4a3475c71ed15dc43eaeca157122aa96775e02ea8b0976db7f649a0f87a"


def test_cell_is_parsed() -> None:
    assert parse_cell("sst2:student:3") == ("sst2", "student", 3)
    assert parse_cell("a/b.toml:x:y:3") == ("a/b.toml", "x:y", 3)


@pytest.mark.parametrize("text", ["sst2", "sst2:student", "sst2:student:x", ":student:1", "a::1"])
def test_other_forms_of_a_cell_are_errors(text: str) -> None:
    with pytest.raises(InputError, match="expected TASK:MODEL:SEED"):
        parse_cell(text)


@pytest.mark.parametrize("seed", ["2147483648", "9" * 5000])
def test_a_seed_that_no_generator_takes(seed: str) -> None:
    with pytest.raises(InputError, match="expected a seed of at most 2147483647"):
        parse_cell(f"sst2:student:{seed}")


def test_file_without_a_key(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "truncated.json").write_text('{"key": "a')
    for name in ("list.json", "truncated.json", "missing.json"):
        assert read_key(tmp_path / name) is None


def key(
    spec: TaskSpec,
    *,
    source: ModelSource = SOURCE,
    data: str = "d",
    limit: int | None = None,
    seed: int = 1,
    soft: tuple[str, str] | None = None,
) -> str:
    return cell_key(spec, data, limit, source, "m", seed, soft)


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
        key(spec, source=ModelSource("student-random", Path("student"), random_weights=True)),
        key(spec.model_copy(update={"training": other_epochs})),
        key(spec.model_copy(update={"metric": "f1"})),
    }
    assert len(keys) == 9


def test_title_and_licence_do_not_change_the_key() -> None:
    spec = load_task("sst2")
    assert key(spec.model_copy(update={"title": "x", "licence": "y"})) == key(spec)

"""Searches over a small BERT: candidates, order, budgets that nothing meets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgedistil.cli import app
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.errors import DeviceFileError, GateError, InputError, ModelError
from edgedistil.core.recipe import Recipe, parse_recipe
from edgedistil.search.stage import require_candidate, search
from tests.export.families.conftest import CASES, copy_tokenizer, make_model

Make = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> Make:
    """A recipe over a random model of a family."""

    def make(name: str = "bert") -> Recipe:
        folder = tmp_path / name
        make_model(CASES[name], "fill-mask", num_hidden_layers=3).save_pretrained(folder)
        copy_tokenizer(tokenizer_folders[CASES[name].tokenizer], folder)
        data = {
            "name": "small",
            "teacher": {"source": str(folder)},
            "corpus": {"sources": [{"files": "none.txt"}]},
            "train": {"steps": 1},
        }
        return parse_recipe(data, where="test")

    return make


def options(**changes: object) -> SearchOptions:
    return SearchOptions(**{"device": "rpi4", "under": ["40MB"], **changes})  # type: ignore[arg-type]


def test_candidates_have_every_depth_and_precision(recipe: Make) -> None:
    record = search(recipe(), options())
    assert {c.layers for c in record.candidates} == {1, 2, 3}
    assert {c.precision for c in record.candidates} == {"fp32", "int8"}
    assert all(c.fit == "fits" for c in record.candidates)
    sizes = [c.parameters for c in record.candidates]
    assert sizes == sorted(sizes, reverse=True)
    assert record.candidates[0].latency_ms.low < record.candidates[0].latency_ms.high


def test_a_limit_within_a_band_may_be_met(recipe: Make) -> None:
    band = search(recipe(), options()).candidates[0].latency_ms
    middle = (band.low + band.high) / 2
    record = search(recipe(), options(under=[f"{middle:.6f}ms"]))
    assert "may fit" in {c.fit for c in record.candidates}
    ranks = [["fits", "may fit", "does not fit"].index(c.fit) for c in record.candidates]
    assert ranks == sorted(ranks)


def test_a_budget_that_nothing_meets_names_the_nearest_and_its_needs(recipe: Make) -> None:
    record = search(recipe(), options(under=["1kB"], memory="1MB"))
    assert {c.fit for c in record.candidates} == {"does not fit"}
    ratios = [c.worst_ratio for c in record.candidates]
    assert ratios == sorted(ratios)
    assert set(record.candidates[0].excess) <= {"file", "memory"}
    with pytest.raises(GateError, match=r"no student of .* needs at least .*memory \d+ MiB") as e:
        require_candidate(record)
    assert e.value.message.count("which needs at least") == 3


def test_the_command_ends_with_3_if_nothing_fits(recipe: Make, tmp_path: Path) -> None:
    checked = recipe()
    file = tmp_path / "small.toml"
    file.write_text(
        f'name = "small"\n[teacher]\nsource = {json.dumps(checked.teacher.source)}\n'
        '[[corpus.sources]]\nfiles = "none.txt"\n[train]\nsteps = 1\n'
    )
    arguments = ["search", str(file), "--device", "rpi4", "--under"]
    assert CliRunner().invoke(app, [*arguments, "40MB"]).exit_code == 0
    failed = CliRunner().invoke(app, [*arguments, "1kB"])
    assert isinstance(failed.exception, GateError)
    assert failed.exception.exit_code == 3


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"under": []}, "a budget is required"),
        ({"under": ["40"]}, "expected a number above 0 with its unit"),
        ({"under": ["0ms"]}, "expected a number above 0 with its unit"),
        ({"under": ["3ms", "4ms"]}, "another limit of this kind"),
        ({"memory": "30ms"}, "expected bytes, such as 256MB"),
        ({"length": 500}, "the teacher has positions for 67 tokens"),
        ({"threads": 999}, "--threads is 999: rpi4 has 4 cores; expected at most 16"),
    ],
)
def test_budgets_that_cannot_be_read(
    changes: dict[str, object], problem: str, recipe: Make
) -> None:
    with pytest.raises(InputError, match=problem):
        search(recipe(), options(**changes))


def test_an_unknown_device_is_refused(recipe: Make) -> None:
    with pytest.raises(DeviceFileError, match="unknown device 'rpi44'"):
        search(recipe(), options(device="rpi44"))


@pytest.mark.parametrize("name", ["modernbert", "albert"])
def test_families_without_known_sizes_are_refused(name: str, recipe: Make) -> None:
    with pytest.raises(ModelError, match=r"is not one that sizes are known of|share their weights"):
        search(recipe(name), options())


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        ({"init": "runs/a/student"}, 'student.init is "runs/a/student"'),
        ({"embedding": 16}, "student.embedding is 16"),
    ],
)
def test_sizes_that_are_not_searched_are_refused(
    student: dict[str, object], problem: str, recipe: Make
) -> None:
    checked = recipe()
    section = checked.student.model_copy(update=student)
    with pytest.raises(InputError, match=problem):
        search(checked.model_copy(update={"student": section}), options())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": 5000}, "--tokens is 5000 without --train: nothing would use it"),
        ({"run": "mine"}, "--run is mine without --train: nothing would use it"),
        ({"ssh": "pi@board"}, "--ssh is pi@board without --measure or --train"),
        ({"bootstrap": True, "measure": 1}, "--bootstrap is True without --ssh"),
        ({"ssh": "pi@board", "measure": 1, "device": "host"}, "--device is host, which is this"),
    ],
)
def test_an_option_that_nothing_would_use_is_refused(
    changes: dict[str, object], problem: str, recipe: Make
) -> None:
    with pytest.raises(InputError, match=problem):
        search(recipe(), options(**changes))

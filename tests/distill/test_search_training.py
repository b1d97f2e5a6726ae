"""Searches that train: small ones from the recipe to the artefact, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import edgedistil
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.errors import GateError, InputError, RunError
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.search_records import TrainedSearch
from edgedistil.search_training import RECORD, candidate_recipe, require_winner
from tests.distill.sentences import sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]


@pytest.fixture
def recipe(tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path) -> Recipe:
    teacher = sentence_teacher(tiny_teacher, tmp_path / "teacher")
    return sentence_recipe(tiny_recipe, teacher, export={"precisions": ["fp32"]})


def options(**changes: object) -> SearchOptions:
    settings = {"device": "rpi4", "under": ["40MB"], "length": 16, "train": 2, "tokens": 8000}
    return SearchOptions(**{**settings, **changes})  # type: ignore[arg-type]


def trained(recipe: Recipe, settings: SearchOptions) -> tuple[RunDir, TrainedSearch]:
    candidates = edgedistil.search(recipe, settings)
    return edgedistil.train_search(recipe, candidates, settings)


def test_a_search_trains_halves_and_ends_in_one_artefact(recipe: Recipe, runs: Path) -> None:
    folder, record = trained(recipe, options())
    assert [student.round for student in record.students] == [2, 1]
    assert [student.tokens for student in record.students] == [4000, 2000]
    assert record.tokens == 8000
    # The student of the second round is the one with the better score in the first.
    winner = record.winner
    assert winner is record.students[0]
    assert winner.method == "predicted"
    assert (winner.candidate.layers, winner.candidate.heads) in {(4, 2), (4, 1)}
    export = RunDir(runs / winner.run).export("student", "feature-extraction")
    assert (export / "onnx" / "model.onnx").is_file()
    assert record.students[1].failure is None
    # The folder has record, table and picture.
    assert read_record(folder.path / RECORD, TrainedSearch) == record
    page = (folder.path / "search.md").read_text()
    assert "| round |" in page
    assert page.count("within the budget") == 1
    picture = (folder.path / "search.svg").read_text()
    assert "var(" not in picture
    assert picture.startswith("<?xml")

    # Everything is done: the same command trains nothing again.
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/distill.json")}
    assert len(before) == 3
    _, again = trained(recipe, options())
    assert [s.score for s in again.students] == [s.score for s in record.students]
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/distill.json")} == before


def test_a_band_around_the_limit_is_no_proof(recipe: Recipe, runs: Path) -> None:
    band = edgedistil.search(recipe, options()).candidates[0].latency_ms
    settings = options(under=[f"{(band.low + band.high) / 2:.6f}ms"], train=1)
    _, record = trained(recipe, settings)
    if record.winner is None:
        with pytest.raises(GateError, match=r"no trained student meets the budget on rpi4: .* ms"):
            require_winner(record)
    else:
        assert record.winner.candidate.fit == "fits"


def test_masked_lms_are_judged_by_their_held_out_loss(tiny_recipe: Make, runs: Path) -> None:
    recipe = tiny_recipe(student={"dropout": 0.0}, export={"precisions": ["fp32"]})
    _, record = trained(recipe, options(train=1, tokens=2000))
    assert record.metric.startswith("minus the held-out masked-LM loss")
    assert record.students[0].score < 0
    assert record.winner is not None


def test_sizes_of_a_candidate_become_keys_of_the_student(recipe: Recipe) -> None:
    candidate = edgedistil.search(recipe, options()).candidates[-1]
    assert (candidate.layers, candidate.heads, candidate.intermediate) == (1, 1, 44)
    narrow = candidate_recipe(recipe, candidate, (44, 2, candidate.vocabulary), tokens=5000)
    assert narrow.student.layers == [0]
    assert (narrow.student.heads, narrow.student.intermediate, narrow.student.vocabulary) == (
        1, None, None,
    )  # fmt: skip
    assert (narrow.train.tokens, narrow.train.steps) == (5000, None)
    smaller = candidate_recipe(recipe, candidate, (88, 2, 10**5), tokens=5000)
    assert smaller.student.intermediate == 44
    assert smaller.student.vocabulary is not None
    assert smaller.student.vocabulary.size == candidate.vocabulary


def test_a_search_needs_a_token_budget(recipe: Recipe, runs: Path) -> None:
    candidates = edgedistil.search(recipe, options())
    with pytest.raises(InputError, match="--train needs a token budget"):
        edgedistil.train_search(recipe, candidates, options(tokens=None))


def test_a_run_of_a_distillation_is_not_overwritten(recipe: Recipe, runs: Path) -> None:
    candidates = edgedistil.search(recipe, options())
    (runs / "mine").mkdir(parents=True)
    (runs / "mine" / "recipe.toml").touch()
    with pytest.raises(RunError, match="'mine' is the run of a distillation"):
        edgedistil.train_search(recipe, candidates, options(run="mine"))

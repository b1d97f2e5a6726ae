"""Searches over a small BERT: candidates, order, budgets that nothing meets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgedistil.cli import app
from edgedistil.core import model_source
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import load_device
from edgedistil.core.errors import DeviceFileError, GateError, InputError, ModelError
from edgedistil.core.recipe import Recipe, Teacher, parse_recipe
from edgedistil.core.records import Band, write_record
from edgedistil.costmodel.calibration import CONSTANT_FIELDS, Calibration, calibration_path
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, core_family
from edgedistil.report.search_tables import search_table
from edgedistil.search.nearest import flags_that_fit, nearest_candidates
from edgedistil.search.stage import read_teacher_folder, require_candidate, search
from tests.export.families.conftest import CASES, copy_tokenizer, make_model

Make = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> Make:
    """A recipe over a random model of a family."""

    def make(name: str = "bert", **sections: object) -> Recipe:
        folder = tmp_path / name
        make_model(CASES[name], "fill-mask", num_hidden_layers=3).save_pretrained(folder)
        copy_tokenizer(tokenizer_folders[CASES[name].tokenizer], folder)
        data = {
            "name": "small",
            "teacher": {"source": str(folder)},
            "corpus": {"sources": [{"files": "none.txt"}]},
            "train": {"steps": 1},
            **sections,
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
    with pytest.raises(GateError, match=r"no student of .* meets the budget on rpi4") as e:
        require_candidate(record)
    # One candidate of each depth, with what it needs and the limit.
    first, *nearest = e.value.message.split("\n")
    assert first.endswith("; nearest:")
    assert [line.split()[0] for line in nearest] == ["1", "2", "3"]
    assert all(re.search(r"memory \d+(–\d+)? MiB, limit 1.0 MiB", line) for line in nearest)
    assert all("file" in line and "latency" not in line for line in nearest)


def test_the_limits_that_an_error_names_fit(recipe: Make) -> None:
    record = search(recipe(), options(under=["1kB", "0.001ms"], memory="1MB"))
    with pytest.raises(GateError) as error:
        require_candidate(record)
    flags = str(error.value.hint).split(";")[0].split(" with ")[1].split()
    under = [
        value for flag, value in zip(flags[::2], flags[1::2], strict=True) if flag == "--under"
    ]
    assert len(under) == 2
    memory = flags[flags.index("--memory") + 1]
    fits = search(recipe(), options(under=under, memory=memory)).candidates[0]
    assert fits.fit == "fits"


def test_long_times_are_not_rounded_down(recipe: Make) -> None:
    record = search(recipe(), options(under=["1ms", "40MB"]))
    slow = record.candidates[0].model_copy(update={"latency_ms": Band(low=1.0, high=123456.714)})
    assert flags_that_fit(slow, record.budget).split()[:2] == ["--under", "123456.72ms"]
    seconds = slow.model_copy(update={"latency_ms": Band(low=1.0, high=2_000_000.0)})
    assert flags_that_fit(seconds, record.budget).split()[:2] == ["--under", "2000000ms"]


def test_sizes_are_those_of_the_recipes_revision(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(recipe().teacher.source)
    # The hub, which is not reachable from tests.
    revisions = {"v1": folder}
    monkeypatch.setattr(
        model_source, "find_model_folder", lambda source, *, revision: revisions[revision]
    )
    teacher = Teacher(source="owner/model", revision="v1")
    assert read_teacher_folder(teacher).folder == folder


def test_candidates_of_one_depth_differ_in_their_width(recipe: Make) -> None:
    record = search(recipe(), options(under=["1kB"], keep=["layers", "vocabulary"]))
    assert {c.layers for c in record.candidates} == {2}
    nearest = nearest_candidates(record.candidates)
    widths = [c.intermediate for c in nearest]
    assert len(set(widths)) == len(widths) > 0


def test_the_table_has_no_two_candidates_with_the_same_needs(recipe: Make) -> None:
    table = search_table(search(recipe(), options(under=["0.001ms"])))
    verdicts = [row[table.columns.index("verdict")] for row in table.rows]
    assert len(set(verdicts)) == len(verdicts) > 1


def test_the_recipes_own_student_is_a_candidate_and_described(recipe: Make) -> None:
    checked = recipe(student={"layers": [0, 2], "intermediate": 33, "heads": 1})
    record = search(checked, options())
    own = [c for c in record.candidates if (c.layers, c.intermediate, c.heads) == (2, 33, 1)]
    assert {c.precision for c in own} == {"fp32", "int8"}
    assert len({c.intermediate for c in record.candidates}) > 1
    notes = " ".join(search_table(record).notes)
    assert "own student (2 layers, feed-forward 33, 1 heads" not in notes
    assert "own student (2 layers, feed-forward 33, 1 head, " in notes
    assert "fits in int8" in notes


def test_sizes_of_the_recipe_are_kept_on_request(recipe: Make) -> None:
    checked = recipe(student={"layers": [0, 2], "intermediate": 33})
    record = search(checked, options(keep=["layers", "intermediate"]))
    assert {(c.layers, c.intermediate) for c in record.candidates} == {(2, 33)}
    assert len({c.heads for c in record.candidates}) == 2
    assert "all candidates have its layers, intermediate" in " ".join(search_table(record).notes)


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        ({"layers": [0, 3]}, r"student.layers is \[0, 3\]: the teacher has no layer 3; .* 0 to 2"),
        ({"heads": 9}, r"student.heads is 9; expected 1 to \d+ with this teacher"),
        ({"intermediate": 5000}, r"student.intermediate is 5000; expected 1 to \d+"),
        ({"vocabulary": {"size": 2}}, r"student.vocabulary.size is 2; expected \d+ to"),
    ],
)
def test_sizes_that_the_teacher_cannot_give_are_refused(
    student: dict[str, object], problem: str, recipe: Make
) -> None:
    with pytest.raises(InputError, match=problem):
        search(recipe(student=student), options())


def test_a_vocabulary_by_coverage_has_no_size_to_keep(recipe: Make) -> None:
    checked = recipe(student={"vocabulary": {"coverage": 0.99}})
    search(checked, options())
    with pytest.raises(InputError, match=r"--keep vocabulary: .*coverage is 0.99"):
        search(checked, options(keep=["vocabulary"]))


def test_word_embeddings_are_factorised_where_the_objective_allows_it(recipe: Make) -> None:
    assert {c.embedding for c in search(recipe(), options()).candidates} == {None}
    checked = recipe(objective={"kind": "representation"})
    record = search(checked, options())
    (width,) = {c.embedding for c in record.candidates} - {None}
    full = next(c for c in record.candidates if c.embedding is None)
    narrow = next(c for c in record.candidates if c.embedding == width)
    assert (full.layers, full.heads) == (narrow.layers, narrow.heads)
    assert full.vocabulary == narrow.vocabulary
    assert narrow.parameters < full.parameters
    rows = [row[3] for row in search_table(record).rows]
    assert any(cell.endswith(f"× {width}") for cell in rows)
    own = recipe(objective={"kind": "representation"}, student={"embedding": 5})
    fixed = search(own, options(keep=["embedding"]))
    assert {c.embedding for c in fixed.candidates} == {5}


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
        ({"embedding": 16}, 'student.embedding is 16 and objective.kind is "mlm"'),
    ],
)
def test_students_that_cannot_be_searched_are_refused(
    student: dict[str, object], problem: str, recipe: Make
) -> None:
    checked = recipe(student=student, objective={"kind": "mlm"})
    with pytest.raises(InputError, match=problem):
        search(checked, options())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": 5000}, "--tokens is 5000 without --train: nothing would use it"),
        ({"run": "mine"}, "--run is mine without --train: nothing would use it"),
        ({"ssh": "pi@board"}, "--ssh is pi@board without --measure or --train"),
        ({"bootstrap": True, "measure": 1}, "--bootstrap without --ssh: nothing"),
        ({"ssh": "pi@board", "measure": 1, "device": "host"}, "--device is host, which is this"),
    ],
)
def test_an_option_that_nothing_would_use_is_refused(
    changes: dict[str, object], problem: str, recipe: Make
) -> None:
    with pytest.raises(InputError, match=problem):
        search(recipe(), options(**changes))


def test_a_calibrated_device_has_its_own_times(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`profile --calibrate` is for later predictions, and a search is one."""
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "cache"))
    before = search(recipe(), options())
    constants = ONNXRUNTIME_CONSTANTS[core_family(load_device("rpi4"))]
    calibration = Calibration(
        device="rpi4",
        constants={name: getattr(constants, name) for name in CONSTANT_FIELDS},
        spread=1.15,
        spread_origin="test",
        scaling_origin=None,
        origin="calibrated on pi@board",
        runs=9,
        largest_error=0.01,
    )
    write_record(calibration_path("rpi4"), calibration)
    after = search(recipe(), options())
    assert after.calibration == "calibrated on pi@board"
    widths = [c.latency_ms.high / c.latency_ms.low for c in (*before.candidates, *after.candidates)]
    assert min(widths[: len(before.candidates)]) > 1.2 > max(widths[len(before.candidates) :])

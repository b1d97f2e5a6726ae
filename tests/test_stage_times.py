"""The list of stages with their times, and what is left before each of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import edgedistil
from edgedistil import pipeline, stage_estimates, stage_times
from edgedistil.core.errors import Interrupted, ModelError, RunError
from edgedistil.core.recipe import Recipe, load_recipe, write_recipe
from edgedistil.core.records import NotMeasured
from edgedistil.core.rundir import RunDir
from edgedistil.distill.plan.estimate import UnknownSizeError
from edgedistil.distill.train import Trainer
from edgedistil.stage_estimates import estimate_evaluation, estimate_export, estimate_profile
from edgedistil.stage_times import Countdown, StageTime, last_time
from tests.distill.sentences import sentence_teacher

Make = Callable[..., Recipe]
UNKNOWN = NotMeasured(not_measured="unknown: never run here with these settings")


@pytest.fixture(autouse=True)
def _own_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of one test are not those of another."""
    monkeypatch.setattr(stage_times, "cache_root", lambda: tmp_path / "times")


def test_stages_are_listed_and_counted_down(
    tiny_recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [
        StageTime("distill", 200.0, "from timed steps"),
        StageTime("evaluate", 40.0, "as the last time here"),
        StageTime("profile", UNKNOWN),
    ]
    countdown = Countdown(tiny_recipe(), times)
    countdown.announce()
    listed = capsys.readouterr().err.splitlines()
    assert listed[1:] == [
        "  distill: about 3.3 min (from timed steps)",
        "  evaluate: about 40 s (as the last time here)",
        "  profile: unknown: never run here with these settings",
        "  in all: about 4.0 min, and profile (unknown)",
    ]
    for name in ("distill", "evaluate", "export", "profile"):
        with countdown.stage(name):
            pass
    # The export was done before, so the countdown does not have it.
    assert capsys.readouterr().err.splitlines() == [
        "stage 1 of 3: distill; left in all: about 4.0 min, and profile (unknown)",
        "stage 2 of 3: evaluate; left in all: about 40 s, and profile (unknown)",
        "stage 3 of 3: profile; left in all: profile (unknown)",
    ]


def test_nothing_is_announced_if_all_stages_are_done(
    tiny_recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    Countdown(tiny_recipe(), []).announce()
    assert capsys.readouterr().err == ""


def test_a_stage_takes_as_long_as_the_last_time_with_the_same_settings(tiny_recipe: Make) -> None:
    recipe = tiny_recipe()
    assert last_time("export", recipe).seconds == UNKNOWN
    with Countdown(recipe, [StageTime("export", UNKNOWN)]).stage("export"):
        pass
    known = last_time("export", recipe)
    assert isinstance(known.seconds, float)
    assert known.how == "as the last time here"
    assert last_time("export", tiny_recipe(export={"precisions": ["fp32"]})).seconds == UNKNOWN
    assert last_time("export", tiny_recipe(student={"layers": [0]})).seconds == UNKNOWN


def test_a_time_belongs_to_all_that_it_depends_on(
    tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile depends on the number of exported files, all stages on the objective."""
    recipe = tiny_recipe()
    stages = ("evaluate", "export", "profile")
    for stage in stages:
        with Countdown(recipe, [StageTime(stage, UNKNOWN)]).stage(stage):
            pass

    def known(recipe: Recipe) -> list[str]:
        return [stage for stage in stages if last_time(stage, recipe).seconds != UNKNOWN]

    assert known(recipe) == known(tiny_recipe(seed=57)) == list(stages)
    assert known(tiny_recipe(export={"precisions": ["fp32"]})) == ["evaluate"]
    assert known(tiny_recipe(profile={"lengths": [16]})) == ["evaluate", "export"]
    assert known(tiny_recipe(objective={"kind": "representation"})) == []
    (tmp_path / "0000:19:00.0").mkdir()
    information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 17\n"
    (tmp_path / "0000:19:00.0" / "information").write_text(information)
    monkeypatch.setattr(stage_times, "_GPUS", tmp_path)
    assert [line.split() for line in stage_times._gpu_names()] == [["Model:", "NVIDIA", "H200"]]
    assert known(recipe) == []


def test_a_stage_that_failed_leaves_no_time(tiny_recipe: Make) -> None:
    recipe = tiny_recipe()
    with (
        pytest.raises(ZeroDivisionError),
        Countdown(recipe, [StageTime("export", UNKNOWN)]).stage("export"),
    ):
        _ = 1 / 0
    assert last_time("export", recipe).seconds == UNKNOWN


def test_a_corrupt_time_is_unknown(tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    with Countdown(recipe, [StageTime("export", UNKNOWN)]).stage("export"):
        pass
    [file] = (tmp_path / "times" / "stage-times").iterdir()
    file.write_text("{")
    seconds = last_time("export", recipe).seconds
    assert isinstance(seconds, NotMeasured)
    assert "is corrupt" in seconds.not_measured


def test_the_rest_of_a_stage_leaves_no_time(tiny_recipe: Make) -> None:
    recipe = tiny_recipe()
    with Countdown(recipe, [StageTime("evaluate", UNKNOWN)]).stage("evaluate", is_resumed=True):
        pass
    assert last_time("evaluate", recipe).seconds == UNKNOWN


def test_a_time_that_cannot_be_stored_does_not_end_a_run(tiny_recipe: Make, tmp_path: Path) -> None:
    (tmp_path / "times").touch()
    recipe = tiny_recipe()
    with Countdown(recipe, [StageTime("export", UNKNOWN)]).stage("export"):
        pass
    assert last_time("export", recipe).seconds == UNKNOWN


def test_labelled_tasks_are_unknown_before_the_first_run(tiny_recipe: Make, runs: Path) -> None:
    recipe = tiny_recipe(evaluate={"tasks": ["sentiment"]})
    assert estimate_evaluation(recipe, RunDir(runs / "none"), None).seconds == UNKNOWN


def test_search_quality_is_estimated_from_encoded_texts(
    tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path, runs: Path
) -> None:
    collection = tmp_path / "beir"
    (collection / "qrels").mkdir(parents=True)
    lines = [f'{{"_id": "{i}", "title": "", "text": "worda1 wordb{i % 9}"}}' for i in range(50)]
    (collection / "corpus.jsonl").write_text("\n".join(lines))
    (collection / "queries.jsonl").write_text('{"_id": "q", "text": "worda1"}')
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    folder = sentence_teacher(tiny_teacher, tmp_path / "sentences")
    recipe = tiny_recipe(teacher={"source": str(folder)}, evaluate={"tasks": [str(collection)]})
    run = RunDir(runs / "small")
    distillation, planned = stage_estimates.estimate_distillation(recipe, run)
    assert isinstance(distillation.seconds, float)
    assert distillation.how == "from timed steps"
    expected = estimate_evaluation(recipe, run, planned)
    assert isinstance(expected.seconds, float)
    assert expected.how == "from 48 encoded texts"
    # Half of the steps are done.
    assert planned is not None
    (run.checkpoints / "step-00000005").mkdir(parents=True)
    (run.checkpoints / ".step-00000009").mkdir()
    resumed, _ = stage_estimates.estimate_distillation(recipe, run)
    assert resumed.how == "from timed steps, 45% is done"


def test_export_and_profile_are_estimated_from_the_speed_of_this_machine(
    tiny_recipe: Make,
    tiny_teacher: Path,
    tmp_path: Path,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = sentence_teacher(tiny_teacher, tmp_path / "sentences")
    run = RunDir(runs / "small")
    # Measured for real by the run below.
    speed = stage_estimates.Speed(process=0.1, text=0.004, text_alone=0.006)
    monkeypatch.setattr(stage_estimates, "time_machine", lambda folder: speed)

    def both(**sections: object) -> tuple[float, float]:
        # The depths come from the plan.
        recipe = tiny_recipe(**{"teacher": {"source": str(folder)}, **sections})
        distillation, planned = stage_estimates.estimate_distillation(recipe, run)
        assert planned is not None, distillation
        times = [estimate(recipe, run, planned) for estimate in (estimate_export, estimate_profile)]
        export, profile = (time.seconds for time in times)
        assert isinstance(export, float)
        assert isinstance(profile, float)
        return export, profile

    export, profile = both(export={"precisions": ["fp32", "int8"]}, profile={"threads": [1]})
    fewer_files = both(export={"precisions": ["fp32"]}, profile={"threads": [1]})
    assert fewer_files[0] < export
    assert fewer_files[1] < profile
    # An MLM head makes a second artefact of every file.
    with_head = {"source": str(tiny_teacher)}
    assert both(teacher=with_head, export={"precisions": ["fp32", "int8"]})[0] > 1.5 * export
    # The time of a case and of a pass has a limit, so a second thread count adds a share.
    more_counts = both(export={"precisions": ["fp32", "int8"]}, profile={"threads": [1, 2]})
    assert profile < more_counts[1]
    predicted = both(export={"precisions": ["fp32", "int8"]}, profile={"devices": ["rpi4"]})
    assert predicted[1] < 0.5 * profile


@pytest.mark.parametrize(
    ("objective", "fits_head", "models", "size", "expected"),
    [
        # The undistilled student is always evaluated, and the teacher is the reference.
        ("mlm", False, ["teacher", "student-step0", "student"], None, 1 + 2 * 0.5),
        ("mlm", False, ["student-step0"], None, 1 + 0.5),
        ("mlm", False, ["student", "/a/folder"], None, 2 + 2 * 0.5),
        ("mlm", False, ["student"], 60, 2 + 2 * 0.5),
        # With a fitted head the reference is the teacher as given.
        ("mlm", True, ["teacher", "student"], None, 2 + 2 * 0.5),
    ],
)
def test_an_evaluation_counts_its_models(
    objective: str,
    fits_head: bool,
    models: list[str],
    size: int | None,
    expected: float,
    tiny_recipe: Make,
) -> None:
    student = {} if size is None else {"vocabulary": {"size": size}}
    recipe = tiny_recipe(evaluate={"models": models}, student=student)
    planned = stage_estimates._PlannedModels(2, 4, objective, fits_head)
    assert stage_estimates._evaluated_passes(recipe, planned) == expected


@pytest.mark.parametrize(("objective", "count"), [("mlm", 6), ("representation", 3)])
def test_a_fill_mask_file_belongs_to_the_objective_mlm(
    objective: str, count: int, tiny_recipe: Make
) -> None:
    """Whatever objective.kind is: `auto` may be either of them."""
    recipe = tiny_recipe(export={"precisions": ["fp32", "int8"]})
    planned = stage_estimates._PlannedModels(2, 4, objective, fits_head=False)
    assert len(stage_estimates._files(recipe, planned)) == count


def test_the_record_of_a_distillation_has_its_models(tiny_recipe: Make, runs: Path) -> None:
    run, _ = edgedistil.distill(tiny_recipe(train={"steps": 1}), run="mine")
    models = stage_estimates._planned_models(run, None)
    assert models == stage_estimates._PlannedModels(2, 4, "mlm", fits_head=False)


def test_a_head_that_is_fitted_first_is_not_in_the_time(
    tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path, runs: Path
) -> None:
    folder = sentence_teacher(tiny_teacher, tmp_path / "sentences")
    recipe = tiny_recipe(teacher={"source": str(folder), "mlm_head": "fit"})
    expected, planned = stage_estimates.estimate_distillation(recipe, RunDir(runs / "small"))
    assert expected.how == "from timed steps, without fitting the MLM head, once"
    assert planned is not None
    assert (planned.objective, planned.fits_head) == ("mlm", True)


def test_without_depths_export_and_profile_are_unknown(tiny_recipe: Make, runs: Path) -> None:
    for estimate in (estimate_export, estimate_profile):
        assert estimate(tiny_recipe(), RunDir(runs / "none"), None).seconds == UNKNOWN


def test_a_recipe_that_does_not_fit_ends_before_a_list_of_times(
    tiny_recipe: Make, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="the teacher has no layer 9"):
        pipeline.run_all(tiny_recipe(student={"layers": [9]}), run_name="mine")
    assert "stages and their times" not in capsys.readouterr().err
    assert not (runs / "mine").exists()


def test_without_the_size_of_a_corpus_the_time_is_unknown(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UnknownSizeError("the size of data set 'x' is unknown")

    module = import_module("edgedistil.distill.plan.plan")
    monkeypatch.setattr(module, "plan", refuse)
    expected, planned = stage_estimates.estimate_distillation(tiny_recipe(), RunDir(runs / "mine"))
    assert planned is None
    assert isinstance(expected.seconds, NotMeasured)
    assert "the size of data set 'x' is unknown" in expected.seconds.not_measured


def test_a_run_counts_only_the_stages_that_are_left(
    tiny_recipe: Make,
    tiny_teacher: Path,
    tmp_path: Path,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Real distillation and export; the other stages need minutes, and only their order counts.
    monkeypatch.setattr(pipeline, "_evaluate", lambda run, recipe: None)
    monkeypatch.setattr(pipeline, "_profile", lambda run, recipe: None)
    recipe = tiny_recipe(train={"steps": 2}, export={"precisions": ["fp32"]})
    pipeline.run_all(recipe)
    first = capsys.readouterr().err
    assert re.search(r"^  distill: about \d+ s \(from timed steps\)$", first, re.MULTILINE)
    rough = r"\(roughly, from 24 encoded texts and 3 started processes\)"
    assert re.search(rf"^  export: about \d+ s {rough}$", first, re.MULTILINE)
    assert "stage 4 of 4: profile; left in all: about " in first

    changed = recipe.model_copy(
        update={"profile": recipe.profile.model_copy(update={"lengths": [16]})}
    )
    pipeline.run_all(changed)
    second = capsys.readouterr().err
    assert "stage 1 of 1: profile; left in all: about " in second
    assert "stage 2" not in second
    assert second.count("recipe changes that do not affect the result: profile.lengths") == 1

    # Another run of the same recipe knows how long its stages take.
    pipeline.run_all(recipe, run_name="again")
    third = capsys.readouterr().err
    assert re.search(r"^  export: about \d+ s \(as the last time here\)$", third, re.MULTILINE)
    assert "unknown" not in third

    # A part of an evaluation says nothing about the time of all of it.
    for file in (tmp_path / "times" / "stage-times").iterdir():
        file.unlink()
    other = tiny_recipe(train={"steps": 2}, export={"precisions": ["fp32"]}, evaluate={"seeds": 2})
    RunDir(runs / "again").cells.mkdir(parents=True)
    pipeline.run_all(other, run_name="again")
    assert last_time("evaluate", other).seconds == UNKNOWN


def test_another_recipe_is_refused_before_anything_is_timed(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe()
    write_recipe(RunDir(runs / "small").recipe, recipe)
    monkeypatch.setattr(pipeline, "estimate_distillation", lambda *_: pytest.fail("timed"))
    with pytest.raises(RunError, match=r"loss\.mlm"):
        pipeline.run_all(tiny_recipe(loss={"mlm": 1.0}))


def test_an_interrupted_run_names_the_command_that_continues_it(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(run: RunDir, recipe: Recipe) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_evaluate", interrupt)
    recipe = tiny_recipe(train={"steps": 1}, export={"precisions": ["fp32"]})
    with pytest.raises(Interrupted) as caught:
        pipeline.run_all(recipe, run_name="mine")
    path = runs / "mine" / "recipe.toml"
    assert caught.value.hint == f"continue the run with: edgedistil run {path} --run mine"

    # The command works: its recipe is that of the run, and the distillation is not repeated.
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("distilled again"))
    with pytest.raises(Interrupted):
        pipeline.run_all(load_recipe(path), run_name="mine")


def test_a_run_continues_without_its_teachers_folder(
    tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path, runs: Path
) -> None:
    """The run has a copy."""
    folder = tmp_path / "copied"
    shutil.copytree(tiny_teacher, folder)
    recipe = tiny_recipe(teacher={"source": str(folder)}, train={"steps": 1})
    run, _ = edgedistil.distill(recipe, run="mine")
    shutil.rmtree(folder)
    _, planned = stage_estimates.estimate_distillation(recipe, run)
    assert planned is not None
    for estimate in (estimate_export, estimate_profile):
        assert isinstance(estimate(recipe, run, planned).seconds, float)


def test_an_evaluation_without_a_teacher_is_unknown(
    tiny_recipe: Make, tmp_path: Path, runs: Path
) -> None:
    _, planned = stage_estimates.estimate_distillation(tiny_recipe(), RunDir(runs / "mine"))
    recipe = tiny_recipe(
        teacher={"source": str(tmp_path / "nothing")}, evaluate={"tasks": ["retrieval"]}
    )
    expected = estimate_evaluation(recipe, RunDir(runs / "mine"), planned)
    assert isinstance(expected.seconds, NotMeasured)
    assert "no model" in expected.seconds.not_measured


def test_an_interrupted_distillation_continues_with_all_stages(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(run: RunDir, recipe: Recipe, *, resume: bool) -> None:
        run.path.mkdir(parents=True)
        write_recipe(run.recipe, recipe)
        raise Interrupted("interrupted after step 1 of 2", hint="resume with: edgedistil distill")

    monkeypatch.setattr(pipeline, "_distill", interrupt)
    monkeypatch.setattr(pipeline, "_expected_times", lambda *_: [StageTime("distill", 1.0)])
    with pytest.raises(Interrupted, match="after step 1 of 2") as caught:
        pipeline.run_all(tiny_recipe(), run_name="mine")
    assert str(caught.value.hint).startswith("continue the run with: edgedistil run ")


def test_an_interrupted_estimate_of_a_run_names_the_command_that_continues_it(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_expected_times", interrupt)
    recipe = tiny_recipe()
    # Nothing was begun, so there is nothing to continue.
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_all(recipe, run_name="mine")
    run = RunDir(runs / "mine")
    run.path.mkdir(parents=True)
    write_recipe(run.recipe, recipe)
    with pytest.raises(Interrupted) as caught:
        pipeline.run_all(recipe, run_name="mine")
    assert str(caught.value.hint).startswith("continue the run with: edgedistil run ")

"""Plan and trial time the losses of the run: the same models, and the teacher as often."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel

from edgedistil.core.recipe import FitHead, Loss, Recipe
from edgedistil.core.rundir import RunDir
from edgedistil.distill import learning, precision_trial, stage
from edgedistil.distill.answers_stage import answer
from edgedistil.distill.distributed import build_accelerator, process_group
from edgedistil.distill.initialize import prepare_run
from edgedistil.distill.mlm_objective import MlmObjective
from edgedistil.distill.plan import plan as plan_module
from edgedistil.distill.plan.flops import ModelShape, flops_per_token, gpu_memory_bytes
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.plan.reuse import ReadText, teacher_reuse
from edgedistil.distill.plan.timing import TimedObjective
from edgedistil.distill.precision_trial import TriedShape, try_precisions
from edgedistil.distill.representation import RepresentationObjective
from edgedistil.distill.run_objective import has_other_encoder
from edgedistil.distill.setup import build_student
from edgedistil.models.teacher import read_teacher
from tests.distill.sentences import sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]
VECTORS = {"states": 0.0, "similarity": 1.0}


@pytest.fixture
def sentences(tiny_teacher: Path, tmp_path: Path) -> Path:
    return sentence_teacher(tiny_teacher, tmp_path / "sentences")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, runs: Path) -> Callable[[Recipe], Any]:
    """Returns the plan of a recipe, and what it timed."""

    def run(recipe: Recipe) -> tuple[Any, TimedObjective]:
        timed: list[TimedObjective] = []
        real = plan_module.plan_here

        def recorded(objective: TimedObjective, *args: Any, **keywords: Any) -> Any:
            timed.append(objective)
            return real(objective, *args, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(plan_module, "plan_here", recorded)
            record = plan(recipe, max_micro_batch_s=0.1)
        return record, timed[0]

    return run


def tried(recipe: Recipe, runs: Path) -> TimedObjective:
    """The losses that a trial of float32 times."""
    run = RunDir(runs / "tried")
    run.path.mkdir(parents=True)
    with process_group() as state:
        prepared = prepare_run(recipe, run, state)
        return learning.trial_objective(recipe, prepared, "float32", rows=7)


def looped(recipe: Recipe, runs: Path) -> Any:
    """The losses of the loop."""
    run = RunDir(runs / "looped")
    run.path.mkdir(parents=True)
    with process_group() as state:
        prepared = prepare_run(recipe, run, state)
        accelerator = build_accelerator(
            "float32", trackers=[], folder=run.path, unused_parameters=False
        )
        opened = learning.open_learning(
            recipe, prepared, accelerator=accelerator, precision="float32", device=state.device
        )
        return opened.objective


# --- a teacher whose encoder was trained with its head -------------------------------------------


@pytest.mark.parametrize("encoder_rate", [0.0, 0.05])
def test_the_teacher_as_given_is_timed_where_the_run_reads_it(
    encoder_rate: float,
    tiny_recipe: Make,
    tiny_teacher: Path,
    tmp_path: Path,
    runs: Path,
    planned: Callable[[Recipe], Any],
) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(tiny_teacher, headless)
    BertModel.from_pretrained(tiny_teacher).save_pretrained(headless)
    fit = {"steps": 3, "encoder_rate": encoder_rate}
    recipe = tiny_recipe(teacher={"source": str(headless), "mlm_head": "fit", "fit": fit})
    record, timed = planned(recipe)
    assert record.fits_head and record.objective == "mlm"
    for objective in (looped(recipe, runs), tried(recipe, runs).objective, timed.objective):
        assert isinstance(objective, MlmObjective)
        assert (objective.original is not None) is (encoder_rate > 0)


def test_the_encoder_differs_only_if_it_was_trained() -> None:
    trained, frozen = FitHead(encoder_rate=0.05), FitHead()
    assert has_other_encoder(trained, is_fitted=True)
    assert not has_other_encoder(trained, is_fitted=False)
    assert not has_other_encoder(frozen, is_fitted=True)


def test_gpus_are_planned_with_the_teacher_as_given_and_the_share_of_the_teacher(
    tiny_teacher: Path,
) -> None:
    shape = ModelShape.of(read_teacher(tiny_teacher, name="tiny").model)

    def flops(loss: Loss | None, **settings: Any) -> float:
        return flops_per_token(shape, shape, length=23, masked_share=0.15, loss=loss, **settings)

    encoder = shape.encoder_flops(23)
    assert flops(Loss(), has_original=True) - flops(Loss()) == pytest.approx(encoder)
    without_cosine = Loss(cosine=0.0)
    assert flops(without_cosine, has_original=True) == flops(without_cosine)
    assert flops(None) - flops(None, teacher_share=0.25) == pytest.approx(0.75 * encoder)
    one, two = (
        gpu_memory_bytes(shape, shape, micro_batch=3, length=23, teachers=count) for count in (1, 2)
    )
    assert two - one == 2 * shape.parameters


# --- vectors of a file, and vectors that are reused ----------------------------------------------


def test_with_vectors_of_a_file_the_teacher_is_not_timed(
    tiny_recipe: Make,
    sentences: Path,
    tmp_path: Path,
    runs: Path,
    planned: Callable[[Recipe], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "answers.jsonl"
    answer(sentence_recipe(tiny_recipe, sentences, objective=VECTORS), file)
    teacher = {"source": str(sentences), "answers": str(file)}
    recipe = sentence_recipe(tiny_recipe, sentences, objective=VECTORS, teacher=teacher)
    monkeypatch.setattr(
        RepresentationObjective, "teacher_states", lambda *_: pytest.fail("the teacher was run")
    )
    record, timed = planned(recipe)
    assert "the vectors of teacher.answers are read; the teacher is not run" in record.notes
    assert not any("encodes each text" in note for note in record.notes)
    assert timed.teach is None
    trial = tried(recipe, runs)
    assert trial.teach is None
    shape = TriedShape(7, 23, 0.15)
    times = try_precisions(lambda precision: trial, shape, seconds=0.0)
    assert min(times.values()) > 0


@pytest.mark.parametrize(
    ("length", "share"),
    [({"epochs": 4}, 0.25), ({"epochs": None, "steps": 2}, 1.0)],
)
def test_the_teacher_is_timed_for_the_share_that_it_computes(
    length: dict[str, Any],
    share: float,
    tiny_recipe: Make,
    sentences: Path,
    runs: Path,
    planned: Callable[[Recipe], Any],
) -> None:
    """Also a run of less than a pass: it does not compute more than each step has."""
    train = {"steps": None, "global_batch": 60, "micro_batch": 15, **length}
    recipe = sentence_recipe(tiny_recipe, sentences, objective=VECTORS, train=train)
    _, timed = planned(recipe)
    for entry in (timed, tried(recipe, runs)):
        assert entry.teacher_share == pytest.approx(share, rel=0.05)
        assert (entry.teach is None) is (share == 1.0)


def test_cached_states_are_a_part_of_the_trial(
    tiny_recipe: Make, sentences: Path, runs: Path
) -> None:
    train = {"steps": None, "epochs": 4, "global_batch": 60, "micro_batch": 15}
    recipe = sentence_recipe(tiny_recipe, sentences, train=train)
    trial = tried(recipe, runs)
    assert trial.teacher_share == pytest.approx(0.25, rel=0.05)
    assert trial.teach is not None


def test_the_share_of_the_teacher_decides_which_precision_is_faster(
    tiny_recipe: Make, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe()
    teacher = read_teacher(tiny_teacher, name="tiny").model
    student = build_student(recipe.student, teacher, seed=3)
    objective = MlmObjective(student, teacher, recipe.loss)
    # bfloat16 gains with the teacher, and loses with the student.
    passes, part = {"bfloat16": 1.0, "float32": 1.2}, {"bfloat16": 0.3, "float32": 0.8}
    monkeypatch.setattr(precision_trial, "_pass_seconds", lambda o, precision, b: passes[precision])
    monkeypatch.setattr(
        precision_trial, "_teacher_seconds", lambda o, precision, b: part[precision]
    )

    def times(share: float) -> dict[Any, float]:
        timed = TimedObjective(objective, lambda batch: None, share)
        return try_precisions(lambda precision: timed, TriedShape(6, 23, 0.15), seconds=0.0)

    assert times(1.0) == pytest.approx(passes)
    assert times(0.25) == pytest.approx({"bfloat16": 0.775, "float32": 0.6})


@pytest.mark.parametrize(
    ("passes", "rows", "processes", "share", "words"),
    [
        (4.0, 1000, 1, 0.25, "encodes each text once"),
        # Each process encodes all texts.
        (4.0, 1000, 2, 0.5, "encodes each text once"),
        (4.0, 1000, 8, 1.0, None),
        (0.5, 1000, 1, 1.0, None),
        (4.0, 2**30, 1, 1.0, "each time: its vectors would take 76.0 GiB of memory"),
    ],
)
def test_vectors_are_reused_where_that_saves_work(
    passes: float,
    rows: int,
    processes: int,
    share: float,
    words: str | None,
    tiny_recipe: Make,
    sentences: Path,
) -> None:
    recipe = sentence_recipe(tiny_recipe, sentences, objective=VECTORS)
    reuse = teacher_reuse(
        recipe,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        ReadText(tokens=20 * rows, rows=rows, passes=passes),
        dimension=19,
        dtype=torch.float32,
        device=torch.device("cpu"),
        processes=processes,
    )
    assert reuse.teacher_share == share
    assert reuse.note is None if words is None else words in str(reuse.note)


# --- what is left out ----------------------------------------------------------------------------


def test_plan_and_trial_say_that_they_do_not_compile(
    tiny_recipe: Make,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    planned: Callable[[Recipe], Any],
) -> None:
    recipe = tiny_recipe(train={"compile": True, "precision": "auto"})
    record, _ = planned(recipe)
    assert "train.compile is true; the times here are those without it" in record.notes
    assert not any("train.compile" in note for note in planned(tiny_recipe())[0].notes)

    monkeypatch.setattr(stage, "has_choice", lambda device: True)
    monkeypatch.setattr(
        stage, "try_precisions", lambda build, shape: {"bfloat16": 0.2, "float32": 0.1}
    )
    run = RunDir(runs / "tried")
    run.path.mkdir(parents=True)
    with process_group() as state:
        stage._run_precision(recipe, run, prepare_run(recipe, run, state), state)
    assert "100 ms in float32 (without train.compile)" in capsys.readouterr().err
    assert json.loads((run.path / stage.PRECISION_FILE).read_text())["precision"] == "float32"

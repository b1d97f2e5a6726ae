"""One small run of every family that teaches: teacher, steps, held-out figures, saved student."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES as ALL_FAMILIES
from edgedistil.core.recipe import Loss, Recipe
from edgedistil.core.task import ENCODER_TASK, Task
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.distill.mlm_objective import MlmObjective
from edgedistil.distill.plan import timing
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.plan.timing import RandomBatches
from edgedistil.distill.stage import distill
from edgedistil.models.fast.encoder import freeze_teacher, why_family_is_plain
from edgedistil.models.student import StudentOptions, make_student
from tests.export.families.conftest import CASES, HEADS, VOCABULARY, make_model

FAMILIES = [name for name in ALL_FAMILIES if name != "bert"]
Make = Callable[..., Recipe]
TeacherFolder = Callable[[str], Path]


@pytest.fixture
def teacher_folder(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> TeacherFolder:
    """Saves a random teacher of a family with a tokenizer of its kind."""

    return lambda name: _save_teacher(name, "fill-mask", tmp_path / name, tokenizer_folders)


@pytest.fixture
def encoder_folder(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> TeacherFolder:
    """The same without an MLM head."""
    return lambda name: _save_teacher(name, ENCODER_TASK, tmp_path / name, tokenizer_folders)


def _save_teacher(name: str, task: Task, folder: Path, tokenizer_folders: dict[str, Path]) -> Path:
    make_model(CASES[name], task, num_hidden_layers=3).save_pretrained(folder)
    source = tokenizer_folders[CASES[name].tokenizer]
    for file in TOKENIZER_FILES:
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_of_two_steps_trains_a_student_of_the_teachers_class(
    name: str, teacher_folder: TeacherFolder, tiny_recipe: Make, runs: Path
) -> None:
    folder = teacher_folder(name)
    recipe = tiny_recipe(teacher={"source": str(folder)}, train={"steps": 2})
    run, record = distill(recipe, run_name=name, resume=False)
    assert (record.teacher.model_type, record.student.model_type) == (name, name)
    assert record.layer_map == [0, 2]
    steps = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    losses = [entry["loss"] for entry in steps if entry["kind"] == "train"]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    # The teacher is evaluated too, and agrees with itself.
    assert [h.agreement for h in record.heldout if h.model == "teacher"] == [1.0]

    student = AutoModelForMaskedLM.from_pretrained(run.student)
    assert student.config.num_hidden_layers == 2
    text = "The export writes a graph."
    ours, theirs = read_tokenizer(run.student), read_tokenizer(folder)
    assert ours.encode_framed([text], 64) == theirs.encode_framed([text], 64)


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_the_loss_in_16_bits_is_that_of_float32(name: str) -> None:
    teacher = make_model(CASES[name], "fill-mask").requires_grad_(True)
    student = make_student(teacher, layer_map=[0, 1], options=StudentOptions(dropout=0.0))
    batch = RandomBatches(31, VOCABULARY, 0.15, torch.device("cpu")).draw(3)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        frozen = freeze_teacher(copy.deepcopy(teacher), dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            total, _ = MlmObjective(student, frozen, Loss())(batch, batch.counts)
        total.backward()
        losses.append(float(total.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("roberta", "the fast CPU engine: its layers are BERT's or DistilBERT's"),
        ("albert", "transformers' own forward pass: its layers share their weights"),
    ],
)
def test_a_plan_says_which_engine_runs_and_what_fewer_layers_save(
    name: str,
    engine: str,
    teacher_folder: TeacherFolder,
    tiny_recipe: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "_REPEATS", 1)
    monkeypatch.setattr(timing, "_MAX_MICRO_BATCH_S", 0.0)
    record = plan(tiny_recipe(teacher={"source": str(teacher_folder(name))}))
    assert f"the student, a {name}, runs in {engine}" in record.notes
    shared = [note for note in record.notes if "share their weights" in note]
    assert bool(shared) == (name == "albert")
    is_equal = record.teacher.parameters == record.student.parameters
    assert is_equal == (name == "albert")


WITH_RELATIONS = {name for name in ALL_FAMILIES if why_family_is_plain(ALL_FAMILIES[name]) is None}


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_a_teacher_without_a_head_teaches_vectors_and_states(
    name: str, encoder_folder: TeacherFolder, tiny_recipe: Make, runs: Path
) -> None:
    losses = {"similarity": 1.0, "layers": 1.0}
    if name in WITH_RELATIONS:
        losses |= {"relations": 1.0, "relation_heads": HEADS}
    recipe = tiny_recipe(
        teacher={"source": str(encoder_folder(name)), "pooling": "mean"},
        objective=losses,
        train={"steps": 2, "heldout_tokens": 600},
    )
    assert recipe.objective.kind == "auto"
    run, record = distill(recipe, run_name=name, resume=False)
    assert record.objective == "representation"
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    steps = [entry for entry in entries if entry["kind"] == "train"]
    assert len(steps) == 2
    for loss in ("vector", "states", *losses.keys() - {"relation_heads"}):
        assert all(math.isfinite(step[loss]) and step[loss] > 0 for step in steps), loss


@pytest.mark.parametrize("name", sorted(set(ALL_FAMILIES) - WITH_RELATIONS))
def test_relations_are_refused_before_the_text_is_read(
    name: str, encoder_folder: TeacherFolder, tiny_recipe: Make, runs: Path
) -> None:
    recipe = tiny_recipe(
        teacher={"source": str(encoder_folder(name)), "pooling": "mean"},
        objective={"relations": 1.0, "relation_heads": HEADS},
        # Reading it would be another error.
        corpus={"sources": [{"files": "no-such-file.txt"}]},
    )
    with pytest.raises(ModelError, match=f"not supported for the family {name}: its "):
        distill(recipe, run_name=name, resume=False)

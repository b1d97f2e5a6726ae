"""Teacher and student of a recipe: names, layers, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import BertForMaskedLM

from edgedistil.core.errors import ModelError, RecipeError
from edgedistil.core.recipe import Corpus, Recipe, SourceSpec
from edgedistil.core.recipe import Teacher as TeacherSection
from edgedistil.core.recipe_student import Student
from edgedistil.distill.setup import (
    build_student,
    check_fit,
    layer_map,
    recipe_objective,
    teacher_name,
)
from edgedistil.models.teacher import read_teacher


@pytest.fixture
def teacher(tiny_teacher: Path) -> BertForMaskedLM:
    return read_teacher(tiny_teacher, name="tiny").model


@pytest.mark.parametrize(
    ("source", "name"),
    [("asset:minilm", "minilm"), ("owner/model", "model"), ("/models/bert/", "bert")],
)
def test_a_teacher_is_named_after_its_source(source: str, name: str) -> None:
    assert teacher_name(TeacherSection(source=source)) == name


def test_layers_of_the_recipe_or_every_other_one(teacher: BertForMaskedLM) -> None:
    assert layer_map(Student(), teacher) == [0, 3]
    assert layer_map(Student(layers=[2, 0, 2]), teacher) == [2, 0, 2]


def test_layers_that_do_not_exist(teacher: BertForMaskedLM) -> None:
    with pytest.raises(ModelError, match=r"the teacher has no layer 4\n  its layers are 0 to 3"):
        layer_map(Student(layers=[0, 4]), teacher)


def test_a_student_has_at_least_one_layer() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Student(layers=[])


def test_prompts_need_an_objective_that_uses_them(
    tiny_recipe: Callable[..., Recipe], tiny_teacher: Path
) -> None:
    loaded = read_teacher(tiny_teacher, name="tiny")
    stated = {"query_prompt": "query: "}
    vectors = tiny_recipe(teacher=stated, objective={"kind": "representation"})
    assert recipe_objective(vectors, loaded) == "representation"
    with pytest.raises(RecipeError, match=r"teacher\.query_prompt is query: , and the"):
        recipe_objective(tiny_recipe(teacher=stated), loaded)


def test_sequences_longer_than_the_teachers(teacher: BertForMaskedLM) -> None:
    corpus = Corpus(sources=[SourceSpec(files="x.txt")], block_length=68)
    with pytest.raises(ModelError, match=r"set corpus\.block_length to at most 67"):
        check_fit(Student(), corpus, teacher)


@pytest.mark.parametrize("sizes", [{"heads": 4}, {"intermediate": 10**5}])
def test_sizes_above_the_teachers_are_refused_before_a_corpus_is_built(
    sizes: dict[str, int], teacher: BertForMaskedLM
) -> None:
    corpus = Corpus(sources=[SourceSpec(files="x.txt")], block_length=16)
    with pytest.raises(ModelError, match="expected 1 to"):
        check_fit(Student(**sizes), corpus, teacher)


def test_a_student_to_distil_further_is_loaded(teacher: BertForMaskedLM, tmp_path: Path) -> None:
    first = build_student(Student(), teacher, seed=3)
    first.save_pretrained(tmp_path / "student")
    further = Student(init=str(tmp_path / "student"), freeze_positions=True)
    student = build_student(further, teacher, seed=5)
    assert not student.distilbert.embeddings.position_embeddings.weight.requires_grad
    for ours, theirs in zip(student.parameters(), first.parameters(), strict=True):
        assert ours.equal(theirs)


def test_a_student_that_does_not_fit_is_found_before_the_corpus_is_built(
    teacher: BertForMaskedLM, tmp_path: Path
) -> None:
    build_student(Student(), teacher, seed=3).save_pretrained(tmp_path / "student")
    section = Student(init=str(tmp_path / "student"), layers=[0, 1, 3])
    corpus = Corpus(sources=[SourceSpec(files="x.txt")], block_length=23)
    with pytest.raises(ModelError, match=r"student\.init .*layers.*expected 3"):
        check_fit(section, corpus, teacher)

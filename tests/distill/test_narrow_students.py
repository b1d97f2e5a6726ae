"""Runs whose students have fewer heads and units than the teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistil.core.errors import ModelError
from edgedistil.core.recipe import Recipe
from edgedistil.distill.plan import timing
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.stage import distill
from edgedistil.models.sentence_encoder import load_sentence_encoder
from edgedistil.models.teacher import read_teacher
from tests.distill.sentences import sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]
# The tiny teacher has 2 heads of 14 and 44 units.
NARROW = {"heads": 1, "intermediate": 20}


@pytest.fixture(scope="module")
def sentences(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_teacher(tiny_teacher, tmp_path_factory.mktemp("sentences") / "teacher")


def test_a_run_writes_a_narrow_student_and_resumes_it(tiny_recipe: Make, runs: Path) -> None:
    recipe = tiny_recipe(student=NARROW, train={"steps": 2})
    run, first = distill(recipe, run_name="narrow", resume=False)
    student = read_teacher(run.student, name="student").model
    assert student.base_model.transformer.layer[0].attention.q_lin.weight.shape == (14, 28)
    assert (student.config.n_heads, student.config.hidden_dim) == (2, 20)
    assert first.student.parameters == student.num_parameters()
    run.distill.unlink()
    shutil.rmtree(run.student)
    _, again = distill(recipe, run_name="narrow", resume=True)
    assert again.student.weights_sha256 == first.student.weights_sha256


def test_a_narrow_student_is_distilled_further(tiny_recipe: Make, runs: Path) -> None:
    run, first = distill(tiny_recipe(student=NARROW), run_name="first", resume=False)
    further = tiny_recipe(student={"init": str(run.student)})
    _, second = distill(further, run_name="further", resume=False)
    assert second.student.parameters == first.student.parameters


def test_a_student_of_sentence_vectors_loses_heads(
    tiny_recipe: Make, sentences: Path, runs: Path
) -> None:
    recipe = sentence_recipe(
        tiny_recipe, sentences, student=NARROW, objective={"relations": 1.0, "relation_heads": 7}
    )
    run, _ = distill(recipe, run_name="vectors", resume=False)
    encoder = load_sentence_encoder(run.student)
    assert encoder.backbone.transformer.layer[1].attention.out_lin.weight.shape == (28, 14)


def test_a_student_of_sentence_vectors_has_factorised_embeddings(
    tiny_recipe: Make, sentences: Path, runs: Path
) -> None:
    recipe = sentence_recipe(
        tiny_recipe, sentences, student={"embedding": 5, "heads": 1}, train={"steps": 2}
    )
    run, first = distill(recipe, run_name="factors", resume=False)
    encoder = load_sentence_encoder(run.student)
    words = encoder.backbone.get_input_embeddings()
    assert (words.weight.shape[1], tuple(words.projection.weight.shape)) == (5, (28, 5))
    run.distill.unlink()
    shutil.rmtree(run.student)
    _, again = distill(recipe, run_name="factors", resume=True)
    assert again.student.weights_sha256 == first.student.weights_sha256


def test_a_masked_lm_cannot_have_factorised_embeddings(tiny_recipe: Make, runs: Path) -> None:
    with pytest.raises(ModelError, match="the objective is mlm, whose head shares the word"):
        distill(tiny_recipe(student={"embedding": 5}), run_name="mlm", resume=False)
    assert not (runs / "mlm").exists()


def test_relation_heads_that_do_not_divide_the_width(
    tiny_recipe: Make, sentences: Path, runs: Path
) -> None:
    recipe = sentence_recipe(
        tiny_recipe, sentences, student=NARROW, objective={"relations": 1.0, "relation_heads": 4}
    )
    with pytest.raises(ModelError, match="does not divide the 14 values of the student's queries"):
        distill(recipe, run_name="relations", resume=False)
    assert not (runs / "relations").exists()


def test_a_plan_counts_the_narrow_student(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_REPEATS", 1)
    monkeypatch.setattr(timing, "_MAX_MICRO_BATCH_S", 0.0)
    narrow, whole = (plan(tiny_recipe(student=student)).student for student in (NARROW, {}))
    # A head: three rows of query, key and value with biases, and its columns of the output.
    per_layer = 3 * 14 * 29 + 14 * 28 + 24 * (28 + 1 + 28)
    assert whole.parameters - narrow.parameters == narrow.layers * per_layer

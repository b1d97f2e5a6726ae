"""The objective of sentence vectors: its losses, its runs, and the folders that they leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, BertForMaskedLM

from edgedistil.core.distill_records import CorpusRecord, DistillRecord, HeldoutVectors
from edgedistil.core.errors import Interrupted, ModelError, RecipeError
from edgedistil.core.recipe import Recipe
from edgedistil.core.recipe_objective import Objective as Settings
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.sentence_vector import read_sentence_vector
from edgedistil.data.batches import pad_rows
from edgedistil.data.masking import IGNORED
from edgedistil.distill import train as loop
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.losses import count_tokens
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.representation import RepresentationObjective, layer_pairs
from edgedistil.distill.sentence_setup import student_encoder
from edgedistil.distill.stage import distill
from edgedistil.models.losses import cosine_loss
from edgedistil.models.representation_losses import relation_loss, similarity_loss, vector_loss
from edgedistil.models.sentence_encoder import SentenceEncoder, load_sentence_encoder
from edgedistil.models.student import StudentOptions, make_student
from edgedistil.models.teacher import read_teacher
from tests.distill.sentences import DIMENSION, TRACED, sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def teacher_folder(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_teacher(tiny_teacher, tmp_path_factory.mktemp("sentences") / "teacher")


@pytest.fixture
def make(tiny_recipe: Make, teacher_folder: Path) -> Make:
    return lambda **sections: sentence_recipe(tiny_recipe, teacher_folder, **sections)


def trace(run: RunDir, keys: tuple[str, ...] = TRACED) -> list[list[Any]]:
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [[entry[key] for key in keys] for entry in entries if entry["kind"] == "train"]


# --- losses --------------------------------------------------------------------------------------


@pytest.fixture
def encoders(teacher_folder: Path) -> tuple[SentenceEncoder, SentenceEncoder]:
    """Student and teacher, in float32, without dropout."""
    teacher = load_sentence_encoder(teacher_folder).requires_grad_(False)
    model = read_teacher(teacher_folder, name="tiny").model
    backbone = make_student(model, layer_map=[0, 3], options=StudentOptions(dropout=0.0))
    return student_encoder(backbone, teacher, dimension=DIMENSION, seed=1), teacher


@pytest.fixture
def batch() -> MicroBatch:
    """Seven texts of different lengths."""
    rows = [np.arange(5, 5 + length) for length in (3, 5, 7, 11, 13, 17, 19)]
    ids_BL, mask_BL = pad_rows(rows, pad_id=0)
    labels_BL = torch.full_like(ids_BL, IGNORED)
    return MicroBatch(0, ids_BL, mask_BL, labels_BL, count_tokens(labels_BL, mask_BL))


def states(encoder: SentenceEncoder, batch: MicroBatch) -> list[torch.Tensor]:
    return list(
        encoder.backbone(
            input_ids=batch.input_ids_BL,
            attention_mask=batch.attention_mask_BL,
            output_hidden_states=True,
        ).hidden_states
    )


def losses(
    encoders: tuple[SentenceEncoder, SentenceEncoder], batch: MicroBatch, **weights: float
) -> tuple[float, dict[str, float]]:
    settings = Settings(**{"vector": 0.0, "states": 0.0, **weights})  # type: ignore[arg-type]
    objective = RepresentationObjective(*encoders, settings, targets=None)
    total, sums = objective(batch, batch.counts)
    counts = objective.loss_counts(batch.counts)
    means = [float(s) / c for s, c in zip(sums, counts, strict=True)]
    return float(total.detach()), dict(zip(objective.loss_names, means, strict=True))


@torch.no_grad()
def test_losses_equal_their_formulas(
    encoders: tuple[SentenceEncoder, SentenceEncoder], batch: MicroBatch
) -> None:
    student, teacher = encoders
    ours, theirs = states(student, batch), states(teacher, batch)
    mask_BL = batch.attention_mask_BL
    assert mask_BL is not None
    s_BV, t_BV = student.vectors(ours[-1], mask_BL), teacher.vectors(theirs[-1], mask_BL)
    attended = mask_BL.bool()
    weights = {"vector": 2.0, "similarity": 3.0, "states": 5.0, "layers": 7.0}
    total, parts = losses(encoders, batch, **weights, temperature=0.1)
    expected = {
        "vector": float(vector_loss(s_BV, t_BV)),
        "similarity": float(similarity_loss(s_BV, t_BV, temperature=0.1)),
        "states": float(cosine_loss(ours[-1][attended], theirs[-1][attended])),
        "layers": float(cosine_loss(ours[1][attended], theirs[2][attended])),
    }
    assert parts == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 1e-3  # nothing is equal to the teacher yet
    assert total == pytest.approx(sum(weights[name] * parts[name] for name in weights), rel=1e-5)


@torch.no_grad()
def test_relations_are_of_the_last_layers(
    encoders: tuple[SentenceEncoder, SentenceEncoder], batch: MicroBatch
) -> None:
    student, teacher = encoders
    below, teacher_below = states(student, batch)[-2], states(teacher, batch)[-2]
    attention = student.backbone.transformer.layer[-1].attention
    teacher_attention = teacher.backbone.encoder.layer[-1].attention.self
    pairs = [
        (attention.q_lin, teacher_attention.query),
        (attention.k_lin, teacher_attention.key),
        (attention.v_lin, teacher_attention.value),
    ]
    mask_BL = batch.attention_mask_BL
    assert mask_BL is not None
    expected = [
        float(relation_loss(own(below), other(teacher_below), mask_BL, heads=4))
        for own, other in pairs
    ]
    _, parts = losses(encoders, batch, relations=1.0, relation_heads=4)
    assert parts["relations"] == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("loss", ["relations", "layers"])
def test_layers_that_no_loss_reads_are_not_computed(
    encoders: tuple[SentenceEncoder, SentenceEncoder],
    batch: MicroBatch,
    loss: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgedistil.models.fast import encoder as engine

    computed: list[torch.Tensor] = []
    run_layer = engine._run_layer

    def counted(*arguments: Any) -> torch.Tensor:
        computed.append(arguments[1])
        return run_layer(*arguments)

    monkeypatch.setattr(engine, "_run_layer", counted)
    _, alone = losses(encoders, batch, **{loss: 1.0}, relation_heads=4)
    # One of the student's two layers, and the teacher's up to the one that is compared.
    assert len(computed) == 1 + {"relations": 3, "layers": 2}[loss]
    computed.clear()
    _, together = losses(encoders, batch, **{loss: 1.0, "states": 1.0}, relation_heads=4)
    assert len(computed) == 2 + 4
    assert alone[loss] == pytest.approx(together[loss], rel=1e-6)


@torch.no_grad()
def test_a_copy_of_the_teacher_has_no_loss(teacher_folder: Path, batch: MicroBatch) -> None:
    teacher = load_sentence_encoder(teacher_folder)
    names = ("vector", "similarity", "states", "layers", "relations")
    weights = dict.fromkeys(names, 1.0)
    copy = load_sentence_encoder(teacher_folder)
    _, parts = losses((copy, teacher), batch, **weights, relation_heads=4)
    assert set(parts) == set(names)
    assert max(map(abs, parts.values())) < 1e-5


@torch.no_grad()
def test_shorter_vectors_are_part_of_the_vector_loss(
    encoders: tuple[SentenceEncoder, SentenceEncoder], batch: MicroBatch
) -> None:
    student, teacher = encoders
    mask_BL = batch.attention_mask_BL
    assert mask_BL is not None
    s_BV = student.vectors(states(student, batch)[-1], mask_BL)
    t_BV = teacher.vectors(states(teacher, batch)[-1], mask_BL)
    expected = np.mean([float(vector_loss(s_BV[:, :n], t_BV[:, :n])) for n in (DIMENSION, 7, 3)])
    _, parts = losses(encoders, batch, vector=1.0, dimensions=[7, 3])  # type: ignore[arg-type]
    assert parts["vector"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 6, [(1, 2), (2, 4)]),
        (2, 5, [(1, 2)]),
        (1, 4, [(0, 0)]),
        (4, 10, [(1, 2), (2, 5), (3, 7)]),
    ],
)
def test_layers_are_paired_at_equal_depth(
    student: int, teacher: int, expected: list[tuple[int, int]]
) -> None:
    assert layer_pairs(student, teacher) == expected


def test_only_the_teacher_is_compiled_on_a_cpu(
    batch: MicroBatch, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_sentence_encoder(teacher_folder).requires_grad_(False)
    student = load_sentence_encoder(teacher_folder)
    compiled = []

    def compile_(function: Callable[..., object]) -> Callable[..., object]:
        def run(model: nn.Module, *inputs: object) -> object:
            compiled.append(model)
            return function(model, *inputs)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    settings = Settings(vector=1.0, states=1.0)
    objective = RepresentationObjective(student, teacher, settings, targets=None, compiled=True)
    objective(batch, batch.counts)
    assert compiled == [teacher.backbone]


# --- runs ----------------------------------------------------------------------------------------


def test_a_teacher_without_mlm_head_teaches_vectors(make: Make, runs: Path) -> None:
    recipe = make(train={"steps": 40, "learning_rate": 3e-3, "evaluate_every": 40})
    run, record = distill(recipe, run_name=None, resume=False)
    assert record.objective == "representation"
    assert read_record(run.corpus, CorpusRecord).layout == "texts"
    teacher, before, after = record.heldout
    assert isinstance(after, HeldoutVectors) and isinstance(before, HeldoutVectors)
    assert isinstance(teacher, HeldoutVectors)
    assert teacher.rank_correlation == pytest.approx(1.0) and teacher.top10_overlap == 1.0
    assert after.cosine > before.cosine + 0.5  # type: ignore[operator]
    assert after.asymmetric_top10_overlap > before.asymmetric_top10_overlap  # type: ignore[operator]
    assert read_record(run.distill, DistillRecord) == record


def test_the_student_is_a_complete_sentence_folder(
    make: Make, runs: Path, teacher_folder: Path
) -> None:
    run, record = distill(make(train={"steps": 3}), run_name=None, resume=False)
    for folder in (run.student, run.student_step0, run.teacher):
        vector = read_sentence_vector(folder, hidden=28)
        assert vector.in_words() == read_sentence_vector(teacher_folder, hidden=28).in_words()
        assert vector.prompt("query") == "worda1 " and vector.max_length == 31
    assert "student/2_Dense/model.safetensors" in record.files
    # The same numbers as the loop's: the dense layer was trained and saved.
    encoder = load_sentence_encoder(run.student)
    untrained = load_sentence_encoder(run.student_step0)
    assert type(encoder.backbone).__name__ == "DistilBertModel"
    assert not torch.equal(encoder.head[0].weight, untrained.head[0].weight)
    AutoModel.from_pretrained(run.student)


@pytest.mark.parametrize("states_weight", [0.0, 1.0])
def test_a_resumed_run_is_equal_in_every_bit(
    make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch, states_weight: float
) -> None:
    recipe = make(
        objective={"states": states_weight, "similarity": 0.5},
        student={"dropout": 0.1},
        train={"steps": 9, "checkpoint_minutes": 1e-9},
    )
    straight, expected = distill(recipe, run_name="straight", resume=False)
    stop_at = loop.Trainer._log_step

    def interrupted(self: loop.Trainer, *args: Any, **keywords: Any) -> None:
        stop_at(self, *args, **keywords)
        if self._progress.step == 5:
            raise Interrupted("stop")

    monkeypatch.setattr(loop.Trainer, "_log_step", interrupted)
    with pytest.raises(Interrupted):
        distill(recipe, run_name="cut", resume=False)
    monkeypatch.setattr(loop.Trainer, "_log_step", stop_at)
    resumed, record = distill(recipe, run_name="cut", resume=True)
    assert trace(resumed) == trace(straight)
    assert record.student.weights_sha256 == expected.student.weights_sha256
    assert (
        record.files["student/2_Dense/model.safetensors"]
        == (expected.files["student/2_Dense/model.safetensors"])
    )


def test_a_plan_knows_the_objective(make: Make, runs: Path) -> None:
    record = plan(make(objective={"states": 0.0}, train={"steps": None, "epochs": 2}))
    assert record.student.layers == 2
    assert (record.objective, record.fits_head) == ("representation", False)
    assert any("encodes each text once" in note for note in record.notes)
    # A short run does not encode texts that it does not read.
    short = plan(make(objective={"states": 0.0}, train={"steps": 3}))
    assert not any("encodes each text once" in note for note in short.notes)
    assert not any("MLM head is fitted" in note for note in record.notes)


def test_a_masked_lm_objective_needs_a_head(make: Make, runs: Path) -> None:
    with pytest.raises(ModelError, match=r"no MLM head(.|\n)*representation"):
        distill(make(objective={"kind": "mlm"}), run_name=None, resume=False)


def test_a_teacher_with_a_head_teaches_masked_words(tiny_recipe: Make, runs: Path) -> None:
    run, record = distill(tiny_recipe(train={"steps": 1}), run_name=None, resume=False)
    assert record.objective == "mlm"
    BertForMaskedLM.from_pretrained(run.teacher)


def test_a_student_can_be_distilled_further(make: Make, runs: Path) -> None:
    first, record = distill(make(train={"steps": 9}), run_name="first", resume=False)
    further = make(train={"steps": 1}, student={"init": str(first.student)})
    _, again = distill(further, run_name="further", resume=False)
    assert again.student_init == str(first.student)
    assert again.heldout[1].rank_correlation == pytest.approx(
        record.heldout[2].rank_correlation, abs=1e-6
    )


def test_a_student_of_another_teacher_is_refused(
    make: Make, tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path, runs: Path
) -> None:
    first, _ = distill(make(train={"steps": 1}), run_name="first", resume=False)
    other = sentence_teacher(tiny_teacher, tmp_path / "other", pooling="cls")
    recipe = sentence_recipe(tiny_recipe, other, student={"init": str(first.student)})
    with pytest.raises(ModelError, match="makes its vectors in another way"):
        distill(recipe, run_name="other", resume=False)


# --- what is refused -----------------------------------------------------------------------------


def test_shorter_vectors_need_a_teacher_that_says_so(
    make: Make, runs: Path, teacher_folder: Path
) -> None:
    with pytest.raises(ModelError, match="nothing in the folder of teacher"):
        distill(make(objective={"dimensions": [7]}), run_name=None, resume=False)
    stated = make(
        objective={"dimensions": [7]},
        teacher={"source": str(teacher_folder), "is_matryoshka": True},
        train={"steps": 1},
    )
    distill(stated, run_name="stated", resume=False)
    too_long = make(objective={"dimensions": [19]})
    with pytest.raises(ModelError, match="less than the vectors' 19 values"):
        distill(too_long, run_name="long", resume=False)


def test_a_card_can_say_that_vectors_may_be_cut(
    tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path, runs: Path
) -> None:
    folder = sentence_teacher(tiny_teacher, tmp_path / "matryoshka")
    (folder / "README.md").write_text("---\ntags:\n- loss:MatryoshkaLoss\n---\n")
    recipe = sentence_recipe(tiny_recipe, folder, objective={"dimensions": [7]}, train={"steps": 1})
    distill(recipe, run_name=None, resume=False)


def test_pooling_cannot_contradict_the_folder(make: Make, runs: Path, teacher_folder: Path) -> None:
    recipe = make(teacher={"source": str(teacher_folder), "pooling": "cls"})
    with pytest.raises(ModelError, match=r"own modules\.json says mean"):
        distill(recipe, run_name=None, resume=False)


def test_weights_of_zero_train_nothing(make: Make) -> None:
    with pytest.raises(RecipeError, match="all loss weights are 0"):
        make(objective={"vector": 0.0, "states": 0.0})


def test_similarities_need_three_texts(make: Make) -> None:
    with pytest.raises(RecipeError, match="at least two others of its micro-batch"):
        make(objective={"similarity": 1.0}, train={"global_batch": 4, "micro_batch": 2})

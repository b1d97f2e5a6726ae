"""Each kind of labelled task: labels, baseline, sequences, losses; no torch before training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertConfig

from edgedistil.core.errors import TaskError
from edgedistil.core.task import TASKS
from edgedistil.evaluate.encode import open_tokenizer
from edgedistil.evaluate.examples import AnswerSpan, Example, RawExample
from edgedistil.evaluate.kinds import KINDS
from edgedistil.evaluate.labels import LabelRules

CLASSIFICATION, REGRESSION, SPAN = KINDS["classification"], KINDS["regression"], KINDS["span"]
RULES = LabelRules("t")
B, C, L = 5, 3, 11


def raw(label: object) -> RawExample:
    return RawExample(("a film",), label, "data.csv:2")


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_exported_for_a_task_with_its_outputs(name: str) -> None:
    (kind,) = [kind for kind in KINDS.values() if kind.name == name]
    assert name in TASKS[kind.task].labelled_kinds
    assert kind.outputs == TASKS[kind.task].outputs
    assert kind.metrics


def test_scoring_and_kinds_do_not_import_torch() -> None:
    code = (
        "import sys; import edgedistil.evaluate.kinds, edgedistil.evaluate.artefact\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout == "[]\n"


# --- labels --------------------------------------------------------------------------------------


def test_only_kinds_with_classes_name_them() -> None:
    assert CLASSIFICATION.class_names([raw("no"), raw("yes")], RULES) == ("no", "yes")
    assert REGRESSION.class_names([raw("no"), raw("yes")], RULES) == ()
    assert [kind.has_classes for kind in KINDS.values()] == [True, True, False, False]


def test_question_without_answers_is_an_error() -> None:
    with pytest.raises(TaskError, match="the question has no answer"):
        SPAN.read_label(RawExample(("where ?", "in Paris"), "", "x:1"), (), RULES)


@pytest.mark.parametrize(
    ("name", "labels"), [("classification", 3), ("regression", 1), ("span", 2)]
)
def test_head_does_not_depend_on_that_of_the_checkpoint(name: str, labels: int) -> None:
    config = BertConfig(num_labels=7, problem_type="multi_label_classification")
    (kind,) = [kind for kind in KINDS.values() if kind.name == name]
    kind.configure(config, ("a", "b", "c") if kind.has_classes else ())
    assert config.num_labels == labels
    if name != "span":
        assert config.problem_type != "multi_label_classification"


# --- baseline ------------------------------------------------------------------------------------

DEV = np.array([1, 1, 1, 0, 0, 1, 0], dtype=float)


def test_baseline_of_a_classification_is_the_most_frequent_training_class() -> None:
    classes = ("bad", "good")
    baseline = CLASSIFICATION.baseline("accuracy", np.array([0.0, 1, 1]), DEV, classes)
    assert (baseline.constant, baseline.score) == (1.0, pytest.approx(4 / 7))
    assert baseline.rule == "always 'good', the most frequent training label"
    # Of equally frequent classes, the first.
    equal = CLASSIFICATION.baseline("accuracy", np.array([1.0, 0]), DEV, classes)
    assert (equal.constant, equal.score) == (0.0, pytest.approx(3 / 7))


def test_baseline_of_a_regression_is_the_mean_which_has_no_correlation() -> None:
    baseline = REGRESSION.baseline("pearson", np.array([0.5, 1.5]), np.array([1.0, 2.0, 3.0]), ())
    assert (baseline.constant, baseline.score) == (1.0, 0.0)


def test_baseline_of_spans_is_zero() -> None:
    assert SPAN.baseline("f1", np.zeros(3), np.zeros(3), ()).score == 0.0


# --- sequences and batches -----------------------------------------------------------------------


def test_rows_without_answers_have_the_same_windows(tiny_models: Path) -> None:
    tokenizer = open_tokenizer(tiny_models / "student")
    question = Example(("where ?", "Ada lived in Paris ."), answers=(AnswerSpan("Paris", 13),))
    (labelled,) = SPAN.training_rows(tokenizer, [question], 23)
    unlabelled_question = [Example(question.texts)]
    (unlabelled,) = SPAN.training_rows(tokenizer, unlabelled_question, 23, labelled=False)
    assert labelled.encoded == unlabelled.encoded
    assert (labelled.labelled, unlabelled.labelled) == (True, False)
    assert unlabelled.label == (0, 0)


def test_labels_become_arguments_of_the_forward_pass() -> None:
    batches = [
        CLASSIFICATION.label_batch(np.array([1.0, 0.0])),
        REGRESSION.label_batch(np.array([1.5, 0.0])),
        SPAN.label_batch(np.array([[3, 4], [0, 0]])),
    ]
    names = [tuple(batch) for batch in batches]
    assert names == [kind.label_inputs for kind in (CLASSIFICATION, REGRESSION, SPAN)]
    dtypes = [next(iter(batch.values())).dtype for batch in batches]
    assert dtypes == [torch.int64, torch.float32, torch.int64]
    assert batches[2]["end_positions"].tolist() == [4, 0]


def test_soft_targets_of_spans_are_padded_with_zeros() -> None:
    logits = [(np.ones(2), np.full(2, 2.0)), (np.full(3, 3.0), np.full(3, 4.0))]
    soft = SPAN.soft_target_batch(logits, length=4)
    assert soft.shape == (2, 2, 4)
    assert soft[0].tolist() == [[1, 1, 0, 0], [2, 2, 0, 0]]


# --- losses --------------------------------------------------------------------------------------


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_label_losses_by_hand() -> None:
    logits_BC, classes_B = drawn(1, B, C), torch.tensor([2, 0, 1, 0, 0])
    by_class = CLASSIFICATION.label_loss([logits_BC], [classes_B])
    assert torch.equal(by_class, functional.cross_entropy(logits_BC, classes_B))

    values_B1, labels_B = drawn(2, B, 1), drawn(3, B)
    by_value = REGRESSION.label_loss([values_B1], [labels_B])
    torch.testing.assert_close(by_value, ((values_B1[:, 0] - labels_B) ** 2).mean())

    sides, positions = [drawn(4, B, L), drawn(5, B, L)], [torch.arange(B), torch.arange(B) + 4]
    by_span = SPAN.label_loss(sides, positions)
    start, end = (functional.cross_entropy(sides[i], positions[i]) for i in (0, 1))
    torch.testing.assert_close(by_span, (start + end) / 2)


@pytest.mark.parametrize(
    ("name", "logits", "soft"),
    [
        ("classification", [drawn(1, B, C)], drawn(1, B, C)),
        ("pair", [drawn(1, B, C)], drawn(1, B, C)),
        ("regression", [drawn(1, B, 1)], drawn(1, B, 1)),
        ("span", list(drawn(1, 2, B, L)), drawn(1, 2, B, L).transpose(0, 1)),
    ],
)
def test_soft_target_loss_is_zero_for_equal_outputs(
    name: str, logits: list[torch.Tensor], soft: torch.Tensor
) -> None:
    (kind,) = [kind for kind in KINDS.values() if kind.name == name]
    loss = kind.soft_target_loss(logits, soft, torch.ones(B, L), temperature=2.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert kind.soft_target_loss(logits, soft + drawn(7, *soft.shape), torch.ones(B, L), 2.0) > 0

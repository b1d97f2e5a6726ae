"""Fine-tuning of real, tiny models: they learn, seeds repeat, soft targets count, NaN stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from edgedistil.core.cpu import Cpu
from edgedistil.core.errors import TrainingDiverged
from edgedistil.evaluate import finetune
from edgedistil.evaluate.encode import open_tokenizer
from edgedistil.evaluate.examples import AnswerSpan, Example, TaskData
from edgedistil.evaluate.finetune import FineTuneSettings, SoftTargets
from edgedistil.evaluate.kind import TaskKind, TrainingRow
from edgedistil.evaluate.kinds import KINDS
from edgedistil.evaluate.scoring import DevScores, Logits, ScoringSettings, all_logits
from edgedistil.evaluate.spec import SecondDistillation, Training, load_task
from edgedistil.evaluate.task_model import build_task_model, torch_forward
from edgedistil.evaluate.tasks import load_data
from edgedistil.models import native_dtype

CLASSIFICATION, REGRESSION, SPAN = KINDS["classification"], KINDS["regression"], KINDS["span"]
CONTEXTS = (
    "Ada lived in Paris .",
    "she was in London , not in Paris .",
    "Ada was born in London !",
    "he lived in Paris , good .",
)


def settings(kind: TaskKind, seed: int = 1, **changes: Any) -> FineTuneSettings:
    values = {
        "epochs": 8,
        "batch": 8,
        "learning_rate": 1e-2,
        "max_length": 23,
        "source": "for the tests",
    }
    training = Training.model_validate(values | changes)
    return FineTuneSettings(kind=kind, training=training, seed=seed, pad=0, label="test")


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model with its tokenizer and training rows."""

    model: PreTrainedModel
    kind: TaskKind
    tokenizer: Tokenizer
    rows: list[TrainingRow]

    def score(self, dev: Sequence[Example], metric: str) -> DevScores:
        forward = torch_forward(self.model, self.kind)
        return self.kind.score(forward, self.tokenizer, dev, ScoringSettings(metric, 23))

    def logits(self) -> list[Logits]:
        sequences = [row.encoded for row in self.rows]
        forward = torch_forward(self.model, self.kind)
        return all_logits(forward, sequences, 0, per_token=self.kind.per_token)


def trained(
    folder: Path,
    examples: Sequence[Example],
    kind: TaskKind = CLASSIFICATION,
    *,
    seed: int = 1,
    soft_targets: SoftTargets | None = None,
    **changes: Any,
) -> Trained:
    tokenizer = open_tokenizer(folder)
    rows = kind.training_rows(tokenizer, examples, 23)
    classes = ("bad", "good") if kind is CLASSIFICATION else ()
    model = build_task_model(folder, kind, classes=classes, seed=seed)
    finetune.fine_tune(model, rows, settings(kind, seed, **changes), soft_targets)
    return Trained(model, kind, tokenizer, rows)


@pytest.fixture
def data(own_task: Callable[..., Path]) -> TaskData:
    return load_data(load_task(str(own_task())), None)


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_model_learns_the_task(tiny_models: Path, data: TaskData, name: str) -> None:
    result = trained(tiny_models / name, data.train)
    assert result.score(data.dev, "accuracy").scores["accuracy"] > 0.9


def test_weights_repeat_with_the_seed(tiny_models: Path, data: TaskData) -> None:
    def head(seed: int) -> Tensor:
        result = trained(tiny_models / "student", data.train[:16], seed=seed, epochs=1)
        return result.model.classifier.weight.detach()

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_regression_learns(tiny_models: Path) -> None:
    words = {"good": 2.0, "bad": -2.0, "fine": 1.0}
    examples = [Example((f"the film was {word}",), value) for word, value in words.items()]
    result = trained(tiny_models / "student", examples * 8, REGRESSION)
    assert result.score(examples, "pearson").scores["pearson"] > 0.9


def questions() -> list[Example]:
    examples = []
    for context in CONTEXTS:
        word = "Paris" if "lived in Paris" in context else "London"
        answer = AnswerSpan(word, context.index(word))
        examples.append(Example(("where ?", context), answers=(answer,)))
    return examples


def test_spans_learn(tiny_models: Path) -> None:
    result = trained(tiny_models / "student", questions() * 8, SPAN, epochs=12)
    scores = result.score(questions(), "f1")
    assert scores.scores == {"em": 1.0, "f1": 1.0}
    assert scores.per_question["em"] == [1.0] * 4


def test_nan_loss_names_the_step(tiny_models: Path, data: TaskData) -> None:
    folder = tiny_models / "student"
    rows = CLASSIFICATION.training_rows(open_tokenizer(folder), data.train, 23)
    model = build_task_model(folder, CLASSIFICATION, classes=("a", "b"), seed=1)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(TrainingDiverged, match="fine-tuning loss is nan at step 1"):
        finetune.fine_tune(model, rows, settings(CLASSIFICATION))


@pytest.mark.parametrize("native", [True, False])
def test_trainer_uses_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, native: bool
) -> None:
    """An ARM server: PyTorch's checks of x86 features say nothing about it."""
    cpu = Cpu("aarch64", "a processor", frozenset({"asimd", *(["bf16"] if native else [])}))
    monkeypatch.setattr(native_dtype, "this_cpu", lambda: cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = finetune._training_arguments(settings(CLASSIFICATION), 7, str(tmp_path))
    assert arguments.bf16 is native


# --- soft targets --------------------------------------------------------------------------------


def second_distillation(**values: float) -> SecondDistillation:
    return SecondDistillation.model_validate(values)


def test_student_learns_from_soft_targets_alone(tiny_models: Path, data: TaskData) -> None:
    """All labels are wrong and alpha is 1, so the student learns from the teacher only."""
    soft = [
        (np.array([0.0, 9.0] if example.label else [9.0, 0.0], dtype=np.float32),)
        for example in data.train
    ]
    wrong = [Example(example.texts, 1 - example.label) for example in data.train]
    targets = SoftTargets(soft, second_distillation(alpha=1.0, temperature=2.0))
    result = trained(tiny_models / "student", wrong, soft_targets=targets)
    assert result.score(data.dev, "accuracy").scores["accuracy"] > 0.9


def value_examples() -> tuple[list[Example], list[Example]]:
    """Examples with the student's wrong labels, and with the teacher's."""
    texts = [(f"a {word} film",) for word in ("good", "bad", "dull")] * 8
    wrong = [Example(text, 0.0) for text in texts]
    return wrong, [Example(text, float(i % 3)) for i, text in enumerate(texts)]


def span_examples() -> tuple[list[Example], list[Example]]:
    """Examples with the student's wrong answers, and with the teacher's."""
    wrong = []
    for example in questions():
        first_word = AnswerSpan(example.texts[1].split()[0], 0)
        wrong.append(Example(example.texts, answers=(first_word,)))
    return wrong * 6, questions() * 6


@pytest.mark.parametrize(
    ("kind", "examples"), [(REGRESSION, value_examples), (SPAN, span_examples)]
)
def test_soft_targets_move_the_student_towards_the_teacher(
    tiny_models: Path,
    kind: TaskKind,
    examples: Callable[[], tuple[list[Example], list[Example]]],
) -> None:
    """Compared with a student that has wrong labels alone."""
    wrong, right = examples()
    soft = trained(tiny_models / "teacher", right, kind).logits()

    def distance(targets: SoftTargets | None) -> float:
        folder = tiny_models / "student"
        student = trained(folder, wrong, kind, soft_targets=targets, epochs=24).logits()
        pairs = zip(student, soft, strict=True)
        return float(
            np.mean([np.abs(likelihood(a[0]) - likelihood(b[0])).mean() for a, b in pairs])
        )

    targets = SoftTargets(soft, second_distillation(alpha=1.0))
    assert distance(targets) < distance(None) * 0.6


def likelihood(logits: NDArray[Any]) -> NDArray[Any]:
    """Softmax over tokens; a single value stays as it is."""
    if len(logits) == 1:
        return logits
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def test_words_of_unlabelled_texts_are_learnt(tiny_models: Path) -> None:
    """Two words have labels; two others occur only in texts with soft targets."""
    folder = tiny_models / "student"
    tokenizer = open_tokenizer(folder)
    labelled = [Example(("a good film",), 1.0), Example(("a bad film",), 0.0)] * 8
    unlabelled = [("a bright film",), ("a dull film",)] * 8
    opinions = {"good": (0, 9), "bad": (9, 0), "bright": (0, 9), "dull": (9, 0)}
    texts = [example.texts for example in labelled] + unlabelled
    soft = [(np.array(opinions[text[0].split()[1]], dtype=np.float32),) for text in texts]

    def learnt_logits(placeholder: float) -> Tensor:
        rows = CLASSIFICATION.training_rows(tokenizer, labelled, 23)
        others = [Example(text, placeholder) for text in unlabelled]
        rows += CLASSIFICATION.training_rows(tokenizer, others, 23, labelled=False)
        model = build_task_model(folder, CLASSIFICATION, classes=("bad", "good"), seed=1)
        targets = SoftTargets(soft, SecondDistillation())
        finetune.fine_tune(model, rows, settings(CLASSIFICATION), targets)
        ids = torch.tensor([row.encoded.input_ids for row in rows[-2:]])
        with torch.no_grad():
            return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    logits = learnt_logits(placeholder=0.0)
    assert logits.argmax(-1).tolist() == [1, 0]
    assert torch.equal(logits, learnt_logits(placeholder=1.0)), "an unlabelled row's label was read"


# --- the loss ------------------------------------------------------------------------------------

B, C, L = 5, 3, 11
LABELLED = torch.tensor([True, False, True, False, False])
MASK = torch.ones(B, L, dtype=torch.long)
ALPHA, T = 0.3, 3.0


def drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).float()


def loss_of(
    kind: TaskKind,
    logits: Sequence[Tensor],
    labels: Sequence[Tensor],
    soft: Tensor,
    labelled: Tensor = LABELLED,
) -> float:
    second = second_distillation(alpha=ALPHA, temperature=T)
    return float(
        finetune.loss_with_soft_targets(kind, logits, labels, soft, MASK, labelled, second=second)
    )


def divergence(teacher: Tensor, student: Tensor) -> float:
    """T² · KL of one row, by the formula."""
    p, q = functional.softmax(teacher / T, dim=-1), functional.softmax(student / T, dim=-1)
    return float(T**2 * (p * (p / q).log()).sum())


def cross_entropy(student: Tensor, label: Tensor) -> float:
    return -float(functional.log_softmax(student, dim=-1)[label])


def row_loss(row: int, hard: float, soft: float) -> float:
    """Loss of one row: mixed if it has a label, else the soft targets alone."""
    return (1 - ALPHA) * hard + ALPHA * soft if LABELLED[row] else soft


def test_classes_by_hand() -> None:
    student, teacher, labels = drawn(1, B, C), drawn(2, B, C), torch.tensor([2, 0, 1, 0, 0])
    by_hand = 0.0
    for row in range(B):
        hard = cross_entropy(student[row], labels[row])
        by_hand += row_loss(row, hard, divergence(teacher[row], student[row])) / B
    loss = loss_of(CLASSIFICATION, [student], [labels], teacher)
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_values_by_hand() -> None:
    student, teacher, labels = drawn(1, B, 1), drawn(2, B, 1), drawn(3, B)
    by_hand = 0.0
    for row in range(B):
        hard = float((student[row, 0] - labels[row]) ** 2)
        by_hand += row_loss(row, hard, float((student[row, 0] - teacher[row, 0]) ** 2)) / B
    assert loss_of(REGRESSION, [student], [labels], teacher) == pytest.approx(by_hand, rel=1e-5)


def test_spans_by_hand() -> None:
    student, teacher = [drawn(1, B, L), drawn(2, B, L)], drawn(3, B, 2, L)
    labels = [torch.arange(B), torch.arange(B) + 4]
    by_hand = 0.0
    for row in range(B):
        for side in range(2):
            hard = cross_entropy(student[side][row], labels[side][row])
            soft = divergence(teacher[row, side], student[side][row])
            by_hand += row_loss(row, hard, soft) / B / 2
    assert loss_of(SPAN, student, labels, teacher) == pytest.approx(by_hand, rel=1e-5)


def test_label_loss_equals_that_of_the_models_head(tiny_models: Path) -> None:
    """All rows are labelled and soft targets have almost no weight."""
    folder = tiny_models / "student"
    model = build_task_model(folder, CLASSIFICATION, classes=("a", "b"), seed=1).eval()
    ids, labels = torch.arange(20).view(4, 5) + 5, torch.tensor([0, 1, 1, 0])
    mask = torch.ones_like(ids)
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels)
    loss = finetune.loss_with_soft_targets(
        CLASSIFICATION,
        [outputs.logits],
        [labels],
        drawn(4, 4, 2),
        mask,
        torch.ones(4, dtype=torch.bool),
        second=second_distillation(alpha=1e-9),
    )
    assert loss.item() == pytest.approx(outputs.loss.item(), rel=1e-6)


def test_batches_with_only_labelled_or_only_unlabelled_rows() -> None:
    student, teacher, labels = drawn(1, B, C), drawn(2, B, C), torch.zeros(B, dtype=torch.long)
    no_row, all_rows = torch.zeros(B, dtype=torch.bool), torch.ones(B, dtype=torch.bool)

    # Without labelled rows, labels do not matter.
    soft = loss_of(CLASSIFICATION, [student], [labels], teacher, no_row)
    other_labels = loss_of(CLASSIFICATION, [student], [labels + 1], teacher, no_row)
    assert soft == pytest.approx(other_labels)

    hard = float(functional.cross_entropy(student, labels))
    mixed = loss_of(CLASSIFICATION, [student], [labels], teacher, all_rows)
    assert mixed == pytest.approx((1 - ALPHA) * hard + ALPHA * soft, rel=1e-5)

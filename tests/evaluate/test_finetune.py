"""Fine-tuning real, tiny models: they learn, seeds repeat, (D) pulls towards the teacher, NaN stops with its step."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistil.core.errors import ModelError, TrainingDiverged
from edgedistil.evaluate import finetune
from edgedistil.evaluate.encode import open_tokenizer
from edgedistil.evaluate.examples import Answer, Example
from edgedistil.evaluate.scoring import all_logits, score_dev
from edgedistil.evaluate.spec import SecondDistillation, Training, load_task
from edgedistil.evaluate.tasks import load_data

CONTEXTS = (
    "Ada lived in Paris .",
    "she was in London , not in Paris .",
    "Ada was born in London !",
    "he lived in Paris , good .",
)


def settings(**changed) -> Training:
    values = {
        "epochs": 8,
        "batch": 8,
        "learning_rate": 1e-2,
        "max_length": 23,
        "source": "made for the tests",
    }
    return Training.model_validate(values | changed)


def trained(
    folder: Path,
    examples,
    *,
    kind="classification",
    labels=("bad", "good"),
    seed=1,
    soft=None,
    second=None,
    **changed,
):
    tokenizer = open_tokenizer(folder)
    rows = finetune.features(tokenizer, examples, kind=kind, max_length=23)
    model = finetune.task_model(folder, kind=kind, labels=labels, seed=seed)
    finetune.fine_tune(
        model,
        rows,
        kind=kind,
        pad=0,
        training=settings(**changed),
        seed=seed,
        label="test",
        soft_targets=soft,
        second=second,
    )
    return model, tokenizer, rows


def accuracy(model, tokenizer, dev) -> float:
    forward = finetune.torch_forward(model)
    return score_dev(
        forward, tokenizer, dev, kind="classification", metric="accuracy", max_length=23
    ).scores["accuracy"]


@pytest.fixture
def data(own_task):
    return load_data(load_task(str(own_task())), None)


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_model_learns_the_task(tiny_models, data, which):
    model, tokenizer, _ = trained(tiny_models / which, data.train)
    assert accuracy(model, tokenizer, data.dev) > 0.9


def test_same_seed_same_weights_other_seed_others(tiny_models, data):
    def head(seed: int) -> torch.Tensor:
        return trained(tiny_models / "student", data.train[:16], seed=seed, epochs=1)[
            0
        ].classifier.weight.detach()

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_random_weights_share_nothing_with_the_folder(tiny_models):
    folder = tiny_models / "student"
    random, loaded = (
        finetune.task_model(
            folder, kind="classification", labels=("a", "b"), seed=1, random_weights=each
        )
        for each in (True, False)
    )
    name = "distilbert.transformer.layer.0.ffn.lin1.weight"
    assert not torch.equal(random.state_dict()[name], loaded.state_dict()[name])
    assert [p.shape for p in random.parameters()] == [p.shape for p in loaded.parameters()]


def test_regression_learns(tiny_models):
    examples = [
        Example((f"the film was {word}",), value)
        for word, value in (("good", 2.0), ("bad", -2.0), ("fine", 1.0))
    ] * 8
    model, tokenizer, _ = trained(tiny_models / "student", examples, kind="regression", labels=())
    scored = score_dev(
        finetune.torch_forward(model),
        tokenizer,
        examples[:3],
        kind="regression",
        metric="pearson",
        max_length=23,
    )
    assert scored.scores["pearson"] > 0.9


def questions() -> list[Example]:
    made = []
    for context in CONTEXTS:
        word = "Paris" if "lived in Paris" in context else "London"
        made.append(Example(("where ?", context), answers=(Answer(word, context.index(word)),)))
    return made


def test_spans_learn(tiny_models):
    model, tokenizer, _ = trained(
        tiny_models / "student", questions() * 8, kind="span", labels=(), epochs=12
    )
    scored = score_dev(
        finetune.torch_forward(model),
        tokenizer,
        questions(),
        kind="span",
        metric="f1",
        max_length=23,
    )
    assert scored.scores == {"em": 1.0, "f1": 1.0}
    assert scored.per_question["em"] == [1.0] * 4


def test_soft_targets_teach_without_labels(tiny_models, data):
    """Labels upside down and alpha 1: only the teacher's opinion can have taught this student."""
    soft = [
        (np.array([0.0, 9.0] if example.label else [9.0, 0.0], dtype=np.float32),)
        for example in data.train
    ]
    wrong = [Example(example.texts, 1 - example.label) for example in data.train]
    second = SecondDistillation.model_validate({"alpha": 1.0, "temperature": 2.0})
    model, tokenizer, _ = trained(tiny_models / "student", wrong, soft=soft, second=second)
    assert accuracy(model, tokenizer, data.dev) > 0.9


@pytest.mark.parametrize("kind", ["regression", "span"])
def test_soft_targets_of_other_kinds_teach_too(tiny_models, kind):
    """The student's answers come closer to the teacher's than those of one that had the wrong labels alone."""
    if kind == "span":
        examples = [
            Example(e.texts, answers=(Answer(e.texts[1].split()[0], 0),)) for e in questions()
        ] * 6
    else:
        examples = [Example((f"a {word} film",), 0.0) for word in ("good", "bad", "dull")] * 8
    teacher, _, rows = trained(
        tiny_models / "teacher",
        questions() * 6 if kind == "span" else [Example(e.texts, float(i % 3)) for i, e in enumerate(examples)],
        kind=kind, labels=(),
    )  # fmt: skip
    encoded = [row["encoded"] for row in rows]
    soft = all_logits(finetune.torch_forward(teacher), encoded, 0)

    def distance(alpha: float | None) -> float:
        second = SecondDistillation.model_validate({"alpha": alpha or 1.0})
        given = soft if alpha else None
        model, _, _ = trained(
            tiny_models / "student",
            examples,
            kind=kind,
            labels=(),
            soft=given,
            second=second,
            epochs=24,
        )
        said = all_logits(finetune.torch_forward(model), encoded, 0)
        return float(
            np.mean(
                [
                    np.abs(_likely(a[0]) - _likely(b[0])).mean()
                    for a, b in zip(said, soft, strict=True)
                ]
            )
        )

    assert distance(1.0) < distance(None) * 0.6


def _likely(logits: np.ndarray) -> np.ndarray:
    if len(logits) == 1:
        return logits
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def test_padding_changes_no_answer(tiny_models, data):
    model = finetune.task_model(
        tiny_models / "teacher", kind="classification", labels=("a", "b"), seed=1
    )
    rows = finetune.features(
        open_tokenizer(tiny_models / "teacher"), data.dev, kind="classification", max_length=23
    )
    forward = finetune.torch_forward(model)
    together = all_logits(forward, [row["encoded"] for row in rows], 0)
    alone = [all_logits(forward, [row["encoded"]], 0)[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)


def test_loss_that_is_no_number_names_the_step(tiny_models, data):
    tokenizer = open_tokenizer(tiny_models / "student")
    rows = finetune.features(tokenizer, data.train, kind="classification", max_length=23)
    model = finetune.task_model(
        tiny_models / "student", kind="classification", labels=("a", "b"), seed=1
    )
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(TrainingDiverged, match="fine-tuning loss is nan at step 1"):
        finetune.fine_tune(
            model, rows, kind="classification", pad=0, training=settings(), seed=1, label="test"
        )


def test_teacher_with_another_vocabulary_is_refused(tiny_models, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    text = (tiny_models / "teacher" / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"dull"', '"dreary"'))
    with pytest.raises(ModelError, match="another vocabulary"):
        finetune.teacher_logits(
            folder, [], kind="classification", tokenizer=open_tokenizer(tiny_models / "student")
        )


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        finetune.task_model(tmp_path, kind="classification", labels=("a", "b"), seed=1)

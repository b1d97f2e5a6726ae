"""Texts without labels: read from where the task says, taught by the teacher's soft targets alone, part of the key."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgedistil.core.errors import TaskError
from edgedistil.core.records import EvaluationRecord, read_record
from edgedistil.evaluate import finetune, stage
from edgedistil.evaluate.cells import read_cell
from edgedistil.evaluate.encode import open_tokenizer
from edgedistil.evaluate.examples import Answer, Example, normalised
from edgedistil.evaluate.spec import SecondDistillation, Training, load_task
from edgedistil.evaluate.tasks import load_data
from edgedistil.report.evaluation_tables import task_table

SOFT = '[second_distillation]\nunlabelled = "{}"\n'


def loaded(task):
    load_data.cache_clear()
    return load_data(load_task(str(task)), None)


# --- where the texts come from --------------------------------------------------------------------------


def test_rest_is_what_the_limit_leaves_of_train(own_task):
    whole = loaded(own_task(train=61, dev=17))
    data = loaded(own_task(train=61, dev=17, extra="train_limit = 23\n" + SOFT.format("rest")))
    assert len(data.train) == 23
    asked = {normalised(e.texts[0]) for e in whole.dev}
    rest = Counter(e.texts for e in whole.train) - Counter(e.texts for e in data.train)
    expected = {texts: count for texts, count in rest.items() if normalised(texts[0]) not in asked}
    assert len(expected) > 13
    assert Counter(e.texts for e in data.unlabelled) == expected
    assert {e.label for e in data.unlabelled} == {0.0}, "their labels are not taken along"
    assert data.sha256 == loaded(own_task(train=61, dev=17, extra="train_limit = 23")).sha256


def test_limit_takes_the_same_texts_again(own_task):
    extra = "train_limit = 23\n" + SOFT.format("rest") + "unlabelled_limit = 13\n"
    first, second = loaded(own_task(train=61, extra=extra)), loaded(own_task(train=61, extra=extra))
    assert len(first.unlabelled) == 13
    assert first.unlabelled == second.unlabelled


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("more.txt", "a dull plot\n\n  a bright actor \n"),
        ("more.csv", "id,text\n1,a dull plot\n2,a bright actor\n"),
        ("more.jsonl", '{"text": "a dull plot"}\n{"text": "a bright actor"}\n'),
    ],
)
def test_file_beside_the_task(own_task, name, content):
    task = own_task(extra=SOFT.format(name))
    (task.parent / name).write_text(content)
    assert [e.texts for e in loaded(task).unlabelled] == [("a dull plot",), ("a bright actor",)]


def test_texts_of_the_dev_set_are_left_out_and_told(own_task):
    asked = loaded(own_task()).dev[0].texts[0]
    task = own_task(extra=SOFT.format("more.txt"))
    (task.parent / "more.txt").write_text(f"a dull plot\n{asked.upper()}\n")
    data = loaded(task)
    assert [e.texts for e in data.unlabelled] == [("a dull plot",)]
    assert data.warnings[-1] == "1 unlabelled texts that the dev set has too were left out"
    (task.parent / "more.txt").write_text(f"{asked}\n")
    with pytest.raises(TaskError, match=r"more\.txt: no unlabelled texts"):
        loaded(task)


@pytest.mark.parametrize(
    ("extra", "content", "told"),
    [
        (SOFT.format("more.csv"), None, r"task 'opinion': no .*more\.csv"),
        (
            SOFT.format("more.csv"),
            b"txt\na film\n",
            r"more\.csv:2: no column 'text'; did you mean 'txt'\?",
        ),
        (
            SOFT.format("more.jsonl"),
            b'{"text": 7}',
            r"more\.jsonl:1: column 'text' is int, expected text",
        ),
        (SOFT.format("more.txt"), b"fine\n\xff\n", r"more\.txt:2: not UTF-8"),
        (SOFT.format("more.docx"), b"?", r"more\.docx: unknown format '\.docx'"),
        (SOFT.format("rest"), None, "set train_limit, or there is no rest"),
        (
            "[second_distillation]\nunlabelled_limit = 7\n",
            None,
            "unlabelled_limit = 7 without 'unlabelled'",
        ),
    ],
)
def test_bad_texts_are_refused_with_their_place(own_task, extra, content, told):
    task = own_task(extra=extra)
    if content is not None:
        (task.parent / extra.split('"')[1]).write_bytes(content)
    with pytest.raises(TaskError, match=told):
        loaded(task)


def test_a_line_is_one_text_and_a_pair_takes_two(tmp_path):
    (tmp_path / "more.txt").write_text("a film\n")
    rows = '{"a": "x", "b": "y", "label": 0}\n{"a": "z", "b": "y", "label": 1}\n'
    for side in ("train", "dev"):
        (tmp_path / f"{side}.jsonl").write_text(rows)
    (tmp_path / "pairs.toml").write_text(
        'kind = "pair"\nmetric = "accuracy"\n[files]\ntrain = "train.jsonl"\ndev = "dev.jsonl"\ntext = ["a", "b"]\n'
        '[training]\nepochs = 1\nbatch = 8\nlearning_rate = 1e-2\nmax_length = 23\nsource = "made"\n'
        + SOFT.format("more.txt")
    )
    with pytest.raises(TaskError, match="a line holds one text, the task takes 2"):
        loaded(tmp_path / "pairs.toml")


# --- the loss -------------------------------------------------------------------------------------------


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).float()


LABELLED = torch.tensor([True, False, True, False, False])
B, C, L = 5, 3, 11
MASK = torch.ones(B, L, dtype=torch.long)


def mixed(kind: str, logits, labels, soft, labelled=LABELLED) -> float:
    second = SecondDistillation.model_validate({"alpha": 0.3, "temperature": 3.0})
    return float(
        finetune.loss_with_soft_targets(kind, logits, labels, soft, MASK, labelled, second=second)
    )


def test_classes_by_hand():
    student, teacher, labels = drawn(1, B, C), drawn(2, B, C), torch.tensor([2, 0, 1, 0, 0])
    by_hand = 0.0
    for row in range(B):
        p, q = (functional.softmax(each[row] / 3, dim=-1) for each in (teacher, student))
        soft = float(9 * (p * (p / q).log()).sum())
        hard = -float(functional.log_softmax(student[row], dim=-1)[labels[row]])
        by_hand += (0.7 * hard + 0.3 * soft if LABELLED[row] else soft) / B
    assert mixed("classification", [student], [labels], teacher) == pytest.approx(by_hand, rel=1e-5)


def test_values_by_hand():
    student, teacher, labels = drawn(1, B, 1), drawn(2, B, 1), drawn(3, B)
    by_hand = 0.0
    for row in range(B):
        soft, hard = (
            float((student[row, 0] - teacher[row, 0]) ** 2),
            float((student[row, 0] - labels[row]) ** 2),
        )
        by_hand += (0.7 * hard + 0.3 * soft if LABELLED[row] else soft) / B
    assert mixed("regression", [student], [labels], teacher) == pytest.approx(by_hand, rel=1e-5)


def test_spans_by_hand():
    student, teacher = [drawn(1, B, L), drawn(2, B, L)], drawn(3, B, 2, L)
    labels = [torch.arange(B), torch.arange(B) + 4]
    by_hand = 0.0
    for row in range(B):
        for side in range(2):
            p, q = (
                functional.softmax(x / 3, dim=-1) for x in (teacher[row, side], student[side][row])
            )
            soft = float(9 * (p * (p / q).log()).sum())
            hard = -float(functional.log_softmax(student[side][row], dim=-1)[labels[side][row]])
            by_hand += (0.7 * hard + 0.3 * soft if LABELLED[row] else soft) / B / 2
    assert mixed("span", student, labels, teacher) == pytest.approx(by_hand, rel=1e-5)


def test_label_loss_is_transformers_own(tiny_models):
    """With every row labelled and next to no soft targets the loss is the one that the model's head computes."""
    model = finetune.task_model(
        tiny_models / "student", kind="classification", labels=("a", "b"), seed=1
    ).eval()
    ids, labels = torch.arange(20).view(4, 5) + 5, torch.tensor([0, 1, 1, 0])
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    everything, teacher = torch.ones(4, dtype=torch.bool), drawn(4, 4, 2)
    second = SecondDistillation.model_validate({"alpha": 1e-9})
    ours = finetune.loss_with_soft_targets(
        "classification",
        [out.logits],
        [labels],
        teacher,
        torch.ones_like(ids),
        everything,
        second=second,
    )
    assert ours.item() == pytest.approx(out.loss.item(), rel=1e-6)


def test_batches_of_one_sort_alone():
    student, teacher, labels = drawn(1, B, C), drawn(2, B, C), torch.zeros(B, dtype=torch.long)
    none, each = torch.zeros(B, dtype=torch.bool), torch.ones(B, dtype=torch.bool)
    soft_alone = mixed("classification", [student], [labels], teacher, none)
    assert soft_alone == pytest.approx(
        mixed("classification", [student], [labels + 1], teacher, none)
    )
    hard_too = mixed("classification", [student], [labels], teacher, each)
    hard = float(functional.cross_entropy(student, labels))
    assert hard_too == pytest.approx(0.7 * hard + 0.3 * soft_alone, rel=1e-5)


# --- it teaches -----------------------------------------------------------------------------------------

QUICK = {
    "epochs": 8,
    "batch": 8,
    "learning_rate": 1e-2,
    "max_length": 23,
    "source": "made for the tests",
}


def test_words_that_only_unlabelled_texts_have_are_learnt(tiny_models):
    """Labels tell of two words; two others stand in texts without labels, of which the teacher speaks."""
    folder = tiny_models / "student"
    tokenizer = open_tokenizer(folder)
    known = [
        Example((f"a {word} film",), label) for word, label in (("good", 1.0), ("bad", 0.0))
    ] * 8
    other = [Example((f"a {word} film",)) for word in ("bright", "dull")] * 8
    said = {"good": (0, 9), "bad": (9, 0), "bright": (0, 9), "dull": (9, 0)}
    soft = [(np.array(said[e.texts[0].split()[1]], dtype=np.float32),) for e in (*known, *other)]

    def learnt(wrong: float) -> torch.Tensor:
        rows = finetune.features(tokenizer, known, kind="classification", max_length=23)
        untold = [Example(e.texts, wrong) for e in other]
        rows += finetune.features(
            tokenizer, untold, kind="classification", max_length=23, labelled=False
        )
        model = finetune.task_model(folder, kind="classification", labels=("bad", "good"), seed=1)
        finetune.fine_tune(
            model, rows, kind="classification", pad=0, training=Training.model_validate(QUICK), seed=1, label="test",
            soft_targets=soft, second=SecondDistillation(),
        )  # fmt: skip
        encoded = [row["encoded"] for row in rows[-2:]]
        ids = torch.tensor([each.input_ids for each in encoded])
        with torch.no_grad():
            return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    logits = learnt(wrong=0.0)
    assert logits.argmax(-1).tolist() == [1, 0]
    assert torch.equal(logits, learnt(wrong=1.0)), "what stands as their label was looked at"


def test_questions_without_answers_give_windows(tiny_models):
    tokenizer = open_tokenizer(tiny_models / "student")
    asked = Example(("where ?", "Ada lived in Paris ."), answers=(Answer("Paris", 13),))
    (told,) = finetune.features(tokenizer, [asked], kind="span", max_length=23)
    (untold,) = finetune.features(
        tokenizer, [Example(asked.texts)], kind="span", max_length=23, labelled=False
    )
    assert told["encoded"].input_ids == untold["encoded"].input_ids
    assert (told["labelled"], untold["labelled"]) == (True, False)


# --- cells ----------------------------------------------------------------------------------------------


def test_texts_are_part_of_a_soft_cells_key_alone(run, own_task):
    task = own_task(epochs=1, extra=SOFT.format("more.txt"))
    (task.parent / "more.txt").write_text("a dull plot\na bright actor\n")

    def cells() -> dict[str, str]:
        load_data.cache_clear()
        stage.evaluate(
            run, tasks=[str(task)], models=["student", "student-d", "student-step0-d"], seeds=1
        )
        return {path.stem: read_cell(path).key for path in (run.cells / "opinion").glob("*.json")}

    before = cells()
    notes = task_table(read_record(run.evaluation, EvaluationRecord)).notes
    assert notes[-1].startswith(
        "opinion: student-d, student-step0-d on 2 more texts, without labels"
    )
    assert set(before) == {"teacher-1", "student-1", "student-d-1", "student-step0-d-1"}
    soft = read_cell(run.cells / "opinion" / "student-d-1.json").cell
    assert (soft.train_examples, soft.hyper_parameters["unlabelled"]) == (64, 2)
    (task.parent / "more.txt").write_text("a dull plot\na bright story\n")
    after = cells()
    assert {name for name in before if before[name] != after[name]} == {
        "student-d-1",
        "student-step0-d-1",
    }


def test_soft_targets_for_what_was_not_distilled(run, own_task):
    """`student-step0-d` starts from the undistilled student's weights."""
    stage.evaluate(
        run, tasks=[str(own_task(epochs=1))], models=["student-step0", "student-step0-d"], seeds=1
    )
    plain, soft = (
        read_cell(run.cells / "opinion" / f"{name}-1.json")
        for name in ("student-step0", "student-step0-d")
    )
    assert plain.model_sha256 == soft.model_sha256
    assert soft.cell.hyper_parameters["alpha"] == 0.5

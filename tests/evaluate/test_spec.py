"""Task files: every one loads, carries the paper's figures, and a broken one says what is wrong."""

from pathlib import Path

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.spec import GLUE, expand_groups, load_task, task_names

OWN = """
kind = "classification"
metric = "accuracy"
[files]
train = "a.csv"
dev = "b.csv"
[training]
epochs = 1
batch = 2
learning_rate = 1e-3
max_length = 16
source = "x"
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_every_shipped_task_loads_and_names_the_source_of_its_settings():
    tasks = [load_task(name) for name in task_names()]
    assert len(tasks) == 14
    assert all(task.title and len(task.training.source) > 20 for task in tasks)


def test_only_the_nine_are_called_glue():
    assert {name for name in task_names() if load_task(name).suite == "GLUE"} == set(GLUE)
    assert len(GLUE) == 9


def test_paper_rows_give_the_papers_macro_scores():
    """The student's nine figures average to 77.0; BERT's to 79.5 only with the MNLI figure of the authors' README."""
    rows = {name: load_task(name).paper for name in GLUE}
    assert round(sum(row.student for row in rows.values()) / 9, 1) == 77.0
    teacher = {name: row.teacher for name, row in rows.items()}
    assert round(sum(teacher.values()) / 9, 1) == 79.7
    assert round(sum((teacher | {"mnli": 84.7}).values()) / 9, 1) == 79.5


def test_group_is_its_tasks_once():
    assert expand_groups(["sst2", "glue"])[0] == "sst2"
    assert sorted(expand_groups(["glue", "sst2"])) == sorted(GLUE)


def test_own_task_is_named_after_its_file(tmp_path):
    task = load_task(write(tmp_path, OWN))
    assert (task.name, task.shown, task.base) == ("mine", "mine", str(tmp_path))


def test_unknown_task_is_guessed():
    with pytest.raises(TaskError, match=r"no task 'sst3'; did you mean 'sst2'\?"):
        load_task("sst3")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("metric", "metrics"), "unknown key 'metrics'; did you mean 'metric'"),
        (('"accuracy"', '"pearson"'), "metric 'pearson' does not fit kind 'classification'"),
        (('"classification"', '"clasification"'), "'kind' is 'clasification'"),
        (("epochs = 1", "epochs = 0"), r"'training.epochs' is 0"),
        (("[files]", 'text = ["x"]\n[files]'), "unknown key 'text'"),
        (
            ('dev = "b.csv"', 'dev = "b.csv"\ntext = ["a", "b", "c"]'),
            "takes 1 or 2 text fields, got 3",
        ),
        (('kind = "classification"', "kind = "), "no TOML: .*line 2"),
    ],
)
def test_problem_is_told(tmp_path, change, told):
    with pytest.raises(TaskError, match=told):
        load_task(write(tmp_path, OWN.replace(*change)))


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(TaskError, match="2 problems"):
        load_task(
            write(
                tmp_path,
                OWN.replace("epochs = 1", "epochs = -1").replace("batch = 2", "batch = 'two'"),
            )
        )


def test_missing_task_file():
    with pytest.raises(TaskError, match=r"no task file 'nowhere/x.toml'"):
        load_task("nowhere/x.toml")


def test_labels_and_their_writing_must_pair(tmp_path):
    with pytest.raises(TaskError, match=r"files.values has 2 entries, labels 0"):
        load_task(
            write(tmp_path, OWN.replace('dev = "b.csv"', 'dev = "b.csv"\nvalues = ["0", "1"]'))
        )

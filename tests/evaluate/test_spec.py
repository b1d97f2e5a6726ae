"""Task files: the shipped ones load and carry the paper's figures; errors say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from edgedistil.core.errors import TaskError
from edgedistil.evaluate import spec
from edgedistil.evaluate.kinds import KINDS
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
SECTIONS = (
    spec.TaskSpec,
    spec.Files,
    spec.Hub,
    spec.Search,
    spec.Training,
    spec.SecondDistillation,
    spec.Paper,
)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


# --- shipped tasks -------------------------------------------------------------------------------


def test_every_shipped_task_loads_and_names_the_source_of_its_settings() -> None:
    tasks = [load_task(name) for name in task_names()]
    assert len(tasks) == 14
    assert all(task.title and len(task.training.source) > 20 for task in tasks)


def test_only_the_nine_are_called_glue() -> None:
    assert {name for name in task_names() if load_task(name).suite == "GLUE"} == set(GLUE)
    assert len(GLUE) == 9


def test_paper_rows_give_the_papers_macro_scores() -> None:
    """DistilBERT's nine average to 77.0; BERT's to 79.5 only with the MNLI figure of the README."""
    rows = {name: load_task(name).paper for name in GLUE}
    assert round(sum(row.student for row in rows.values() if row) / 9, 1) == 77.0
    teacher = {name: row.teacher for name, row in rows.items() if row}
    assert round(sum(teacher.values()) / 9, 1) == 79.7
    assert round(sum((teacher | {"mnli": 84.7}).values()) / 9, 1) == 79.5


def test_group_is_expanded_once() -> None:
    assert expand_groups(["sst2", "glue"])[0] == "sst2"
    assert sorted(expand_groups(["glue", "sst2"])) == sorted(GLUE)


# --- a user's own task file ----------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_description_of_one_sentence(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        description = field.description or ""
        assert description.endswith("."), f"{section.__name__}.{name} has no description"
        assert ". " not in description, f"{section.__name__}.{name}: expected one sentence"
        assert description[0].isupper(), f"{section.__name__}.{name}"


def test_every_section_of_the_module_is_checked_above() -> None:
    defined = [item for item in vars(spec).values() if isinstance(item, type)]
    sections = {item for item in defined if issubclass(item, spec.StrictSection)}
    assert sections - {spec.StrictSection} == set(SECTIONS)


def test_own_task_is_named_after_its_file(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, OWN))
    assert (task.name, task.shown, task.base) == ("mine", "mine", str(tmp_path))
    assert task.task_kind is KINDS["classification"]


def test_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(TaskError, match=r"unknown task 'sst3'; did you mean 'sst2'\?"):
        load_task("sst3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[files]", 'base = "/"\n[files]'), "unknown key 'base'"),
        (("metric", "metrics"), "unknown key 'metrics'; did you mean 'metric'"),
        (('"accuracy"', '"pearson"'), "metric 'pearson' does not fit kind 'classification'"),
        (('"classification"', '"clasification"'), "'kind' is 'clasification'"),
        (("epochs = 1", "epochs = 0"), r"'training.epochs' is 0"),
        (("[files]", 'text = ["x"]\n[files]'), "unknown key 'text'"),
        (
            ('dev = "b.csv"', 'dev = "b.csv"\ntext = ["a", "b", "c"]'),
            "takes 1 or 2 text fields, got 3",
        ),
        (('kind = "classification"', "kind = "), "not valid TOML: .*line 2"),
        (('[files]\ntrain = "a.csv"\ndev = "b.csv"\n', ""), r"expected \[files\] or \[hub\]"),
        (("[files]", "labels = []\n[files]"), "'labels' is .*: expected at least 2 values"),
        (("[files]", 'labels = ["a", " a "]\n[files]'), "expected distinct names"),
        (("[files]", 'labels = ["a", " "]\n[files]'), "expected distinct names"),
        (("[files]", 'positive = "a"\n[files]'), "only f1 and accuracy_f1 are about one class"),
        (("[files]", "range = [0.0, 1.0]\n[files]"), "highest label of a regression"),
        (("[files]", 'parts = ["m", "mm"]\n[files]'), "parts has 2 names, and there are 1 dev"),
        (('dev = "b.csv"', 'dev = "b.csv"\nlabel = "text"'), "'text' is a text column too"),
        (("epochs = 1", "epochs = 1000000000000"), "'training.epochs'"),
        (("learning_rate = 1e-3", "learning_rate = 2.0"), "'training.learning_rate'"),
    ],
)
def test_message_names_the_problem(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path, OWN.replace(*change)))


def test_regression_has_no_classes_and_an_ascending_range(tmp_path: Path) -> None:
    text = OWN.replace("classification", "regression").replace("accuracy", "pearson")
    for line, message in (
        ('labels = ["a", "b"]', "kind 'regression' has no classes"),
        ("range = [1.0, 0.0]", "expected the lowest and the highest label"),
    ):
        with pytest.raises(TaskError, match=message):
            load_task(write(tmp_path, text.replace("[files]", f"{line}\n[files]")))


def test_blanks_around_names_are_stripped(tmp_path: Path) -> None:
    text = OWN.replace("[files]", 'labels = [" no", "yes "]\npositive = " no "\n[files]')
    text = text.replace('"accuracy"', '"f1"').replace("dev =", 'values = [" 0 ", "1"]\ndev =')
    task = load_task(write(tmp_path, text))
    assert task.files is not None
    assert (task.labels, task.positive, task.files.values) == (("no", "yes"), "no", ("0", "1"))


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = OWN.replace("epochs = 1", "epochs = -1").replace("batch = 2", "batch = 'two'")
    with pytest.raises(TaskError, match="2 problems"):
        load_task(write(tmp_path, text))


def test_missing_task_file() -> None:
    with pytest.raises(TaskError, match=r"task file 'nowhere/x.toml' does not exist"):
        load_task("nowhere/x.toml")


def test_labels_and_their_spellings_must_have_equal_numbers(tmp_path: Path) -> None:
    text = OWN.replace('dev = "b.csv"', 'dev = "b.csv"\nvalues = ["0", "1"]')
    with pytest.raises(TaskError, match=r"files.values has 2 entries, labels 0"):
        load_task(write(tmp_path, text))


# --- hyper-parameters ----------------------------------------------------------------------------


SEARCH = OWN + "\n[training.search]\nlearning_rates = [1e-3, 1e-2]\n"


def test_settings_are_all_rates_with_all_epochs(tmp_path: Path) -> None:
    training = load_task(write(tmp_path, SEARCH + "epochs = [1, 3]\n")).training
    tried = [(setting.learning_rate, setting.epochs) for setting in training.settings()]
    assert tried == [(1e-3, 1), (1e-3, 3), (1e-2, 1), (1e-2, 3)]
    # A recipe that sets the epochs leaves the rates to choose from.
    fixed = [
        (setting.learning_rate, setting.epochs) for setting in training.with_epochs(5).settings()
    ]
    assert fixed == [(1e-3, 5), (1e-2, 5)]


def test_without_a_search_there_is_one_setting(tmp_path: Path) -> None:
    training = load_task(write(tmp_path, OWN)).training
    assert training.settings() == [training]


def test_no_setting_is_for_students_alone(tmp_path: Path) -> None:
    text = OWN.replace("epochs = 1", "epochs = 1\nstudent_learning_rate = 3e-2")
    with pytest.raises(TaskError, match="student_learning_rate"):
        load_task(write(tmp_path, text))


def test_source_is_not_a_hyper_parameter(tmp_path: Path) -> None:
    """The key of a cell contains the hyper-parameters: naming another source changes no result."""
    training = load_task(write(tmp_path, OWN)).training
    assert set(training.hyper_parameters()) == {
        "epochs",
        "batch",
        "learning_rate",
        "warmup",
        "weight_decay",
        "clip",
        "max_length",
    }

"""Every data set in its official layout or from the hub, and unlabelled texts for soft targets."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.evaluate import tasks
from edgedistil.evaluate.examples import TaskData, normalize_text
from edgedistil.evaluate.spec import Hub, TaskSpec, load_task
from edgedistil.evaluate.tasks import load_data

WriteTask = Callable[..., Path]


def loaded(task: Path) -> TaskData:
    load_data.cache_clear()
    return load_data(load_task(str(task)), None)


# --- official layouts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dev", "first", "labels"),
    [
        ("cola", 3, ("The story is good.",), [1, 0, 1]),
        ("sst2", 2, ("a dull film ",), [0, 1]),
        ("mrpc", 2, ('He said "good.', "He said good."), [1, 0]),
        ("qqp", 2, ("Where is it?", "Where did it live?"), [0, 1]),
        ("stsb", 2, ("A film.", "A good film."), [5.0, 0.8]),
        ("mnli", 5, ("A film matched 0.", "A story."), [1, 0, 2, 1, 1]),
        ("qnli", 2, ("Who wrote it?", "Ada wrote it."), [0, 1]),
        ("rte", 2, ("Ada lived.", "She lived."), [0, 1]),
        ("wnli", 2, ("She wrote it.", "Ada wrote."), [1, 0]),
    ],
)
def test_glue_in_its_official_layout(
    glue: Path, name: str, dev: int, first: tuple[str, ...], labels: list[float]
) -> None:
    data = load_data(load_task(name), glue)
    assert len(data.dev) == dev
    assert data.dev[0].texts == first
    assert [example.label for example in data.dev] == labels


def test_mnli_keeps_its_two_dev_sets_apart(glue: Path) -> None:
    data = load_data(load_task("mnli"), glue)
    assert [example.part for example in data.dev] == [0, 0, 1, 1, 1]


def test_truncated_rows_of_qqp_are_left_out_with_a_warning(glue: Path) -> None:
    warnings = load_data(load_task("qqp"), glue).warnings
    assert "train.tsv: 1 rows with missing cells were left out" in warnings


def test_other_line_separators_do_not_split_a_row(glue: Path) -> None:
    path = glue / "SST-2" / "dev.tsv"
    text = "a \x85 dull \u2028 film"
    path.write_text(f"sentence\tlabel\r\n{text}\t0\r\n", encoding="utf-8", newline="")
    assert load_data(load_task("sst2"), glue).dev[0].texts == (text,)


def test_imdb_reads_labelled_reviews_only(imdb: Path) -> None:
    data = load_data(load_task("imdb"), imdb)
    assert len(data.train) == len(data.dev) == 4
    assert sorted(example.label for example in data.dev) == [0, 0, 1, 1]
    assert data.dev[-1].texts[0] == "A great film .  Good ! Very ."


def test_squad_keeps_every_answer(squad: Path) -> None:
    data = load_data(load_task("squad"), squad)
    assert [answer.text for answer in data.dev[1].answers] == ["Paris", "in Paris"]
    assert data.dev[0].texts[1].startswith("Ada was born")


def test_overlap_of_train_and_dev_is_reported(glue: Path) -> None:
    warnings = load_data(load_task("rte"), glue).warnings
    assert any("2 of 2 dev texts are training texts too" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('"text": "London"', '"text": "Lisbon"'),
            "question q1: answer 'Lisbon' is not at character 16 .* has 'London' there",
        ),
        (('"q2"', '"q1"'), "question q1: id 'q1' is not unique"),
        (('"qas"', '"questions"'), "does not have the layout of SQuAD 1.1: KeyError: 'qas'"),
        (('"version"', "version"), r"dev-v1.1.json:1: not valid JSON"),
    ],
)
def test_malformed_squad(squad: Path, change: tuple[str, str], message: str) -> None:
    path = squad / "squad" / "dev-v1.1.json"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(TaskError, match=message):
        load_data(load_task("squad"), squad)


def test_empty_imdb_folder(imdb: Path) -> None:
    for path in (imdb / "aclImdb" / "test" / "pos").iterdir():
        path.unlink()
    with pytest.raises(TaskError, match=r"test/pos has no reviews"):
        load_data(load_task("imdb"), imdb)


def test_missing_official_file_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"SST-2/train.tsv does not exist") as caught:
        load_data(load_task("sst2"), tmp_path)
    assert "gluebenchmark.com" in str(caught.value.hint)


# --- the hub -------------------------------------------------------------------------------------


def test_unreachable_hub_says_what_to_download_manually(tmp_path: Path) -> None:
    """In a process of its own: the libraries read the offline switch when they are imported."""
    code = (
        "from edgedistil.evaluate.spec import load_task\n"
        "from edgedistil.evaluate.tasks import load_data\n"
        "from edgedistil.core.errors import OfflineError\n"
        "try: load_data(load_task('mnli'), None)\n"
        "except OfflineError as error: print(error.exit_code, error)"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    )
    output = process.stdout
    assert output.startswith("2 task 'mnli': cannot load nyu-mll/glue mnli from the hub")
    assert "put MNLI/train.tsv, MNLI/dev_matched.tsv, MNLI/dev_mismatched.tsv into a" in output
    assert "--data FOLDER" in output


SENTENCE_PAIR = {"sentence1": "a", "sentence2": "b"}
HUB: dict[str, tuple[dict[str, Any], float]] = {
    "cola": ({"sentence": "a", "label": 1, "idx": 0}, 1),
    "sst2": ({"sentence": "a", "label": 0, "idx": 0}, 0),
    "mrpc": ({**SENTENCE_PAIR, "label": 1, "idx": 0}, 1),
    "qqp": ({"question1": "a", "question2": "b", "label": 0, "idx": 0}, 0),
    "stsb": ({**SENTENCE_PAIR, "label": 3.5, "idx": 0}, 3.5),
    "mnli": ({"premise": "a", "hypothesis": "b", "label": 2, "idx": 0}, 2),
    "qnli": ({"question": "a", "sentence": "b", "label": 1, "idx": 0}, 1),
    "rte": ({**SENTENCE_PAIR, "label": 0, "idx": 0}, 0),
    "wnli": ({**SENTENCE_PAIR, "label": 1, "idx": 0}, 1),
    "imdb": ({"text": "a", "label": 1}, 1),
    "squad": (
        {"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}},
        0,
    ),
}
DEV_SPLITS = {"mnli": ["validation_matched", "validation_mismatched"], "imdb": ["test"]}


@pytest.mark.parametrize("name", HUB)
def test_columns_of_the_hub_are_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is replaced; the rows are as the hub's viewer shows them."""
    import datasets

    row, label = HUB[name]
    splits = []

    def download(_spec: TaskSpec, _hub: Hub, split: str) -> Any:
        splits.append(split)
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr(tasks, "_download_split", download)
    data = load_data(load_task(name), None)
    assert [example.label for example in data.train] == [label]
    assert data.dev[0].texts[0] == "a"
    assert splits == ["train", *DEV_SPLITS.get(name, ["validation"])]


def from_rows(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], names: list[str]
) -> None:
    """Replaces the download by rows whose labels are classes of the hub."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    table = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setattr(tasks, "_download_split", lambda *_: table)


def test_numbers_of_the_hub_are_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task may order the classes in another way."""
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}, {"text": "", "label": 1}]
    from_rows(monkeypatch, rows, ["pos", "neg"])
    data = load_data(load_task("imdb"), None)
    assert data.labels == ("neg", "pos")
    assert [example.label for example in data.train] == [1, 0, 0]
    # Public data is used as it is, and counted.
    assert "1 training row without text, used as they are" in data.warnings

    load_data.cache_clear()
    from_rows(monkeypatch, [*rows, {"text": "c", "label": -1}], ["pos", "neg"])
    with pytest.raises(TaskError, match="row 4: column 'label' is empty"):
        load_data(load_task("imdb"), None)


def test_any_error_of_the_library_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise ValueError("Unknown split 'trian'.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        TaskError, match=r"cannot read stanfordnlp/imdb  train: Unknown split 'trian'"
    ):
        load_data(load_task("imdb"), None)


# --- limits and unlabelled texts -----------------------------------------------------------------

SOFT = '[second_distillation]\nunlabelled = "{}"\n'


def test_limits_of_the_task_file_change_the_digest(own_task: WriteTask) -> None:
    path = own_task()
    data = loaded(path)
    limits = "train_limit = 11\ndev_limit = 7\n"
    path.write_text(limits + path.read_text(encoding="utf-8"), encoding="utf-8")
    some = loaded(path)
    assert (len(some.train), len(some.dev)) == (11, 7)
    assert some.warnings[-1] == f"7 of its {len(data.dev)} dev examples are scored"
    # Cells of the complete set are not taken for those of the limited one.
    assert some.sha256 != data.sha256


def test_rest_is_the_training_set_beyond_the_limit(own_task: WriteTask) -> None:
    complete = loaded(own_task(train=61, dev=17))
    data = loaded(own_task(train=61, dev=17, extra="train_limit = 23\n" + SOFT.format("rest")))
    assert len(data.train) == 23

    dev_texts = {normalize_text(example.texts[0]) for example in complete.dev}
    rest = Counter(example.texts for example in complete.train)
    rest -= Counter(example.texts for example in data.train)
    for texts in [texts for texts in rest if normalize_text(texts[0]) in dev_texts]:
        del rest[texts]
    assert len(rest) > 13
    assert Counter(example.texts for example in data.unlabelled) == rest
    assert {example.label for example in data.unlabelled} == {0.0}, "their labels are dropped"

    labelled_only = loaded(own_task(train=61, dev=17, extra="train_limit = 23"))
    assert data.sha256 == labelled_only.sha256


def test_limit_of_unlabelled_texts_selects_the_same_ones(own_task: WriteTask) -> None:
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
def test_file_next_to_the_task(own_task: WriteTask, name: str, content: str) -> None:
    task = own_task(extra=SOFT.format(name))
    (task.parent / name).write_text(content)
    texts = [example.texts for example in loaded(task).unlabelled]
    assert texts == [("a dull plot",), ("a bright actor",)]


@pytest.mark.parametrize(
    ("extra", "content", "message"),
    [
        (SOFT.format("more.csv"), None, r"task 'opinion': .*more\.csv does not exist"),
        (
            SOFT.format("more.csv"),
            b"txt\na film\n",
            r"more\.csv:1: column 'text' is missing; did you mean 'txt'\?",
        ),
        (
            SOFT.format("more.jsonl"),
            b'{"text": 7}',
            r"more\.jsonl:1: column 'text' is int, expected text",
        ),
        (SOFT.format("more.txt"), b"fine\n\xff\n", r"more\.txt:2: not UTF-8"),
        (SOFT.format("more.docx"), b"?", r"more\.docx: unknown format '\.docx'"),
        (SOFT.format("rest"), None, "needs train_limit"),
        (
            "[second_distillation]\nunlabelled_limit = 7\n",
            None,
            "unlabelled_limit = 7 without 'unlabelled'",
        ),
    ],
)
def test_malformed_unlabelled_texts_are_reported_with_their_place(
    own_task: WriteTask, extra: str, content: bytes | None, message: str
) -> None:
    task = own_task(extra=extra)
    if content is not None:
        (task.parent / extra.split('"')[1]).write_bytes(content)
    with pytest.raises(TaskError, match=message):
        loaded(task)


def test_a_line_is_one_text_and_a_pair_takes_two(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("a film\n")
    rows = '{"a": "x", "b": "y", "label": 0}\n{"a": "z", "b": "y", "label": 1}\n'
    for side in ("train", "dev"):
        (tmp_path / f"{side}.jsonl").write_text(rows)
    (tmp_path / "pairs.toml").write_text(
        'kind = "pair"\nmetric = "accuracy"\n'
        '[files]\ntrain = "train.jsonl"\ndev = "dev.jsonl"\ntext = ["a", "b"]\n'
        "[training]\nepochs = 1\nbatch = 8\nlearning_rate = 1e-2\nmax_length = 23\n"
        'source = "for the tests"\n' + SOFT.format("more.txt")
    )
    with pytest.raises(TaskError, match="a line contains one text, the task takes 2"):
        loaded(tmp_path / "pairs.toml")

"""Every data set in its official layout, a user's own files in four formats, and every bad datum with its place."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from edgedistil.core.errors import EdgeDistilError, TaskError
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data

SQUAD_CONTEXT_START = "Ada was born"


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
def test_glue_in_its_official_layout(glue, name, dev, first, labels):
    data = load_data(load_task(name), glue)
    assert len(data.dev) == dev
    assert data.dev[0].texts == first
    assert [example.label for example in data.dev] == labels


def test_mnli_keeps_its_two_dev_sets_apart(glue):
    assert [example.part for example in load_data(load_task("mnli"), glue).dev] == [0, 0, 1, 1, 1]


def test_cut_rows_of_qqp_are_left_out_and_told(glue):
    assert (
        "train.tsv: 1 rows with missing cells were left out"
        in load_data(load_task("qqp"), glue).warnings
    )


def test_other_line_separators_do_not_cut_a_row(glue):
    path = glue / "SST-2" / "dev.tsv"
    path.write_text(
        "sentence\tlabel\r\na \x85 dull \u2028 film\t0\r\n", encoding="utf-8", newline=""
    )
    assert load_data(load_task("sst2"), glue).dev[0].texts == ("a \x85 dull \u2028 film",)


def test_imdb_reads_labelled_reviews_only(imdb):
    data = load_data(load_task("imdb"), imdb)
    assert len(data.train) == len(data.dev) == 4
    assert sorted(example.label for example in data.dev) == [0, 0, 1, 1]
    assert data.dev[-1].texts[0] == "A great film .  Good ! Very ."


def test_squad_keeps_every_answer(squad):
    data = load_data(load_task("squad"), squad)
    assert [answer.text for answer in data.dev[1].answers] == ["Paris", "in Paris"]
    assert data.dev[0].texts[1].startswith(SQUAD_CONTEXT_START)


def test_overlap_of_train_and_dev_is_told(glue):
    assert any(
        "2 of 2 dev texts are training texts too" in each
        for each in load_data(load_task("rte"), glue).warnings
    )


# --- a user's own files ---------------------------------------------------------------------------

YES_NO = 'labels = ["no", "yes"]'
ROWS = [{"text": "good, very\n good", "label": "yes"}, {"text": 'a "bad" film', "label": "no"}]


def own(
    tmp_path: Path,
    suffix: str,
    *,
    kind="classification",
    metric="accuracy",
    top="",
    files="",
    content=None,
) -> Path:
    """A task whose two sides are the same file of the given format."""
    path = tmp_path / f"data{suffix}"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "own.toml").write_text(
        f'kind = "{kind}"\nmetric = "{metric}"\n{top}\n[files]\ntrain = "data{suffix}"\ndev = "data{suffix}"\n{files}\n'
        '[training]\nepochs = 1\nbatch = 2\nlearning_rate = 1e-3\nmax_length = 16\nsource = "x"\n'
    )
    return tmp_path / "own.toml"


def load_own(path: Path):
    return load_data(load_task(str(path)), None)


def table(delimiter: str) -> str:
    rows = (
        ["id", "text", "label"],
        ["7", '"good, very\n good"', "yes"],
        ["8", '"a ""bad"" film"', "no"],
    )
    return "".join(delimiter.join(row) + "\r\n" for row in rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_four_formats_say_the_same(tmp_path, suffix):
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data.parquet")
        task = own(tmp_path, suffix)
    elif suffix == ".jsonl":
        task = own(tmp_path, suffix, content="\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        task = own(tmp_path, suffix, content=table("," if suffix == ".csv" else "\t"))
    data = load_own(task)
    assert [example.texts[0] for example in data.train] == [row["text"] for row in ROWS]
    assert data.labels == ("no", "yes")
    assert [example.label for example in data.train] == [1, 0]


def test_pair_and_regression_from_jsonl(tmp_path):
    rows = [{"a": "x", "b": "y", "value": 3}, {"a": "x", "b": "z", "value": "4.5"}]
    task = own(
        tmp_path, ".jsonl", kind="regression", metric="pearson", top="range = [0.0, 5.0]",
        files='text = ["a", "b"]\nlabel = "value"', content="\n".join(map(json.dumps, rows)),
    )  # fmt: skip
    assert [(e.texts, e.label) for e in load_own(task).dev] == [
        (("x", "y"), 3.0),
        (("x", "z"), 4.5),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        {"answers": {"text": ["Rome"], "answer_start": [3]}},
        {"answers": [{"text": "Rome", "answer_start": 3}]},
        {"answers": "Rome", "answer_start": 3},
    ],
)
def test_span_in_three_writings(tmp_path, answer):
    row = {"q": "Where?", "c": "In Rome.", **answer}
    files = 'text = ["q", "c"]\nlabel = "answers"'
    task = own(tmp_path, ".jsonl", kind="span", metric="f1", files=files, content=json.dumps(row))
    assert load_own(task).dev[0].answers[0].start == 3


@pytest.mark.parametrize(
    ("suffix", "content", "files", "top", "told"),
    [
        (".csv", "text,lable\na,yes\n", "", "", r"data.csv:2: no column 'label'; did you mean 'lable'\?"),
        (".csv", "text,label\na,yes\nb\n", "", "", r"data.csv:3: 1 cells, expected 2 \(text, label\)"),
        (".csv", "text,label\na,yes\nb,no,more\n", "", "", r"data.csv:3: 3 cells, expected 2"),
        (".csv", 'text,label\na,yes\n"b,no\n', "", "", r"data.csv:3: unexpected end of data"),
        (".csv", "", "", "", r"data.csv: is empty; expected a header"),
        (".csv", "text,label\n", "", "", r"data.csv: holds no rows"),
        (".csv", "text,label\na,yes\nb,yes\n", "", "", "all training labels are 'yes'"),
        (".csv", "text,label\na,no\nb,perhaps\n", "", YES_NO, "data.csv:3: label 'perhaps' is none of no, yes"),
        (".csv", "n,text,label\n5,a,x\n6,b,y\n5,c,x\n", 'id = "n"', "", r"data.csv:4: id '5' was used before, at .*:2"),
        (".csv", b"text,label\na,yes\nb\xe9,no\n", "", "", r"data.csv:3: not UTF-8 \(byte 0xe9\)"),
        (".jsonl", '{"text": "a", "label": "x"}\n{"text": \n', "", "", r"data.jsonl:2: no JSON"),
        (".jsonl", '["a", "x"]\n', "", "", r"data.jsonl:1: expected a JSON object, got list"),
        (".jsonl", '{"text": 5, "label": "x"}\n', "", "", r"data.jsonl:1: column 'text' is int, expected text"),
        (".jsonl", '{"text": null, "label": "x"}\n', "", "", r"data.jsonl:1: column 'text' has no value"),
        (".jsonl", '{"text": "a", "label": 2}\n', "", YES_NO, r"data.jsonl:1: label 2 is out of range: expected 0…1"),
        (".parquet", "no parquet at all", "", "", r"data.parquet: no readable parquet"),
        (".txt", "a", "", "", r"data.txt: unknown format '.txt'"),
    ],
)  # fmt: skip
def test_bad_data_is_refused_with_its_place(tmp_path, suffix, content, files, top, told):
    with pytest.raises(TaskError, match=told) as caught:
        load_own(own(tmp_path, suffix, files=files, top=top, content=content))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("value", "told"),
    [("7", "7 is out of range: expected 0 to 5"), ("nan", "out of range"), ("x", "is no number")],
)
def test_bad_regression_label(tmp_path, value, told):
    content = f"text,label\na,3\nb,{value}\n"
    with pytest.raises(TaskError, match=f"data.csv:3: label .*{told}"):
        load_own(
            own(
                tmp_path,
                ".csv",
                kind="regression",
                metric="pearson",
                top="range = [0.0, 5.0]",
                content=content,
            )
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ("London", "Lisbon"),
            "question q1: answer 'Lisbon' is not at character 16; there is 'London'",
        ),
        (('"q2"', '"q1"'), "question q1: id 'q1' was used before"),
        (('"qas"', '"questions"'), "not SQuAD 1.1's layout: KeyError: 'qas'"),
        (('"version"', "version"), r"dev-v1.1.json:1: no JSON"),
    ],
)
def test_bad_squad(squad, change, told):
    path = squad / "squad" / "dev-v1.1.json"
    old, new = change
    text = path.read_text()
    path.write_text(
        text.replace(f'"text": "{old}"', f'"text": "{new}"')
        if old == "London"
        else text.replace(old, new)
    )
    with pytest.raises(TaskError, match=told):
        load_data(load_task("squad"), squad)


def test_empty_imdb_folder(imdb):
    for path in (imdb / "aclImdb" / "test" / "pos").iterdir():
        path.unlink()
    with pytest.raises(TaskError, match=r"test/pos: holds no reviews"):
        load_data(load_task("imdb"), imdb)


def test_missing_official_file_says_what_to_download(tmp_path):
    with pytest.raises(TaskError, match=r"no .*SST-2/train.tsv") as caught:
        load_data(load_task("sst2"), tmp_path)
    assert "gluebenchmark.com" in str(caught.value.hint)


def test_hub_out_of_reach_says_what_to_do_by_hand(tmp_path):
    """In a process of its own: the libraries read the offline switch when they are imported."""
    code = (
        "from edgedistil.evaluate.spec import load_task; from edgedistil.evaluate.tasks import load_data\n"
        "from edgedistil.core.errors import OfflineError\n"
        "try: load_data(load_task('mnli'), None)\n"
        "except OfflineError as error: print(error.exit_code, error)"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    )
    assert done.stdout.startswith("2 task 'mnli': cannot get nyu-mll/glue mnli from the hub")
    assert (
        "put MNLI/train.tsv, MNLI/dev_matched.tsv, MNLI/dev_mismatched.tsv into a folder"
        in done.stdout
    )
    assert "--data FOLDER" in done.stdout


HUB = {
    "cola": ({"sentence": "a", "label": 1, "idx": 0}, 1),
    "sst2": ({"sentence": "a", "label": 0, "idx": 0}, 0),
    "mrpc": ({"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0}, 1),
    "qqp": ({"question1": "a", "question2": "b", "label": 0, "idx": 0}, 0),
    "stsb": ({"sentence1": "a", "sentence2": "b", "label": 3.5, "idx": 0}, 3.5),
    "mnli": ({"premise": "a", "hypothesis": "b", "label": 2, "idx": 0}, 2),
    "qnli": ({"question": "a", "sentence": "b", "label": 1, "idx": 0}, 1),
    "rte": ({"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}, 0),
    "wnli": ({"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0}, 1),
    "imdb": ({"text": "a", "label": 1}, 1),
    "squad": (
        {"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}},
        0,
    ),
}


@pytest.mark.parametrize("name", HUB)
def test_hubs_columns_are_understood(name, monkeypatch):
    """The network is played; the rows are as the hub's viewer shows them."""
    import datasets

    from edgedistil.evaluate import tasks

    row, label = HUB[name]
    asked = []
    monkeypatch.setattr(
        tasks,
        "_fetch",
        lambda _spec, hub, split: asked.append(split) or datasets.Dataset.from_list([row]),
    )
    data = load_data(load_task(name), None)
    assert [example.label for example in data.train] == [label]
    assert data.dev[0].texts[0] in ("a",)
    dev = {"mnli": ["validation_matched", "validation_mismatched"], "imdb": ["test"]}.get(
        name, ["validation"]
    )
    assert asked == ["train", *dev]


def test_limit_keeps_the_same_examples(own_task):
    data = load_data(load_task(str(own_task())), None)
    once, again = data.limited(11), data.limited(11)
    assert once.train == again.train
    assert len(once.train) == 11
    assert once.dev == data.dev
    assert data.limited(10_000) is data


def test_a_task_may_take_a_part_of_its_data_and_tells_it(own_task):
    path = own_task()
    data = load_data(load_task(str(path)), None)
    path.write_text(
        "train_limit = 11\ndev_limit = 7\n" + path.read_text(encoding="utf-8"), encoding="utf-8"
    )
    some = load_data(load_task(str(path)), None)
    assert (len(some.train), len(some.dev)) == (11, 7)
    assert set(some.dev) < set(data.dev)
    assert some.warnings[-1] == f"7 of its {len(data.dev)} dev examples are scored"
    assert some.sha256 != data.sha256  # cells of the whole set are not taken for its own


def test_errors_are_of_the_users_branch():
    assert issubclass(TaskError, EdgeDistilError)

"""Task files and their data: wrong types, wrong tables, damaged files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from edgedistil.evaluate.spec import TaskSpec
from tests.stress.case import DONE, INPUT, Case, Prepare
from tests.stress.files import DAMAGES, TEXT_DAMAGES, both, copies, damages, writes
from tests.stress.values import (
    LONG,
    NUMBERS,
    TEXTS,
    WRONG_TOML,
    Raw,
    dotted,
    is_number,
    is_text,
    keys,
    toml,
    with_value,
)
from tests.stress.world import RUN, TASK, World, label_of, sentences

GROUP = "tasks"
SOUND: dict[str, Any] = tomllib.loads(TASK)
_EVALUATE = ("evaluate", "--run", RUN, "--task", "mine.toml", "--model", "student", "--seeds", "1")
_REFUSED: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "no labels": (("labels",), []),
    "one label": (("labels",), ["good"]),
    "same label twice": (("labels",), ["bad", "good", "good"]),
    "blank label": (("labels",), ["bad", ""]),
    "other labels": (("labels",), ["positive", "negative"]),
    "unknown kind": (("kind",), "sorting"),
    "unknown metric": (("metric",), "bleu"),
    "metric of another kind": (("metric",), "pearson"),
    "texts of a pair": (("files", "text"), ["text", "text2"]),
    "missing file": (("files", "train"), "nope.csv"),
    "a folder as file": (("files", "train"), "runs"),
    "a device as file": (("files", "train"), "/dev/zero"),
    "missing column": (("files", "label"), "lable"),
    "no dev files": (("files", "dev"), []),
    "length beyond the positions": (("training", "max_length"), 100_000),
    "length without text": (("training", "max_length"), 2),
    "unknown asset": (("asset",), "nope"),
    "name with a slash": (("name",), "a/b"),
    "unlabelled file missing": (("second_distillation",), {"unlabelled": "nope.txt"}),
    "limit without texts": (("second_distillation",), {"unlabelled_limit": 5}),
    "values without labels": (("files", "values"), ["0"]),
}
# Tables that are refused, with the name of the file in the message.
_TABLES: dict[str, str | bytes] = {
    "empty": "",
    "header only": "text,label\n",
    "no header": "the boat left,good\n",
    "missing cells": "text,label\nthe boat\n",
    "extra cells": "text,label\nthe boat,good,x\n",
    "unknown label": "text,label\nthe boat,perhaps\nthe road,good\n",
    "empty label": "text,label\nthe boat,\nthe road,good\n",
    "open quotation mark": 'text,label\n"the boat,good\nthe road,bad\n',
    "not UTF-8": b"text,label\nthe b\xffat,good\n",
    "nul": b"text,label\nthe b\0at,good\n",
    "utf-16": "text,label\nthe boat,good\n".encode("utf-16"),
    "same column twice": "text,text,label\na,b,good\n",
    "semicolons": "text;label\nthe boat;good\n",
    "binary": bytes(range(256)) * 20,
    "long header": f"{LONG},label\nx,good\n",
    "header with escapes": "te\x1b[31mxt,label\nx,good\n",
    "label with escapes": "text,label\nthe boat,\x1b[31mgood\n",
    "long label": f"text,label\nthe boat,{LONG}\n",
    "only blank texts": "text,label\n ,good\n ,bad\n",
}
_JSONL = {
    "not JSON": "{text: 1}\n",
    "a list": "[1, 2]\n",
    "a number": "1\n",
    "text is a number": '{"text": 1, "label": "good"}\n',
    "text is null": '{"text": null, "label": "good"}\n',
    "label is a list": '{"text": "the boat", "label": []}\n',
    "label is an object": '{"text": "the boat", "label": {}}\n',
    "label is huge": '{"text": "the boat", "label": ' + "9" * 5000 + "}\n",
    "no label": '{"text": "the boat"}\n',
    "lone surrogate": '{"text": "the \\ud800 boat", "label": "good"}\n',
    "deep": "[" * 100_000 + "]" * 100_000 + "\n",
    "NaN label": '{"text": "the boat", "label": NaN}\n',
    "cut": '{"text": "the boat", "lab',
}


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    inputs = both(copies(world, "runs", "train.csv", "dev.csv"))

    def case(
        name: str,
        task: str,
        *steps: Prepare,
        codes: tuple[int, ...] = (INPUT,),
        expected: tuple[str, ...] = (),
    ) -> Case:
        prepare = both(inputs, writes({"mine.toml": task}), *steps)
        return Case(GROUP, name, _EVALUATE, codes, prepare, expected)

    for path, _field in keys(TaskSpec, SOUND):
        kind = random.choice(sorted(WRONG_TOML))
        data = toml(with_value(SOUND, path, Raw(WRONG_TOML[kind])))
        yield case(f"{dotted(path)}: {kind}", data, expected=(str(path[-1]),))
    for path, field in keys(TaskSpec, SOUND):
        # Long trainings are what was asked for; their end is not what is tried here.
        if is_number(field) and path[-1] not in ("epochs", "train_limit", "dev_limit"):
            kind = random.choice(sorted(NUMBERS))
            data = toml(with_value(SOUND, path, Raw(NUMBERS[kind])))
            # The loss may diverge: exit code 1 says so.
            yield case(f"{dotted(path)}: {kind}", data, codes=(DONE, 1, INPUT))
        elif is_text(field) and path[0] != "hub":
            kind = random.choice(sorted(TEXTS))
            data = toml(with_value(SOUND, path, TEXTS[kind]))
            yield case(f"{dotted(path)}: text {kind}", data, codes=(DONE, INPUT))
    for name, (path, value) in _REFUSED.items():
        yield case(name, toml(with_value(SOUND, path, value)))

    for name, table in _TABLES.items():
        for side in ("train", "dev"):
            step = writes({f"{side}.csv": table})
            yield case(f"{side}.csv: {name}", TASK, step, expected=(f"{side}.csv",))
    for name, rows in _JSONL.items():
        step = writes({"train.jsonl": rows})
        task = toml(with_value(SOUND, ("files", "train"), "train.jsonl"))
        yield case(f"train.jsonl: {name}", task, step, expected=("train.jsonl",))
    for name, damage in TEXT_DAMAGES.items():
        step = damages("train.csv", damage)
        yield case(f"damaged train.csv: {name}", TASK, step, codes=(DONE, INPUT))
        task_file = both(inputs, writes({"mine.toml": TASK}), damages("mine.toml", damage))
        yield Case(GROUP, f"task file: {name}", _EVALUATE, (DONE, INPUT), task_file)
    parquet_task = toml(with_value(SOUND, ("files", "train"), "train.parquet"))
    for name, damage in DAMAGES.items():
        for number in range(3):
            steps = (_write_parquet, damages("train.parquet", damage))
            codes = (DONE, INPUT)
            yield case(f"train.parquet: {name} {number}", parquet_task, *steps, codes=codes)
    yield from _layouts(case)
    yield from _collections(inputs)
    for name in ("nope.toml", "", LONG, "a\nb.toml", "sentimant", "/dev/zero", "runs"):
        arguments = ("evaluate", "--run", RUN, "--task", name)
        yield Case(GROUP, f"--task {name[:20]!r}", arguments, (INPUT,), inputs)


def _layouts(case: Any) -> Iterator[Case]:
    """Yields official layouts that are not what they claim to be."""
    squad = {"kind": "span", "metric": "f1"}
    sound = {key: value for key, value in SOUND.items() if key != "labels"}
    files = {
        "format": "squad",
        "train": "train.json",
        "dev": "train.json",
        "text": ["question", "context"],
        "label": "answers",
    }
    task = toml({**sound, **squad, "files": files})
    question = {"id": "1", "question": "who left?", "answers": [{"text": "x", "answer_start": 0}]}
    documents: dict[str, Any] = {
        "a list": [],
        "no data": {},
        "data is a number": {"data": 1},
        "article is null": {"data": [None]},
        "no paragraphs": {"data": [{"title": "x"}]},
        "context is a number": {"data": [{"paragraphs": [{"context": 1, "qas": [question]}]}]},
        "answer elsewhere": {
            "data": [{"paragraphs": [{"context": "the boat", "qas": [question]}]}]
        },
        "start is text": {
            "data": [
                {
                    "paragraphs": [
                        {
                            "context": "x",
                            "qas": [{**question, "answers": [{"text": "x", "answer_start": "0"}]}],
                        }
                    ]
                }
            ]
        },
    }
    for name, document in documents.items():
        step = writes({"train.json": json.dumps(document)})
        # Tables write the start as text, and "0" has one meaning.
        codes = (DONE, INPUT) if name == "start is text" else (INPUT,)
        yield case(f"squad: {name}", task, step, codes=codes, expected=("train.json",))
    yield case("squad: deep", task, writes({"train.json": "[" * 100_000}), expected=("train.json",))
    imdb = toml({**SOUND, "files": {"format": "aclImdb", "train": "train", "dev": "dev"}})
    yield case("aclImdb: empty folders", imdb, _empty_folders)
    yield case("aclImdb: files", imdb, writes({"train": "x", "dev": "x"}))


_DOCUMENT = '{"_id": "d1", "title": "", "text": "the boat left"}\n'
_QUERY = '{"_id": "q1", "text": "who left?"}\n'
_QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\n"
_BAD_QRELS = {
    "empty": "",
    "two cells": "q1\td1\n",
    "unknown query": "nope\td1\t1\n",
    "unknown document": "q1\tnope\t1\n",
    "grade is text": "q1\td1\tgood\n",
    "endless grade": "q1\td1\t" + "9" * 5000 + "\n",
    "no relevant document": "q1\td1\t0\n",
    "not UTF-8": b"q1\td\xff\t1\n",
    "long id": f"{LONG}\td1\t1\n",
    "escape": "\x1b[31m\td1\t1\n",
}


def _collections(inputs: Prepare) -> Iterator[Case]:
    """Yields retrieval collections in BEIR's layout with a bad file each."""
    sound: dict[str, str | bytes] = {
        "beir/corpus.jsonl": _DOCUMENT,
        "beir/queries.jsonl": _QUERY,
        "beir/qrels/test.tsv": _QRELS,
    }
    arguments = ("evaluate", "--run", RUN, "--task", "beir", "--model", "student")
    bad: dict[str, dict[str, str | bytes]] = {}
    for name, rows in _JSONL.items():
        for file in ("corpus.jsonl", "queries.jsonl"):
            bad[f"{file} {name}"] = {f"beir/{file}": rows}
    for name, content in _BAD_QRELS.items():
        bad[f"qrels {name}"] = {"beir/qrels/test.tsv": content}
    bad["an id twice"] = {"beir/corpus.jsonl": _DOCUMENT * 2}
    surrogate = _DOCUMENT.replace("boat", "\\ud800")
    bad["half of a pair"] = {"beir/corpus.jsonl": surrogate}
    for name, files in bad.items():
        step = both(inputs, writes({**sound, **files}))
        yield Case(GROUP, f"collection: {name}", arguments, (INPUT,), step)
    step = both(inputs, writes(sound))
    yield Case(GROUP, "collection: sound", arguments, (DONE,), step)


def _empty_folders(work: Path, _random: Random) -> None:
    for side in ("train", "dev"):
        (work / side / "pos").mkdir(parents=True)


def _write_parquet(work: Path, _random: Random) -> None:
    # In a process of its own: pyarrow starts threads, and the warm process has to have none.
    import subprocess
    import sys

    texts = sentences(400, seed=5)
    columns = {"text": texts, "label": [label_of(text) for text in texts]}
    script = (
        "import json, sys, pyarrow as pa, pyarrow.parquet as pq;"
        "pq.write_table(pa.table(json.load(sys.stdin)), 'train.parquet')"
    )
    subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(columns).encode(), cwd=work, check=True
    )

"""Collections in BEIR's format, sound and malformed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.retrieval.beir import is_beir_folder, read_beir

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(
        tmp_path / "corpus.jsonl",
        {"_id": "d1", "title": "Birds", "text": "Gulls live by the sea."},
        {"_id": "d2", "text": "Moss grows on stone."},
    )
    write_lines(
        tmp_path / "queries.jsonl",
        {"_id": "q1", "text": "sea birds"},
        {"_id": "q2", "text": "of the training split"},
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text(f"{HEADER}q1\td1\t1\nq1\td2\t0\n")
    return tmp_path


def write_lines(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_sound_folder(folder: Path) -> None:
    collection = read_beir(folder)
    assert collection.documents == {
        "d1": "Birds Gulls live by the sea.",
        "d2": "Moss grows on stone.",
    }
    assert collection.queries == {"q1": "sea birds"}
    assert collection.relevance == {"q1": {"d1": 1}}
    assert collection.notes == ("queries without a relevant document in test.tsv left out: 1",)


def test_numbers_as_ids_and_trec_columns(folder: Path) -> None:
    write_lines(folder / "corpus.jsonl", {"_id": 7, "text": "a"})
    (folder / "qrels/test.tsv").write_text("q1\t0\t7\t1\n")
    assert read_beir(folder).relevance == {"q1": {"7": 1}}


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q9\td1\t1\n", r"test\.tsv:2: unknown query id q9"),
        ("q1\td9\t1\n", r"test\.tsv:2: unknown document id d9"),
        ("q1\td1\n", r"test\.tsv:2: 2 cells instead of 3"),
        ("q1\td1\tyes\n", r"test\.tsv:2: the grade is yes"),
        ("q1\td1\t0\n", "no query with a relevant document"),
        ("", "no query with a relevant document"),
    ],
)
def test_wrong_qrels(folder: Path, qrels: str, message: str) -> None:
    (folder / "qrels/test.tsv").write_text(HEADER + qrels)
    with pytest.raises(TaskError, match=message):
        read_beir(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}', ":2: the id a"),
        ("corpus.jsonl", '{"_id": "a", "text": 7.5}', ":1: 'text' is 7.5"),
        ("corpus.jsonl", '{"_id": "a", "text": " "}', ":1: the text is empty"),
        ("queries.jsonl", "[1]", ":1: expected a JSON object"),
        ("queries.jsonl", '{"_id": true, "text": "x"}', ":1: '_id' is True"),
    ],
)
def test_wrong_lines(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(TaskError, match=message):
        read_beir(folder)


@pytest.mark.parametrize("file", ["queries.jsonl", "qrels/test.tsv"])
def test_missing_files(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(TaskError, match=rf"(is missing|has no {file})"):
        read_beir(folder)


def test_half_of_a_surrogate_pair_is_refused_with_its_line(folder: Path) -> None:
    write_lines(folder / "queries.jsonl", {"_id": "q1", "text": "a \ud800"})
    with pytest.raises(TaskError, match=r"queries.jsonl:1: .* half of a surrogate pair"):
        read_beir(folder)


def test_only_a_folder_with_documents_is_a_collection(folder: Path) -> None:
    assert is_beir_folder(folder)
    for path in (folder / "qrels", Path("x" * 5000), Path("a\0b")):
        assert not is_beir_folder(path)

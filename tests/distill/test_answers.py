"""Files of vectors: equal to the live teacher, and refused where rows do not belong to texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from edgedistil.core.errors import (
    CorpusError,
    InputError,
    ModelError,
    RecipeError,
    RunError,
    StorageError,
)
from edgedistil.core.recipe import Recipe
from edgedistil.core.rundir import RunDir, sha256_file
from edgedistil.distill import answers as answers_module
from edgedistil.distill.answers import write_answers
from edgedistil.distill.answers_stage import answer
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.stage import distill
from edgedistil.distill.targets import TeacherTargets
from edgedistil.models.sentence_encoder import load_sentence_encoder
from tests.distill.sentences import DIMENSION, TRACED, sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]
OBJECTIVE = {"states": 0.0, "similarity": 1.0}
# A run of seven steps that reads its 1,141 texts once.
A_PASS = {"global_batch": 168, "micro_batch": 24}


@pytest.fixture(scope="module")
def teacher_folder(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_teacher(tiny_teacher, tmp_path_factory.mktemp("sentences") / "teacher")


@pytest.fixture
def make(tiny_recipe: Make, teacher_folder: Path) -> Make:
    def with_answers(answers: Path | None = None, **train: Any) -> Recipe:
        teacher = {"source": str(teacher_folder)}
        if answers is not None:
            teacher["answers"] = str(answers)
        return sentence_recipe(
            tiny_recipe,
            teacher_folder,
            teacher=teacher,
            objective=OBJECTIVE,
            train={"steps": 7, **train},
        )

    return with_answers


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def trace(run: RunDir) -> list[Any]:
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    keys = [*TRACED, "similarity"]
    steps = [[entry[key] for key in keys] for entry in entries if entry["kind"] == "train"]
    return [steps, [entry for entry in entries if entry["kind"] == "heldout"]]


@pytest.fixture
def answers(make: Make, tmp_path: Path) -> Path:
    """The local teacher's own vectors."""
    path = tmp_path / "answers.jsonl"
    answer(make(), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".npy"])
def test_a_file_of_the_teacher_gives_the_trace_of_the_teacher(
    make: Make, runs: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"answers{suffix}"
    assert answer(make(), path) == path
    live, live_record = distill(make(**A_PASS), run_name="live", resume=False)
    filed, record = distill(make(path, **A_PASS), run_name="filed", resume=False)
    assert trace(filed) == trace(live)
    assert record.student.weights_sha256 == live_record.student.weights_sha256
    assert record.answers_sha256 == sha256_file(path) and live_record.answers_sha256 is None


def test_a_short_run_encodes_the_texts_of_its_batches_alone(
    make: Make, runs: Path, answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TeacherTargets, "vectors", lambda *_: pytest.fail("a block was encoded"))
    # Less than the held-out part, too.
    live, _ = distill(make(heldout_tokens=300), run_name="live", resume=False)
    filed, _ = distill(make(answers, heldout_tokens=300), run_name="filed", resume=False)
    for mine, theirs in zip(trace(live)[0], trace(filed)[0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_other_vectors_give_another_trace(
    make: Make, runs: Path, answers: Path, tmp_path: Path
) -> None:
    lines = read_lines(answers)
    for line in lines:
        line["vector"] = line["vector"][::-1]
    write_lines(tmp_path / "other.jsonl", lines)
    filed, _ = distill(make(answers), run_name="filed", resume=False)
    other, _ = distill(make(tmp_path / "other.jsonl"), run_name="other", resume=False)
    assert trace(other)[0] != trace(filed)[0]


def test_vectors_of_another_width_get_a_dense_layer(
    make: Make, runs: Path, answers: Path, tmp_path: Path
) -> None:
    lines = read_lines(answers)
    for line in lines:
        line["vector"] = [*line["vector"], *line["vector"][:4]]
    path = tmp_path / "wide.jsonl"
    write_lines(path, lines)
    run, record = distill(make(path, steps=40, learning_rate=3e-3), run_name=None, resume=False)
    encoder = load_sentence_encoder(run.student)
    assert encoder.vector.dimension == DIMENSION + 4
    assert [step.kind for step in encoder.vector.steps] == ["dense", "dense", "normalize"]
    assert record.heldout[2].cosine > record.heldout[1].cosine + 0.3


def test_dimensions_are_those_of_the_file(
    make: Make, runs: Path, answers: Path, tmp_path: Path
) -> None:
    def with_dimensions(width: int, dimensions: list[int]) -> Recipe:
        lines = read_lines(answers)
        for line in lines:
            line["vector"] = (line["vector"] * 2)[:width]
        path = tmp_path / f"{width}.jsonl"
        write_lines(path, lines)
        recipe = make(path)
        return recipe.model_copy(
            update={
                "teacher": recipe.teacher.model_copy(update={"is_matryoshka": True}),
                "objective": recipe.objective.model_copy(update={"dimensions": dimensions}),
            }
        )

    narrow = with_dimensions(DIMENSION - 4, [DIMENSION - 2])
    with pytest.raises(ModelError, match=f"less than the vectors' {DIMENSION - 4} values"):
        distill(narrow, run_name="narrow", resume=False)
    assert not (runs / "narrow").exists()
    run, _ = distill(with_dimensions(DIMENSION + 4, [DIMENSION + 2]), run_name=None, resume=False)
    assert load_sentence_encoder(run.student).vector.dimension == DIMENSION + 4


def test_a_missing_file_is_refused_by_run_and_plan(make: Make, runs: Path, tmp_path: Path) -> None:
    recipe = make(tmp_path / "nothing.jsonl")
    for call in (plan, partial(distill, run_name="mine", resume=False)):
        with pytest.raises(CorpusError, match=r"cannot read .*nothing\.jsonl"):
            call(recipe)
    assert not (runs / "mine").exists()


def test_texts_alone_are_for_a_teacher_elsewhere(make: Make, answers: Path, tmp_path: Path) -> None:
    answer(make(), tmp_path / "texts.jsonl", texts_only=True)
    texts = [line["text"] for line in read_lines(tmp_path / "texts.jsonl")]
    assert texts == [line["text"] for line in read_lines(answers)]


def drop(lines: list[dict[str, Any]]) -> None:
    del lines[7]


def repeat(lines: list[dict[str, Any]]) -> None:
    lines[7] = lines[3]


def shuffle(lines: list[dict[str, Any]]) -> None:
    lines[7], lines[11] = lines[11], lines[7]


def end_early(lines: list[dict[str, Any]]) -> None:
    lines.pop()


def go_on(lines: list[dict[str, Any]]) -> None:
    lines.append({"text": "more", "vector": lines[0]["vector"]})


def shorten(lines: list[dict[str, Any]]) -> None:
    lines[7]["vector"].pop()


def put(value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(lines: list[dict[str, Any]]) -> None:
        lines[7]["vector"][2] = value

    return change


def erase(lines: list[dict[str, Any]]) -> None:
    lines[7]["vector"] = [0.0] * DIMENSION


def rename(lines: list[dict[str, Any]]) -> None:
    lines[7] = {"sentence": "a", "vector": lines[0]["vector"]}


def lose(lines: list[dict[str, Any]]) -> None:
    del lines[7]["vector"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "lacks the text that row 8 should have: "),
        (repeat, "row 8 is a duplicate of row 4: "),
        (shuffle, "not in the corpus's order: the text of row 8 is in row 12: "),
        (end_early, "lacks the text that row"),
        (go_on, r"has \d+ rows, and the corpus \d+ texts"),
        (shorten, "row 8: the vector has 18 values, and that of row 1 19"),
        (put(float("nan")), "row 8: the vector has values that are NaN or infinite"),
        (put(float("inf")), "row 8: the vector has values that are NaN or infinite"),
        (put("1.0"), "row 8: the vector is .*; expected a list of numbers"),
        (put(True), "row 8: the vector is .*; expected a list of numbers"),
        (erase, "row 8: all values of the vector are 0"),
        (rename, "row 8 has no text"),
        (lose, "row 8 has no vector; expected a list of numbers"),
    ],
)
def test_wrong_rows_are_named(
    make: Make,
    runs: Path,
    answers: Path,
    change: Callable[[list[dict[str, Any]]], None],
    message: str,
) -> None:
    lines = read_lines(answers)
    change(lines)
    write_lines(answers, lines)
    with pytest.raises(CorpusError, match=message):
        distill(make(answers), run_name=None, resume=False)
    assert not (runs / "small").exists()


@pytest.mark.parametrize("content", ["", "{", "[]\n", '{"text": 1}\n', "\0\0"])
def test_a_damaged_file_is_refused(make: Make, runs: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=r"damaged\.jsonl"):
        distill(make(path), run_name=None, resume=False)


def test_arrays_of_objects_are_not_read(make: Make, runs: Path, tmp_path: Path) -> None:
    """A pickle in a .npy file would run code."""
    path = tmp_path / "objects.npy"
    np.save(path, np.array([[object()]]), allow_pickle=True)
    with pytest.raises(CorpusError, match=r"objects\.npy is not a readable file"):
        distill(make(path), run_name=None, resume=False)


def test_other_formats_are_refused(make: Make, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("text,vector\n")
    with pytest.raises(CorpusError, match=r"supported: \.jsonl, \.parquet, \.npy"):
        distill(make(path), run_name=None, resume=False)
    with pytest.raises(CorpusError, match="supported"):
        write_answers(path, iter([]), count=0)
    with pytest.raises(CorpusError, match="cannot read"):
        distill(make(tmp_path / "absent.jsonl"), run_name=None, resume=False)


def test_a_file_that_cannot_be_written_is_refused_before_texts_are_encoded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def rows() -> Iterator[tuple[str, NDArray[np.float32]]]:
        raise AssertionError("a text was encoded")
        yield

    with pytest.raises(StorageError, match="cannot write"):
        write_answers(tmp_path / "file" / "answers.jsonl", rows(), count=1)


@pytest.mark.parametrize("suffix", answers_module.SUFFIXES)
def test_rows_are_written_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """A million vectors do not fit into memory."""
    monkeypatch.setattr(answers_module, "_BATCH_ROWS", 3)
    vectors_RV = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    path, waiting = tmp_path / f"answers{suffix}", []
    stack = np.stack

    def written(block: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        waiting.append(len(block))
        return stack(block)

    monkeypatch.setattr(answers_module.np, "stack", written)
    rows = ((f"text {number}", vector_V) for number, vector_V in enumerate(vectors_RV))
    write_answers(path, rows, count=8)
    assert waiting == [3, 3, 2]
    read = list(answers_module._read_rows(path))
    assert [(number, text) for number, text, _ in read] == [
        (number + 1, f"text {number}") for number in range(8)
    ]
    assert np.array_equal(np.array([vector for *_, vector in read], np.float32), vectors_RV)


# --- parquet -------------------------------------------------------------------------------------


def write_parquet(path: Path, lines: list[dict[str, Any]], kind: pa.DataType) -> None:
    texts = pa.array([line["text"] for line in lines], pa.string())
    vectors = pa.array([line["vector"] for line in lines], kind)
    pq.write_table(pa.table({"text": texts, "vector": vectors}), path)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), DIMENSION)],
    ids=["list", "large list", "list of a fixed size"],
)
def test_every_kind_of_list_is_read_and_a_null_is_named(
    make: Make, runs: Path, answers: Path, tmp_path: Path, kind: pa.DataType
) -> None:
    path, lines = tmp_path / "lists.parquet", read_lines(answers)
    write_parquet(path, lines, kind)
    distill(make(path, steps=1), run_name=None, resume=False)
    lines[7]["vector"] = None
    write_parquet(path, lines, kind)
    with pytest.raises(CorpusError, match="row 8 has no vector; expected a list of numbers"):
        distill(make(path), run_name="null", resume=False)


def test_a_row_of_parquet_without_text_is_named(
    make: Make, runs: Path, answers: Path, tmp_path: Path
) -> None:
    path, lines = tmp_path / "texts.parquet", read_lines(answers)
    lines[7]["text"] = None
    write_parquet(path, lines, pa.list_(pa.float32()))
    with pytest.raises(CorpusError, match=r"texts\.parquet row 8 has no text"):
        distill(make(path), run_name=None, resume=False)


@pytest.mark.parametrize("kind", [pa.float64(), pa.string()])
def test_a_column_that_is_not_of_lists_is_refused(
    make: Make, runs: Path, answers: Path, tmp_path: Path, kind: pa.DataType
) -> None:
    path = tmp_path / "numbers.parquet"
    value = 1.0 if kind == pa.float64() else "1.0"
    lines = [{**line, "vector": value} for line in read_lines(answers)]
    write_parquet(path, lines, kind)
    message = rf"column 'vector' of .*numbers\.parquet is of type {kind}; expected lists of numbers"
    with pytest.raises(CorpusError, match=message):
        distill(make(path), run_name=None, resume=False)


# --- files that exist, and the two files of .npy -------------------------------------------------


@pytest.mark.parametrize(
    ("out", "existing"),
    [("a.jsonl", "a.jsonl"), ("a.parquet", "a.parquet"), ("a.npy", "a.npy"), ("a.npy", "a.jsonl")],
)
def test_existing_files_are_not_replaced(
    make: Make, tmp_path: Path, out: str, existing: str
) -> None:
    (tmp_path / existing).write_text("my corpus")
    with pytest.raises(InputError, match=rf"{existing} exists already; nothing was") as caught:
        answer(make(), tmp_path / out)
    assert caught.value.hint == "name another file: --out FILE"
    assert (tmp_path / existing).read_text() == "my corpus"
    assert len(list(tmp_path.iterdir())) == 1


def test_texts_alone_do_not_replace_a_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("my corpus")
    with pytest.raises(InputError, match=r"a\.jsonl exists already"):
        answer(make(), tmp_path / "a.jsonl", texts_only=True)


def test_a_kill_between_the_two_files_of_npy_leaves_no_texts(
    make: Make, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(answers_module, "write_texts", killed)
    path = tmp_path / "mine.npy"
    with pytest.raises(KeyboardInterrupt):
        answer(make(), path)
    assert path.exists()
    with pytest.raises(CorpusError, match=r"mine\.jsonl is missing: the texts of the vectors"):
        distill(make(path), run_name=None, resume=False)


def test_vectors_of_another_call_are_refused_and_files_without_a_digest_are_read(
    make: Make, runs: Path, tmp_path: Path
) -> None:
    path, texts = tmp_path / "mine.npy", tmp_path / "mine.jsonl"
    answer(make(), path)
    first, *others = read_lines(texts)
    assert first["npy_sha256"] == sha256_file(path)
    assert all(set(line) == {"text"} for line in others)
    # As many vectors, of another teacher.
    np.save(path, np.load(path)[::-1])
    with pytest.raises(CorpusError, match=r"does not have the vectors of mine\.jsonl") as caught:
        distill(make(path), run_name=None, resume=False)
    assert "remove npy_sha256 from the first row of mine.jsonl" in (caught.value.hint or "")
    write_lines(texts, [{"text": first["text"]}, *others])
    distill(make(path, steps=1), run_name=None, resume=False)


def test_a_run_does_not_continue_with_another_file(make: Make, runs: Path, answers: Path) -> None:
    run, _ = distill(make(answers), run_name="mine", resume=False)
    run.distill.unlink()
    lines = read_lines(answers)
    lines[3]["vector"][0] += 0.5
    write_lines(answers, lines)
    with pytest.raises(RunError, match=r"teacher\.answers of run 'mine' has changed"):
        distill(make(answers), run_name="mine", resume=True)


def test_states_need_the_teacher_itself(
    tiny_recipe: Make, teacher_folder: Path, answers: Path
) -> None:
    teacher = {"source": str(teacher_folder), "answers": str(answers)}
    with pytest.raises(RecipeError, match=r"vectors only(.|\n)*set objective\.states = 0"):
        sentence_recipe(tiny_recipe, teacher_folder, teacher=teacher)
    with pytest.raises(RecipeError, match=r'objective\.kind is "mlm"'):
        sentence_recipe(
            tiny_recipe, teacher_folder, teacher=teacher, objective={**OBJECTIVE, "kind": "mlm"}
        )

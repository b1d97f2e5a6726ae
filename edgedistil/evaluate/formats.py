"""Examples from tables and from the official layouts of IMDb and SQuAD.

Every problem is reported with file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.errors import TaskError
from edgedistil.core.format import plural
from edgedistil.core.paths import user_path
from edgedistil.evaluate.examples import AnswerSpan, RawExample
from edgedistil.evaluate.spec import Files, TaskSpec
from edgedistil.evaluate.tables import Row, read_rows, utf8_text

# No model reads as many tokens, and the tokenizer takes some 100 bytes for each.
MAX_TEXT_CHARACTERS = 2**24
# Half of a pair of code units, which UTF-8 cannot encode; only an escape in JSON can give it.
_SURROGATE = re.compile("[\ud800-\udfff]")


# --- examples ------------------------------------------------------------------------------------


def read_side(
    spec: TaskSpec, files: Files, names: Sequence[str], folder: Path
) -> tuple[list[RawExample], list[str]]:
    """Reads the training or dev examples of a task.

    Args:
        spec: Description of the task.
        files: Its [files] section.
        names: Files or folders of this side, relative to `folder`.
        folder: Folder of the data set.
    Returns:
        Examples, those without a text or label included, and remarks such as the number of rows
        left out.
    Raises:
        TaskError: A file is missing or malformed; the message names file and line.
    """
    examples: list[RawExample] = []
    notes: list[str] = []
    for part, name in enumerate(names):
        path = user_path(folder / name, error=TaskError)
        if not path.exists():
            raise TaskError(f"task '{spec.name}': {path} does not exist", hint=_download_hint(spec))
        file_examples, file_notes = _read_file(spec, files, path, part)
        examples += file_examples
        notes += file_notes
    return examples, notes


def read_texts(
    spec: TaskSpec, files: Files | None, path: Path, columns: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Reads texts without labels.

    Args:
        spec: Description of the task.
        files: Its [files] section, if it has one.
        path: A .txt file with one text per line, or a table in the task's format.
        columns: Columns of the table with the text or the two texts.
    Returns:
        Texts, and a remark on the rows without one, which are left out.
    Raises:
        TaskError: The file is missing or malformed; the message names file and line.
    """
    path = user_path(path, error=TaskError)
    if not path.exists():
        raise TaskError(
            f"task '{spec.name}': {path} does not exist",
            hint="the path is from second_distillation.unlabelled",
        )
    if path.suffix == ".txt":
        # A text file has no separator between two texts.
        if len(columns) > 1:
            raise TaskError(
                f"{path}: a line contains one text, the task takes {len(columns)}",
                hint="use a table with one column for each text",
            )
        lines = enumerate(utf8_text(path).split("\n"), start=1)
        return [
            (checked_text(f"{path}:{n}", line.strip()),) for n, line in lines if line.strip()
        ], []

    notes: list[str] = []
    texts = []
    for where, cells in read_rows(path, files or Files(train="", dev=("",)), columns, notes):
        texts.append(tuple(text_of(where, column, cells[column]) for column in columns))
    complete = [item for item in texts if all(text.strip() for text in item)]
    if len(complete) < len(texts):
        rows = plural(len(texts) - len(complete), "row")
        notes.append(f"{path.name}: {rows} without text left out")
    return complete, notes


def _download_hint(spec: TaskSpec) -> str:
    if spec.download:
        return f"download: {spec.download}"
    return "the path is from the task's [files] section"


def _read_file(
    spec: TaskSpec, files: Files, path: Path, part: int
) -> tuple[list[RawExample], list[str]]:
    # The official layouts have no columns, and their readers no remarks.
    if files.format == "aclImdb":
        return list(_acl_imdb(path, part)), []
    if files.format == "squad":
        return list(_squad(path, part)), []
    notes: list[str] = []
    columns = [*files.text, files.label]
    if files.id:
        columns.append(files.id)
    # Only one of the forms that answers have needs a column for their start.
    optional = [files.start] if spec.task_kind.has_answers else []
    rows = list(read_rows(path, files, columns, notes, optional=optional))
    if not rows:
        raise TaskError(f"{path} has no rows; expected at least one")
    return [_example(spec, files, row, part) for row in rows], notes


def _example(spec: TaskSpec, files: Files, row: Row, part: int) -> RawExample:
    where, cells = row
    identity = ""
    if files.id:
        if cells[files.id] in (None, ""):
            raise TaskError(f"{where}: column '{files.id}' is empty; expected a unique id")
        identity = str(cells[files.id])
    answers: tuple[AnswerSpan, ...] = ()
    if spec.task_kind.has_answers:
        answers = answers_of(where, cells, files.label, files.start)
    texts = tuple(text_of(where, column, cells[column]) for column in files.text)
    label = cells[files.label]
    if isinstance(label, str):
        checked_text(where, label)
    return RawExample(texts, label, where, identity, answers, part)


def text_of(where: str, column: str, value: Any) -> str:
    """Returns the text of a cell; "" if the cell is null.

    Raises:
        TaskError: The cell is not a text, or has a text that cannot be used.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TaskError(f"{where}: column '{column}' is {type(value).__name__}, expected text")
    return checked_text(where, value)


def checked_text(where: str, text: str) -> str:
    """Returns a text unchanged.

    Raises:
        TaskError: It is too long, cannot be encoded as UTF-8, or contains a NUL.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise TaskError(
            f"{where}: a text of {len(text):,} characters; expected at most {MAX_TEXT_CHARACTERS:,}"
        )
    if "\0" in text:
        raise TaskError(
            f"{where}: character {text.index(chr(0))} of the text is a NUL",
            hint="the file is damaged or not a text file; write it again as UTF-8",
        )
    surrogate = None if text.isascii() else _SURROGATE.search(text)
    if surrogate is not None:
        raise TaskError(
            f"{where}: character {surrogate.start()} of the text is "
            f"\\u{ord(surrogate[0]):04x}, half of a surrogate pair",
            hint="write the file again as UTF-8, with complete characters",
        )
    return text


def answers_of(
    where: str, cells: Mapping[str, Any], column: str, start_column: str = ""
) -> tuple[AnswerSpan, ...]:
    """Returns the answers of a row.

    Args:
        where: File and line, for messages.
        cells: Cells by column.
        column: Column with {text: […], answer_start: […]} as on the hub, with a list of
            {text, answer_start}, or with one text.
        start_column: Column with the start of that one text.
    Raises:
        TaskError: The cells have none of these forms.
    """
    try:
        pairs = _answer_pairs(cells, column, start_column)
        return tuple(_answer(where, text, start) for text, start in pairs)
    except (KeyError, ValueError, TypeError) as error:
        raise TaskError(
            f"{where}: expected an answer and its start: {type(error).__name__}: {error}"
        ) from error


def _answer_pairs(
    cells: Mapping[str, Any], column: str, start_column: str
) -> list[tuple[str, Any]]:
    """Returns text and start of each answer."""
    # All three forms occur: the hub's, SQuAD's own, and a table with one answer per row.
    value = cells[column]
    if value is None:
        return []
    if isinstance(value, dict):
        return list(zip(value["text"], value["answer_start"], strict=True))
    if isinstance(value, list):
        return [(item["text"], item["answer_start"]) for item in value]
    return [(str(value), cells[start_column])]


def _answer(where: str, text: Any, start: Any) -> AnswerSpan:
    """Returns an answer; raises TypeError or ValueError if its values are of another type."""
    if not isinstance(text, str):
        raise TypeError(f"the answer is {type(text).__name__}, expected text")
    position = int(start)
    # Python would count a negative start from the end, and int() drops a fraction.
    if position < 0 or (isinstance(start, float) and position != start):
        raise ValueError(f"the start is {start}, expected the number of a character")
    return AnswerSpan(checked_text(where, text), position)


# --- official layouts ----------------------------------------------------------------------------


def _acl_imdb(folder: Path, part: int) -> Iterator[RawExample]:
    """Yields the reviews in `pos/*.txt` and `neg/*.txt`, as the archive unpacks.

    Source: Maas et al. 2011. The folder `unsup`, which has no labels, is not read.
    """
    for label in ("neg", "pos"):
        reviews = sorted((folder / label).glob("*.txt"))
        if not reviews:
            raise TaskError(f"{folder / label} has no reviews; expected *.txt")
        for path in reviews:
            # The reviews keep the line breaks of the web page that they are from.
            text = utf8_text(path).replace("<br />", " ")
            yield RawExample((text,), label, str(path), f"{label}/{path.stem}", (), part)


def _squad(path: Path, part: int) -> Iterator[RawExample]:
    """Yields the questions of a SQuAD 1.1 file: data → paragraphs → qas → answers."""
    try:
        for article in json.loads(utf8_text(path))["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield _squad_question(path, paragraph["context"], question, part)
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    # Python's parser raises a RecursionError for deep nesting.
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TaskError(
            f"{path} does not have the layout of SQuAD 1.1: {type(error).__name__}: {error}"
        ) from error


def _squad_question(path: Path, context: Any, question: Mapping[str, Any], part: int) -> RawExample:
    identity = str(question["id"])
    where = f"{path}: question {identity}"
    return RawExample(
        texts=(
            text_of(where, "question", question["question"]),
            text_of(where, "context", context),
        ),
        label="",
        where=where,
        id=identity,
        answers=answers_of(where, question, "answers"),
        part=part,
    )

"""Files of a teacher's sentence vectors: one row for each text of a corpus, in its order.

A larger model, or one behind an API, teaches through such a file. The order of the corpus is the
key: a row that is missing, twice there or elsewhere would give a text the vector of another one,
and training would not fail, so every text is compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgedistil.core.echo import echo
from edgedistil.core.errors import CorpusError
from edgedistil.core.paths import require_new
from edgedistil.core.regular_file import check_regular
from edgedistil.core.rundir import replacing, sha256_file, storage_errors
from edgedistil.data.corpus import Part, TokenizedCorpus
from edgedistil.data.texts import Text, read_texts

PARTS: tuple[Part, ...] = ("train", "heldout")
SUFFIXES = (".jsonl", ".parquet", ".npy")
_WRITE_HINT = "write the texts with: edgedistil answers RECIPE --texts-only --out texts.jsonl"
# Rows that are decoded, or written, at once.
_BATCH_ROWS = 1024
_IS_LIST = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
# Key in the first row of a .jsonl with the texts of a .npy: the digest of that .npy.
_DIGEST_KEY = "npy_sha256"

# Number of a row from 1, its text, its vector.
Row = tuple[int, str, Any]


@dataclass(frozen=True)
class Answers:
    """Vectors of all texts of a corpus.

    Attributes:
        vectors: Part of the corpus → vectors of its rows, (R, V).
        dimension: Values of a vector.
        sha256: Digest of the file.
    """

    vectors: Mapping[Part, NDArray[np.float32]]
    dimension: int
    sha256: str


# --- reading -------------------------------------------------------------------------------------


def read_answers(path: Path, corpus: TokenizedCorpus) -> Answers:
    """Reads the vectors of a corpus's texts.

    Args:
        path: .jsonl or .parquet with `text` and `vector`, or .npy with the texts in a .jsonl of the
            same name. A digest in the texts' first row, if there is one, is compared with the .npy.
        corpus: Has the layout `texts`.
    Raises:
        CorpusError: The file is missing or damaged; a row is missing, twice there, at another
            place, of another dimension, or not finite; a .npy and its texts were written by
            different calls; or the corpus has another layout.
    """
    check_answers_file(path, corpus.record.layout)
    # Rows are in the order of the corpus: training texts, then held-out texts.
    rows = sum(len(corpus.store(part)) for part in PARTS)
    vectors_RV: NDArray[np.float32] | None = None
    for index, (row, expected) in enumerate(zip_longest(_read_rows(path), corpus_texts(corpus))):
        # A missing, repeated or moved row has another text than the corpus at its place.
        if row is None or expected is None or row[1] != expected.text:
            raise CorpusError(_mismatch(path, corpus, index), hint=_WRITE_HINT)
        number, _, values = row
        vector_V = _checked_vector(path, number, values)
        # The first row decides the width.
        if vectors_RV is None:
            vectors_RV = np.empty((rows, len(vector_V)), np.float32)
        if len(vector_V) != vectors_RV.shape[1]:
            raise CorpusError(
                f"{path} row {number}: the vector has {len(vector_V)} values, and that of row 1 "
                f"{vectors_RV.shape[1]}"
            )
        vectors_RV[index] = vector_V
    assert vectors_RV is not None
    train = len(corpus.train)
    return Answers(
        {"train": vectors_RV[:train], "heldout": vectors_RV[train:]},
        vectors_RV.shape[1],
        sha256_file(path),
    )


def corpus_texts(corpus: TokenizedCorpus) -> Iterator[Text]:
    """Yields the texts of a corpus in the order of a file of vectors."""
    return chain.from_iterable(read_texts(corpus.texts(part)) for part in PARTS)


def check_suffix(path: Path, *, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raises CorpusError unless a file's format is supported."""
    if path.suffix not in suffixes:
        raise CorpusError(f"{path} is not in a supported format; supported: {', '.join(suffixes)}")


def check_answers_file(path: Path, layout: str) -> None:
    """Raises CorpusError unless a file of vectors exists and suits the layout of a corpus."""
    if layout != "texts":
        raise CorpusError(f'teacher.answers needs corpus.layout = "texts"; got "{layout}"')
    check_suffix(path)
    try:
        check_regular(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error


def _read_rows(path: Path) -> Iterator[Row]:
    reader = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".npy": _read_npy}[path.suffix]
    try:
        yield from reader(path)
    except CorpusError:
        raise
    # A damaged file makes the libraries raise a dozen types.
    except (OSError, ValueError, KeyError, EOFError, RecursionError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path} is not a readable file of vectors: {error or type(error).__name__}",
            hint="expected a text and a vector in each row",
        ) from error


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, entry in enumerate(_read_entries(path), start=1):
        yield number, entry["text"], entry.get("vector")


def _read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a .jsonl file; raises CorpusError for one without a text."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            entry = json.loads(line)
            if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
                raise CorpusError(f"{path} row {number} has no text")
            yield entry


def _read_parquet(path: Path) -> Iterator[Row]:
    number = 0
    with pq.ParquetFile(path) as table:
        kind = table.schema_arrow.field("vector").type
        if not any(is_list(kind) for is_list in _IS_LIST):
            raise CorpusError(
                f"the column 'vector' of {path} is of type {echo(str(kind))}; "
                "expected lists of numbers",
                hint="write the column as list<float>",
            )
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=["text", "vector"]):
            texts, vectors = batch.column("text"), batch.column("vector")
            for text, vector in zip(texts.to_pylist(), vectors, strict=True):
                number += 1
                if not isinstance(text, str):
                    raise CorpusError(f"{path} row {number} has no text")
                values = vector.values
                # Of a null; reported with the number of its row.
                if values is None:
                    yield number, text, None
                    continue
                yield number, text, values.to_numpy(zero_copy_only=False)


def _read_npy(path: Path) -> Iterator[Row]:
    vectors_RV = np.load(path, mmap_mode="r", allow_pickle=False)
    if vectors_RV.ndim != 2:
        raise CorpusError(f"{path} has the shape {vectors_RV.shape}; expected (rows, values)")
    texts = path.with_suffix(".jsonl")
    if not texts.is_file():
        raise CorpusError(f"{texts} is missing: the texts of the vectors in {path.name}")
    pairs = zip_longest(_read_entries(texts), vectors_RV)
    for index, (entry, vector_V) in enumerate(pairs):
        if entry is None or vector_V is None:
            lines = sum(1 for _ in _read_entries(texts))
            raise CorpusError(f"{path} has {len(vectors_RV)} vectors, and {texts} {lines} texts")
        if index == 0:
            _check_pair(path, texts, entry.get(_DIGEST_KEY))
        yield index + 1, entry["text"], vector_V


def _check_pair(path: Path, texts: Path, expected: object) -> None:
    """Raises CorpusError if the texts of a .npy have the digest of another one."""
    # Files of other tools have no digest.
    if expected is None:
        return
    digest = sha256_file(path)
    if digest != expected:
        raise CorpusError(
            f"{path} does not have the vectors of {texts.name}: expected sha256 "
            f"{echo(str(expected)[:12])}…, got {digest[:12]}…",
            hint="write both again with edgedistil answers; if you replaced the vectors, remove "
            f"{_DIGEST_KEY} from the first row of {texts.name}",
        )


def _checked_vector(path: Path, number: int, values: Any) -> NDArray[np.float32]:
    """A vector in float32; raises CorpusError unless it is one that has a direction."""
    where = f"{path} row {number}"
    if values is None:
        raise CorpusError(f"{where} has no vector; expected a list of numbers")
    is_array = isinstance(values, np.ndarray)
    if not is_array and (not isinstance(values, list) or not all(map(_is_number, values))):
        raise CorpusError(f"{where}: the vector is {echo(values)}; expected a list of numbers")
    vector_V = np.asarray(values)
    if vector_V.ndim != 1 or not len(vector_V) or vector_V.dtype.kind not in "fiu":
        raise CorpusError(f"{where}: the vector is of type {vector_V.dtype}; expected numbers")
    vector_V = vector_V.astype(np.float32)
    if not np.isfinite(vector_V).all():
        raise CorpusError(f"{where}: the vector has values that are NaN or infinite")
    if not vector_V.any():
        raise CorpusError(f"{where}: all values of the vector are 0, so it has no direction")
    return vector_V


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mismatch(path: Path, corpus: TokenizedCorpus, index: int) -> str:
    """Describes why a row is not that of its text; reads both from the start."""
    got = [text for _, text, _ in _read_rows(path)]
    expected = [text.text for text in corpus_texts(corpus)]
    number = index + 1
    if not got:
        return f"{path} has no rows, and the corpus {len(expected)} texts"
    if index >= len(expected):
        return f"{path} has {len(got)} rows, and the corpus {len(expected)} texts"
    if index < len(got) and got[index] in got[:index]:
        first = got.index(got[index]) + 1
        return f"{path} row {number} is a duplicate of row {first}: {echo(got[index])}"
    text = echo(expected[index])
    if expected[index] not in got[index:]:
        return f"{path} lacks the text that row {number} should have: {text}"
    place = got.index(expected[index], index) + 1
    return (
        f"{path} is not in the corpus's order: the text of row {number} is in row {place}: {text}"
    )


# --- writing -------------------------------------------------------------------------------------


def require_new_files(path: Path) -> None:
    """Raises InputError if a file of vectors exists, or the texts that would be next to it."""
    for file in (path, *_texts_of(path)):
        require_new(file, kind="FILE")


def _texts_of(path: Path) -> list[Path]:
    """The file with the texts of a .npy; empty for formats that contain them."""
    return [path.with_suffix(".jsonl")] if path.suffix == ".npy" else []


def write_answers(
    path: Path, rows: Iterator[tuple[str, NDArray[np.float32]]], *, count: int
) -> None:
    """Writes texts with their vectors as they come, completely or not at all.

    A .npy has its texts in another file. The vectors are written first, and the first row of the
    texts has their digest: after a kill between the two the texts are missing, and a pair of two
    different calls is refused when it is read.

    Args:
        path: Its suffix decides the format.
        rows: Texts and vectors in the order of the corpus, all of one width.
        count: Number of rows.
    Raises:
        CorpusError: The format is not supported.
        StorageError: The file cannot be written.
    """
    check_suffix(path)
    names: list[str] = []
    with replacing(path) as unfinished, ExitStack() as stack:
        # Before the rows, which may take hours to encode. Their errors are not those of the file.
        with storage_errors(path):
            write = stack.enter_context(_WRITERS[path.suffix](unfinished, count))
        while block := list(islice(rows, _BATCH_ROWS)):
            texts = [text for text, _ in block]
            with storage_errors(path):
                write(texts, np.stack([vector_V for _, vector_V in block]))
            if path.suffix == ".npy":
                names += texts
        with storage_errors(path):
            stack.close()
    for texts_path in _texts_of(path):
        write_texts(texts_path, iter(names), first={_DIGEST_KEY: sha256_file(path)})


# Writes rows: their texts and vectors, (R, V).
_Write = Callable[[list[str], NDArray[np.float32]], None]


@contextmanager
def _jsonl_writer(path: Path, _count: int) -> Iterator[_Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(texts: list[str], vectors_RV: NDArray[np.float32]) -> None:
            # The decimal digits of a float64 give the same float32 again.
            for text, vector in zip(texts, vectors_RV.astype(np.float64).tolist(), strict=True):
                entry = {"text": text, "vector": vector}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _parquet_writer(path: Path, _count: int) -> Iterator[_Write]:
    schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema) as writer:

        def write(texts: list[str], vectors_RV: NDArray[np.float32]) -> None:
            columns = {"text": texts, "vector": list(vectors_RV)}
            writer.write_table(pa.table(columns, schema=schema))

        yield write


@contextmanager
def _npy_writer(path: Path, count: int) -> Iterator[_Write]:
    with path.open("wb") as file:

        def write(_texts: list[str], vectors_RV: NDArray[np.float32]) -> None:
            # The header has the width, which the first rows decide.
            if file.tell() == 0:
                shape = (count, vectors_RV.shape[1])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(vectors_RV.astype("<f4").tobytes())

        yield write


_WRITERS = {".jsonl": _jsonl_writer, ".parquet": _parquet_writer, ".npy": _npy_writer}


def write_texts(
    path: Path, texts: Iterator[str], *, first: Mapping[str, str] | None = None
) -> None:
    """Writes texts without vectors as .jsonl.

    Args:
        path: The file.
        texts: The texts.
        first: Further keys of the first row.
    """
    more = first or {}
    with (
        replacing(path) as unfinished,
        storage_errors(path),
        unfinished.open("w", encoding="utf-8") as file,
    ):
        for text in texts:
            file.write(json.dumps({"text": text, **more}, ensure_ascii=False) + "\n")
            more = {}

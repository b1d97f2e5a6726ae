"""Every format is read as it was written, and every bad file is advances with what and where."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from edgedistil.core.errors import CorpusError
from edgedistil.data.text_files import read_text_file

DOCUMENTS = ["One line.", "Ein Blümchen · 花", "tab\tinside", 'with "quotes"']


def read(path: Path, field: str = "text", on_bad_utf8: str = "refuse") -> list[str]:
    documents = read_text_file(path, field=field, on_bad_utf8=on_bad_utf8)  # type: ignore[arg-type]
    return [document.strip() for document in documents]


def compressed(path: Path, data: bytes) -> Path:
    packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, lambda raw: raw)(
        data
    )
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_a_text_file_gives_its_lines(tmp_path: Path, suffix: str) -> None:
    path = compressed(tmp_path / f"a{suffix}", "\r\n".join(DOCUMENTS).encode())
    assert read(path) == DOCUMENTS


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_jsonl_file_gives_its_field(tmp_path: Path, suffix: str) -> None:
    rows = "\n\n".join(json.dumps({"id": n, "body": d}) for n, d in enumerate(DOCUMENTS))
    assert read(compressed(tmp_path / f"a{suffix}", rows.encode()), field="body") == DOCUMENTS


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_a_parquet_file_gives_its_column(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(
        pa.table({"body": pa.array([*DOCUMENTS, None], kind), "n": range(5)}),
        tmp_path / "a.parquet",
    )
    assert read(tmp_path / "a.parquet", field="body") == [*DOCUMENTS, ""]


def test_several_zstd_frames_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert read(path) == ["one", "two"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.txt", b"\xef\xbb\xbfone\n\xef\xbb\xbftwo")
    assert read(path) == ["one", "\ufefftwo"]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_a_byte_that_is_not_utf8_is_named(tmp_path: Path, suffix: str) -> None:
    path = compressed(tmp_path / f"a{suffix}", "gut é\n".encode() + b"schlecht \xff!\n")
    with pytest.raises(
        CorpusError, match=rf"a{suffix} is not UTF-8: byte 16 is 0xff .*\n.*on_bad_utf8"
    ):
        read(path)


def test_the_byte_is_counted_from_the_files_start_with_a_byte_order_mark_too(
    tmp_path: Path,
) -> None:
    path = compressed(tmp_path / "a.txt", b"\xef\xbb\xbfab\xff")
    with pytest.raises(CorpusError, match="byte 5 is 0xff"):
        read(path)


def test_bad_bytes_are_replaced_on_request(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.txt", b"caf\xe9 ol\xe9\n")
    assert read(path, on_bad_utf8="replace") == ["caf\ufffd ol\ufffd"]


def test_a_parquet_row_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    latin = pa.array([b"fine", b"caf\xe9"]).view(
        pa.string()
    )  # parquet does not look into its strings
    pq.write_table(pa.table({"text": latin}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="row 1 is not UTF-8: byte 3 is 0xe9"):
        read(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", on_bad_utf8="replace") == ["fine", "caf\ufffd"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2 is not valid JSON"),
        (
            "a.jsonl",
            b'{"body": "x", "id": 1}\n',
            r"line 1 has no text in 'text' \(columns: body, id\)",
        ),
        ("a.jsonl", b'{"text": 7}\n', r"line 1 has no text in 'text' \(columns: text\)"),
        ("a.jsonl", b'["x"]\n', r"line 1 has no text in 'text' \(got a JSON list\)"),
        ("a.parquet", b"PAR1 not at all", "is not a readable parquet file"),
        ("a.txt.gz", b"plain text", "corrupt or not a .gz file"),
        ("a.txt.gz", gzip.compress(b"x" * 999, mtime=0)[:-9], "corrupt or not a .gz file"),
        ("a.txt.zst", b"plain text", "corrupt or not a .zst file"),
        ("a.csv", b"a,b", r"not in a supported text format\n.*\.txt, \.jsonl, \.parquet"),
        ("a.parquet.gz", b"", "not in a supported text format"),
    ],
)
def test_a_bad_file_is_reported(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / name)


def test_a_truncated_zst_file_is_reported(tmp_path: Path) -> None:
    lines = "\n".join(f"line {n} {n * 7919 % 10007}" for n in range(100_000)).encode()
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(lines)[:-100])
    with pytest.raises(CorpusError, match=r"truncated, corrupt or not a \.zst file"):
        read(tmp_path / "a.txt.zst")


def test_a_missing_column_says_which_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"no column 'text' \(columns: body, n\)"):
        read(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="column 'n' is int64, expected text"):
        read(tmp_path / "a.parquet", field="n")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read .*gone\.txt: No such file"):
        read(tmp_path / "gone.txt")


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_progress_adds_up_to_the_files_size(tmp_path: Path, suffix: str) -> None:
    path = compressed(tmp_path / f"a{suffix}", b"some words\n" * 5000)
    advances: list[float] = []
    assert (
        len(list(read_text_file(path, field="", on_bad_utf8="refuse", advance=advances.append)))
        == 5000
    )
    assert sum(advances) == path.stat().st_size
    assert min(advances) >= 0

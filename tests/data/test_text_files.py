"""Every format is read as it was written, and every bad file is advances with what and where."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from edgedistil.core.errors import CorpusError
from edgedistil.data import text_files
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


# --- damage and bounds ---------------------------------------------------------------------------


def test_a_damaged_parquet_file_is_never_a_traceback(tmp_path: Path) -> None:
    rng = random.Random(3)
    words = [" ".join(rng.choices(DOCUMENTS, k=5)) for _ in range(500)]
    path = tmp_path / "a.parquet"
    reported = 0
    for compression in ("snappy", "zstd", "none"):
        pq.write_table(pa.table({"text": words}), path, compression=compression)
        intact = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(intact)
            for _ in range(3):
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                read(path, on_bad_utf8="replace")
            except CorpusError as error:
                assert "a.parquet" in str(error)
                reported += 1
    assert reported > 20


@pytest.mark.parametrize(
    ("text", "place"), [("a\\ud800b", "character 1"), ("\\uDC00\\uD800", "character 0")]
)
def test_half_of_a_surrogate_pair_is_not_utf8(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{{"text": "{text}"}}\n')
    with pytest.raises(CorpusError, match=f"a.jsonl line 2 is not UTF-8: {place} of the text"):
        read(path)
    documents = read(path, on_bad_utf8="replace")
    assert "\ufffd" in documents[1]
    documents[1].encode("utf-8")


def test_a_complete_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00 \\u00e9"}\n')
    assert read(path) == ["😀 é"]


def test_a_deeply_nested_line_is_not_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ' + "[" * 100_000 + "\n")
    with pytest.raises(CorpusError, match="line 1 is not valid JSON"):
        read(path)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.jsonl"])
def test_a_document_has_a_largest_length(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 1000)
    path = compressed(tmp_path / name, b'{"text": "x"}\n' + b"x" * 2000)
    with pytest.raises(CorpusError, match=rf"{name} line 2 has more than 0 MiB"):
        read(path)


def test_a_row_of_parquet_has_a_largest_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 1000)
    pq.write_table(pa.table({"text": ["x", "y" * 1001]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet row 1 has more than 0 MiB"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("text", [b"\0", b"\n", b"all the same\n"])
def test_a_small_file_cannot_fill_the_memory(
    tmp_path: Path, suffix: str, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_RATIO_FLOOR_BYTES", 2**20)
    path = compressed(tmp_path / f"a.txt{suffix}", text * (2**26 // len(text)))
    assert path.stat().st_size < 2**18
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorpusError, match="decompresses to more than 250 times its size"):
        for _document in read_text_file(path, field="text", on_bad_utf8="refuse"):
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_a_small_parquet_file_cannot_repeat_a_text_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_RATIO_FLOOR_BYTES", 2**20)
    pq.write_table(pa.table({"text": ["long " * 2000] * 2000}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="decompresses to more than 250 times its size"):
        read(tmp_path / "a.parquet")


def test_real_text_that_compresses_well_is_read(tmp_path: Path) -> None:
    lines = [
        f"2026-11-29 12:00:{n % 60:02d} GET /index.html 200 {n * 7919 % 10007}"
        for n in range(400_000)
    ]
    path = compressed(tmp_path / "a.txt.zst", "\n".join(lines).encode())
    assert sum(1 for _ in read_text_file(path, field="text", on_bad_utf8="refuse")) == len(lines)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match="it is a named pipe; expected a regular file"):
        read(tmp_path / "a.txt")

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgedistil.core import text
from edgedistil.core.errors import CorpusError
from edgedistil.core.text import read_lines


def test_blank_lines_are_left_out_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(" Höhe\n\n  \nsecond line\r\nlast".encode())
    assert read_lines(path) == [" Höhe", "second line", "last"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: expected text, one sequence a line"),
        (b"\n  \n", "is empty"),
        (b"ab\xff\xfe", "is not UTF-8 text: byte 2"),
    ],
)
def test_a_file_without_text_is_an_input_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        read_lines(path)
    assert caught.value.exit_code == 2
    assert "--text FILE" in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read .*absent\.txt: No such file"):
        read_lines(tmp_path / "absent.txt")


def test_a_long_line_is_cut_at_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_LINE_CHARACTERS", 10)
    path = tmp_path / "text.txt"
    path.write_text("one two three\n  0123456789abc\nshort\n0123456789\n")
    assert read_lines(path) == ["one two", "0123456789", "short", "0123456789"]


def test_a_text_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_TEXT_BYTES", 10)
    path = tmp_path / "text.txt"
    path.write_text("0123456789a")
    with pytest.raises(CorpusError, match=r"cannot read .*text\.txt: it has more than 0 MiB"):
        read_lines(path)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(name: str) -> None:
    with pytest.raises(CorpusError, match=f"cannot read {name}: it is a device"):
        read_lines(Path(name))


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="it is a named pipe; expected a regular file"):
        read_lines(tmp_path / "pipe")

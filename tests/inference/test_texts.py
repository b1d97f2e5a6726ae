"""Texts of `embed`: words of the command line, or the lines of one regular UTF-8 file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgedistil.core.errors import InputError
from edgedistil.inference import stage
from edgedistil.inference.stage import texts_of_arguments


def lines(path: Path) -> list[str]:
    return list(stage._lines(path))


def test_a_single_file_is_read_and_other_words_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbfthe boat\r\nthe road\n")
    assert texts_of_arguments([str(path)]) == path
    assert lines(path) == ["the boat", "the road"]
    assert texts_of_arguments([str(path), "b"]) == [str(path), "b"]
    assert texts_of_arguments([str(tmp_path)]) == [str(tmp_path)]


@pytest.mark.parametrize("text", ["x" * 300, "x" * 5000, "a\0b", "größer 水"])
def test_what_no_file_is_called_is_a_text(text: str) -> None:
    assert texts_of_arguments([text]) == [text]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = texts_of_arguments([str(tmp_path / "pipe")])
    assert isinstance(path, Path)
    with pytest.raises(InputError, match=r"cannot read .*pipe: it is a named pipe"):
        lines(path)


def test_bad_bytes_and_endless_lines_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\nb\xff\n")
    with pytest.raises(InputError, match=r"in.txt is not UTF-8: .* \(byte 0xff\)"):
        lines(path)
    monkeypatch.setattr(stage, "_MAX_CHARACTERS", 7)
    path.write_text("1234567\n12345678\n")
    with pytest.raises(InputError, match=r"in.txt:2: more than 7 characters on a line"):
        lines(path)

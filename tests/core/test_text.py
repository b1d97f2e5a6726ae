from __future__ import annotations

from pathlib import Path

import pytest

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

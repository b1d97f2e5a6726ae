"""Only regular files are read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgedistil.core.regular_file import check_regular, open_regular, read_regular


def test_a_regular_file_and_a_link_to_one_are_opened(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"abc")
    link.symlink_to(file)
    for path in (file, link):
        with open_regular(path) as opened:
            assert opened.read() == b"abc"


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="it is a named pipe; expected a regular file"):
        open_regular(pipe)


def test_devices_sockets_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it is a device; expected a regular file"):
        check_regular(Path("/dev/zero"))
    with pytest.raises(OSError, match="it is a folder; expected a regular file"):
        check_regular(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="it is a socket; expected a regular file"):
            check_regular(tmp_path / "socket")


@pytest.mark.parametrize("name", ["missing", "a\0b", "x" * 300])
def test_impossible_names_are_errors_of_the_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|cannot contain a NUL|name too long"):
        open_regular(tmp_path / name)


def test_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular(file, limit_bytes=5) == b"12345"
    with pytest.raises(OSError, match="it has more than 0 MiB"):
        read_regular(file, limit_bytes=4)

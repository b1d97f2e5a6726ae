"""Paths that a user wrote: those that no file can have are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.errors import CorpusError
from edgedistil.core.paths import is_user_file, user_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 256, "File name too long"),
        ("a\0b", "null"),
    ],
)
def test_a_name_that_no_file_can_have(name: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=f"cannot be used as a path: .*{reason}"):
        user_path(name, error=CorpusError)
    assert not is_user_file(Path(name))


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(CorpusError, match="cannot be used as a path"):
        user_path(tmp_path / "a", error=CorpusError)


def test_a_path_need_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "x"
    assert user_path(file) == file
    assert user_path(file / "y") == file / "y"
    file.touch()
    assert user_path(file) == file
    assert user_path(file / "y") == file / "y"
    assert is_user_file(file)


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x"
    assert user_path("~no-such-user-of-this-name/x") == Path("~no-such-user-of-this-name/x")
    assert user_path("./~") == Path("~")
    assert user_path(Path("~")) == Path("~")

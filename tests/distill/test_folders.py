from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.distill import folders
from edgedistil.distill.folders import link_folder


def test_weights_take_no_space_twice(tiny_teacher: Path, tmp_path: Path) -> None:
    (tiny_teacher / "pytorch_model.bin").write_bytes(b"a pickle stays where it is")
    link_folder(tiny_teacher, tmp_path / "linked")
    (tiny_teacher / "pytorch_model.bin").unlink()
    assert (tmp_path / "linked" / "model.safetensors").samefile(tiny_teacher / "model.safetensors")
    assert not (tmp_path / "linked" / "pytorch_model.bin").exists()


def test_copies_where_links_cannot_be(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("another device")

    monkeypatch.setattr(folders.os, "link", refused)
    link_folder(tiny_teacher, tmp_path / "copied")
    copied = tmp_path / "copied" / "model.safetensors"
    assert copied.read_bytes() == (tiny_teacher / "model.safetensors").read_bytes()
    assert not copied.samefile(tiny_teacher / "model.safetensors")

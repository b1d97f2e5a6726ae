"""Model folders: links, copies, and no pickles."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.distill import folders
from edgedistil.distill.folders import link_folder


def test_weights_are_linked_and_pickles_left_behind(tiny_teacher: Path, tmp_path: Path) -> None:
    (tiny_teacher / "pytorch_model.bin").write_bytes(b"a pickle")
    link_folder(tiny_teacher, tmp_path / "linked")
    (tiny_teacher / "pytorch_model.bin").unlink()
    assert (tmp_path / "linked" / "model.safetensors").samefile(tiny_teacher / "model.safetensors")
    assert not (tmp_path / "linked" / "pytorch_model.bin").exists()


def test_files_are_copied_where_links_are_impossible(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError("another device")

    monkeypatch.setattr(folders.os, "link", failing)
    link_folder(tiny_teacher, tmp_path / "copied")
    copy = tmp_path / "copied" / "model.safetensors"
    assert copy.read_bytes() == (tiny_teacher / "model.safetensors").read_bytes()
    assert not copy.samefile(tiny_teacher / "model.safetensors")

"""Files that are refused before anything opens them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.parity.onnx_file import check_onnx_file

if TYPE_CHECKING:
    from tests.parity.conftest import Exported


@pytest.fixture
def stored(exported: Exported, tmp_path: Path) -> Path:
    """A graph with its weights in external data."""
    shutil.copytree(exported.graph.parent, tmp_path / "in")
    return tmp_path / "in" / "model.onnx"


def retarget(path: Path, location: str) -> None:
    """Changes the location of every external weight of a graph."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())


def test_a_complete_graph_lists_its_files(stored: Path) -> None:
    assert check_onnx_file(stored) == [stored, stored.with_name("model.onnx_data")]


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", ""])
def test_external_data_outside_the_folder_is_refused(
    stored: Path, tmp_path: Path, location: str
) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 10_000_000)
    retarget(stored, location)
    with pytest.raises(
        ModelError, match=r"stores weight '.*' in '.*', outside its own folder"
    ) as caught:
        check_onnx_file(stored)
    assert caught.value.exit_code == 2


def test_a_link_that_leads_outside_is_refused(stored: Path, tmp_path: Path) -> None:
    data = stored.with_name("model.onnx_data")
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="outside its own folder"):
        check_onnx_file(stored)


def test_truncated_external_data_says_how_much_is_missing(stored: Path) -> None:
    data = stored.with_name("model.onnx_data")
    data.write_bytes(data.read_bytes()[:-1000])
    with pytest.raises(
        ModelError, match=r"model.onnx_data is truncated: weight '.*' ends at byte .*, the file has"
    ):
        check_onnx_file(stored)


def test_missing_external_data_is_named(stored: Path) -> None:
    stored.with_name("model.onnx_data").unlink()
    with pytest.raises(
        ModelError, match=r"needs model.onnx_data in the same folder, and it is not there"
    ):
        check_onnx_file(stored)


@pytest.mark.parametrize("content", [b"", b"\x08", b"not an onnx file at all"])
def test_a_corrupted_graph_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not a readable ONNX file"):
        check_onnx_file(path)


def test_a_truncated_graph_is_named(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes()[: stored.stat().st_size // 2])
    with pytest.raises(ModelError, match="is not a readable ONNX file"):
        check_onnx_file(stored)

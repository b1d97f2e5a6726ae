"""Files that are refused before anything opens them."""

from __future__ import annotations

import os
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
    change_external(path, "location", location)


def change_external(path: Path, key: str, text: str) -> None:
    """Changes an entry of every external weight of a graph."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = text
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


@pytest.mark.parametrize(
    ("key", "text"), [("offset", "abc"), ("length", "-7"), ("offset", "9" * 30), ("length", "٣")]
)
def test_a_size_that_is_not_a_number_is_named(stored: Path, key: str, text: str) -> None:
    change_external(stored, key, text)
    with pytest.raises(ModelError, match=f"the {key} of weight '.*' .* expected a number of bytes"):
        check_onnx_file(stored)


@pytest.mark.parametrize("location", ["x" * 5000, "a\0b"])
def test_what_cannot_be_a_file_name_is_refused(stored: Path, location: str) -> None:
    retarget(stored, location)
    with pytest.raises(ModelError, match="which is not a file name"):
        check_onnx_file(stored)


def test_weights_in_attributes_are_checked_too(stored: Path) -> None:
    proto = onnx.load(stored, load_external_data=False)
    weight = onnx.TensorProto(name="hidden", data_type=1, dims=[2])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=weight))
    stored.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"stores weight 'hidden' in '\.\./secret', outside"):
        check_onnx_file(stored)


@pytest.mark.parametrize("name", ["x" * 300, "absent.onnx", "a\0b"])
def test_a_name_that_is_not_a_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no model file"):
        check_onnx_file(tmp_path / name)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="no model file"):
        check_onnx_file(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", [b"input_ids", b"location", b"Gather"])
def test_a_name_that_is_not_utf_8_is_an_error(stored: Path, name: bytes) -> None:
    content = stored.read_bytes()
    assert name in content
    stored.write_bytes(content.replace(name, b"\xff" + name[1:]))
    with pytest.raises(ModelError, match="is not a readable ONNX file: a name is not UTF-8"):
        check_onnx_file(stored)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgedistil.core.errors import ModelError, StorageError
from edgedistil.export import storage
from edgedistil.export.storage import PAGE_BYTES, save_graph
from edgedistil.parity.onnx_file import check_onnx_file

if TYPE_CHECKING:
    from tests.export.conftest import MakeGraph


@pytest.fixture
def graph(make_graph: MakeGraph) -> ir.Model:
    return make_graph("DistilBertModel", "feature-extraction")


def test_weights_are_next_to_the_graph_or_inside_it(graph: ir.Model, tmp_path: Path) -> None:
    external = save_graph(graph, tmp_path / "a" / "model.onnx", external=True)
    inside = save_graph(graph, tmp_path / "b" / "model.onnx", external=False)
    assert [path.name for path in external] == ["model.onnx", "model.onnx_data"]
    assert [path.name for path in inside] == ["model.onnx"]
    assert check_onnx_file(external[0]) == external
    assert check_onnx_file(inside[0]) == inside
    assert external[0].stat().st_size < 60_000 < inside[0].stat().st_size


def test_the_same_graph_gives_the_same_bytes(graph: ir.Model, tmp_path: Path) -> None:
    first = save_graph(graph, tmp_path / "a" / "model.onnx", external=True)
    second = save_graph(graph.clone(), tmp_path / "b" / "model.onnx", external=True)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_single_file_over_two_gigabytes_is_refused(
    graph: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PROTOBUF_LIMIT_BYTES", 1000)
    with pytest.raises(ModelError, match="one ONNX file holds 2 GiB"):
        save_graph(graph, tmp_path / "model.onnx", external=False)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_storage_error(graph: ir.Model) -> None:
    # /dev/full opens a file and refuses every byte, as a full disk does.
    with pytest.raises(StorageError, match="cannot write /dev/full/") as caught:
        save_graph(graph, Path("/dev/full/model.onnx"), external=True)
    assert caught.value.exit_code == 1


def test_large_weights_start_at_a_page(tmp_path: Path, graph: ir.Model) -> None:
    """A runtime maps a weight into memory only if it starts at a page of the file."""
    initializers = graph.graph.initializers
    name = next(name for name in initializers if name.endswith("position_embeddings.weight"))
    initializers[name].const_value = ir.Tensor(np.ones((8191, 44), np.float32), name=name)
    path, _ = save_graph(graph, tmp_path / "model.onnx", external=True)
    proto = onnx.load(path, load_external_data=False)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    assert int(entries["offset"]) % PAGE_BYTES == 0

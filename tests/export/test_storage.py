from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgedistil.core.errors import ModelError, StorageError
from edgedistil.export import storage
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace
from edgedistil.parity.onnx_file import check_onnx_file


@pytest.fixture
def graph(model) -> ir.Model:
    source = model("DistilBertModel")
    made = trace(source, task="feature-extraction", token_types=False)
    run_passes(
        made,
        standard_passes(Shape.of(made, source.config), token_types=False, drop_token_types=False),
    )
    return made


def test_weights_lie_beside_the_graph_or_inside_it(graph, tmp_path: Path) -> None:
    beside = save_graph(graph, tmp_path / "a" / "model.onnx", external=True)
    inside = save_graph(graph, tmp_path / "b" / "model.onnx", external=False)
    assert [path.name for path in beside] == ["model.onnx", "model.onnx_data"]
    assert [path.name for path in inside] == ["model.onnx"]
    assert check_onnx_file(beside[0]) == beside
    assert check_onnx_file(inside[0]) == inside
    assert beside[0].stat().st_size < 60_000 < inside[0].stat().st_size


def test_the_same_graph_gives_the_same_bytes(graph, tmp_path: Path) -> None:
    first = save_graph(graph, tmp_path / "a" / "model.onnx", external=True)
    second = save_graph(graph.clone(), tmp_path / "b" / "model.onnx", external=True)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_single_file_over_two_gigabytes_is_refused(
    graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PROTOBUF_LIMIT_BYTES", 1000)
    with pytest.raises(ModelError, match="one ONNX file holds 2 GiB"):
        save_graph(graph, tmp_path / "model.onnx", external=False)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_storage_error(graph) -> None:
    # /dev/full takes an open file and refuses every byte, as a full disk does.
    with pytest.raises(StorageError, match="cannot write /dev/full/") as caught:
        save_graph(graph, Path("/dev/full/model.onnx"), external=True)
    assert caught.value.exit_code == 1


def test_large_weights_start_at_a_page(tmp_path: Path, graph) -> None:
    """A runtime maps a weight into memory only where it starts at a page of the file."""
    value = next(
        v for n, v in graph.graph.initializers.items() if n.endswith("position_embeddings.weight")
    )
    value.const_value = ir.Tensor(np.ones((8191, 44), np.float32), name=value.name)
    path, _ = save_graph(graph, tmp_path / "model.onnx", external=True)
    proto = onnx.load(path, load_external_data=False)
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer}
    assert int(entries[value.name]["offset"]) % 4096 == 0

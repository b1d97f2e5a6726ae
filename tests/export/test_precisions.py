from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from edgedistil.core.errors import CorpusError
from edgedistil.core.options import ExportOptions
from edgedistil.export.artefacts import open_build
from edgedistil.export.linears import find_word_embedding
from edgedistil.export.passes import weight_bytes
from edgedistil.export.precisions import (
    CALIBRATION_BATCH,
    CALIBRATION_CALLS,
    BuildContext,
    calibration_feeds,
    make_graph,
    requantize_excluding,
)
from edgedistil.export.source import read_source
from edgedistil.export.storage import save_graph


@pytest.fixture
def context(
    folder: Callable[[str], Path], tmp_path: Path, text: list[str]
) -> Iterator[BuildContext]:
    source = read_source(folder("BertForMaskedLM"), name="x", role="other", task=None)
    build = tmp_path / "build"
    build.mkdir()
    with open_build(source, build, ExportOptions(target="rpi4"), text=text) as context:
        save_graph(context.graph, context.float_file, external=True)
        yield context
        shutil.rmtree(build / "onnx")
    assert not list(build.iterdir()), "the scratch folder is removed"


@pytest.mark.parametrize(
    ("precision", "largest_share"),
    [("fp16", 0.65), ("int8", 0.35), ("uint8", 0.35), ("int8-dynamic", 0.35), ("int4", 0.3)],
)
def test_makers_return_smaller_graphs_and_leave_the_float32_graph(
    context: BuildContext, precision: str, largest_share: float
) -> None:
    size = weight_bytes(context.graph)
    graph, advice = make_graph(context, precision)  # type: ignore[arg-type]
    assert weight_bytes(graph) < largest_share * size
    assert weight_bytes(context.graph) == size
    assert advice.reasons
    float_graph, _ = make_graph(context, "fp32")
    assert float_graph is context.graph


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_the_choice_without_neighbours_has_a_reason(context: BuildContext, precision: str) -> None:
    _, advice = make_graph(context, precision)  # type: ignore[arg-type]
    assert "int8-dynamic, whose outputs are not, was measured" in advice.reasons["form"]


def test_nodes_can_be_left_in_float_to_explain_an_error(context: BuildContext) -> None:
    lookup = find_word_embedding(context.graph)
    assert lookup is not None
    matmul = next(
        node for node in context.graph.graph if "intermediate/dense/MatMul" in str(node.name)
    )

    def quantized_weights(nodes: list[str | None]) -> set[str]:
        file = requantize_excluding(context, [name or "" for name in nodes])
        initializers = onnx.load(file, load_external_data=False).graph.initializer
        return {tensor.name for tensor in initializers if tensor.name.endswith(".quantized")}

    complete = quantized_weights([])
    without_matmul = quantized_weights([matmul.name])
    assert len(complete - without_matmul) == 1
    assert "intermediate.dense" in (complete - without_matmul).pop()
    assert any("word_embeddings" in name for name in complete)
    assert not any("embeddings" in name for name in quantized_weights([lookup.name]))


def test_calibration_feeds_are_padded_batches_from_all_over_the_text(
    context: BuildContext,
) -> None:
    feeds = calibration_feeds(context)
    assert len(feeds) == 60 / CALIBRATION_BATCH
    assert set(feeds[0]) == {"input_ids", "attention_mask", "token_type_ids"}
    many = replace(context, text=list(context.text) * 5)
    assert len(calibration_feeds(many)) == CALIBRATION_CALLS
    with pytest.raises(CorpusError, match="the calibration text is empty"):
        calibration_feeds(replace(context, text=["", " "]))

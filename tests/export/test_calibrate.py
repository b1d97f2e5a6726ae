from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from edgedistil.core.errors import CorpusError
from edgedistil.export.calibrate import (
    BINS,
    METHODS,
    Histogram,
    activation_ranges,
    collect_histograms,
    entropy_range,
    percentile_range,
)
from edgedistil.export.storage import save_graph

SQUARES = """
<ir_version: 8, opset_import: ["" : 17]>
squares (int64[B, L] input_ids) => (float[B, L] y)
{
  numbers = Cast<to = 1>(input_ids)
  square = Mul(numbers, numbers)
  y = Neg(square)
}
"""


def test_percentile_and_entropy_leave_a_single_outlier_out() -> None:
    histogram = Histogram()
    histogram.add(np.random.default_rng(1).standard_normal(100_000).astype(np.float32))
    histogram.add(np.array([60.0], np.float32))
    assert histogram.high == 60.0
    assert histogram.counts.sum() == 100_001
    assert 2 < percentile_range(histogram)[1] < 10
    assert 2 < entropy_range(histogram)[1] < 30
    assert activation_ranges({"x": histogram}, "min-max")["x"] == (histogram.low, 60.0)


def test_wider_bins_keep_every_count_near_its_place() -> None:
    histogram = Histogram()
    for scale in (1, 3, 20):
        histogram.add(np.full(7, scale, np.float32))
    width = histogram.centres[1] - histogram.centres[0]
    occupied = np.flatnonzero(histogram.counts)
    assert histogram.counts[occupied].tolist() == [7, 7, 7]
    np.testing.assert_allclose(histogram.centres[occupied], [1, 3, 20], atol=2 * width)
    assert len(histogram.counts) == BINS


def test_inner_tensors_are_observed_over_all_calls(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_graph(ir.from_proto(onnx.parser.parse_model(SQUARES)), path, external=False)
    feeds = [{"input_ids": np.array([[2, 3]])}, {"input_ids": np.array([[-5]])}]
    histograms = collect_histograms(path, ["square", "y"], feeds)
    assert (histograms["square"].low, histograms["square"].high) == (0, 25)
    assert (histograms["y"].low, histograms["y"].high) == (-25, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    for method in METHODS:
        assert set(activation_ranges(histograms, method)) == {"square", "y"}


def test_calibration_without_calls_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="the calibration text is empty"):
        collect_histograms(tmp_path / "model.onnx", [], [])

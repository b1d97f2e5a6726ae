"""Sizes from shapes against the sizes of exported files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedistil.core.model_folder import read_model_folder
from edgedistil.costmodel.shapes import encoder_shape, graph_bytes
from edgedistil.search.candidates import BYTES_ERROR, BYTES_SHARE
from tests.export.families.conftest import Export


@pytest.mark.parametrize("task", ["feature-extraction", "fill-mask"])
def test_bytes_from_shapes_are_those_of_files(export_case: Export, task: str) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 8009}
    exported = export_case("bert", task, **sizes)  # type: ignore[arg-type]
    source = read_model_folder(exported.folder.parents[2] / "source")
    shape = replace(encoder_shape(source), has_head=task == "fill-mask")
    for precision in ("fp32", "int8"):
        file_bytes = sum(file.bytes for file in exported.record(precision).files)
        expected = graph_bytes(shape, precision)
        bound = BYTES_ERROR + BYTES_SHARE * file_bytes
        assert abs(file_bytes - expected) <= bound, (precision, file_bytes, expected)
        # A feed-forward of one layer is beyond the bound in float.
        if precision == "fp32":
            assert abs(file_bytes - graph_bytes(replace(shape, layers=1), precision)) > bound

"""The table of precisions, and the proof that a new precision needs two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from transformers import BertModel

from edgedistil.core.errors import InputError
from edgedistil.core.precision import (
    AUTO,
    EXAMPLE_PRECISIONS,
    PRECISION_REQUESTS,
    PRECISIONS,
    Precision,
    graph_name,
    min_runtime,
    result_of,
)
from edgedistil.core.task import TASKS
from edgedistil.export.precisions import MAKERS
from edgedistil.export.request import checked_precisions
from edgedistil.parity.tolerances import TOLERANCES, tolerances_for
from edgedistil.runtime.forms import OPENVINO_BF16
from tests.fixtures.changed_package import (
    changed_package,
    run_command,
    save_small_bert,
    write_lines,
)

NEW_ROW = """        PrecisionInfo(
            name="toy8",
            description="A copy of int8 under another name.",
            suffix="_toy8",
            weight_bits=8,
            tolerances="int8",
            integer_matmul=True,
        ),
"""
NEXT_ROW = '        PrecisionInfo(\n            name="fp16",\n'
NEW_MAKER = '    "toy8": make_int8,\n'
NEXT_MAKER = '    "fp16": make_fp16,\n'
# All that a new precision needs: insertions into these two files.
NEW_PRECISION = {
    "core/precision.py": [
        ('Precision = Literal["fp32", ', 'Precision = Literal["fp32", "toy8", '),
        (NEXT_ROW, NEW_ROW + NEXT_ROW),
    ],
    "export/precisions.py": [(NEXT_MAKER, NEW_MAKER + NEXT_MAKER)],
}


def test_every_precision_has_a_row_a_maker_and_tolerances() -> None:
    assert tuple(PRECISIONS) == get_args(Precision)
    assert set(MAKERS) == set(PRECISION_REQUESTS)
    # A runtime may compute in another precision than the artefact's.
    bounds = {row.tolerances for row in PRECISIONS.values()} | {OPENVINO_BF16.bounds}
    assert bounds == set(TOLERANCES)
    for precision in PRECISIONS:
        for task in TASKS:
            assert tolerances_for(precision, task), f"{precision} {task}"


def test_file_names_are_distinct_and_those_that_transformers_js_opens() -> None:
    names = [graph_name(name) for name in PRECISIONS]
    assert len(set(names)) == len(names)
    assert graph_name("fp32") == "model.onnx"
    assert graph_name("int4") == "model_q4.onnx"
    assert all(PRECISIONS[name].js_dtype for name in EXAMPLE_PRECISIONS)


def test_descriptions_are_one_sentence_for_help_texts() -> None:
    for row in (*PRECISIONS.values(), AUTO):
        assert row.description.endswith(".")
        assert len(row.description) <= 90


def test_a_search_produces_an_int8_artefact() -> None:
    assert [result_of(name) for name in ("fp32", "int4", "auto")] == ["fp32", "int4", "int8"]


def test_minimum_runtime() -> None:
    assert min_runtime("fp32") == (1, 14)
    assert min_runtime("int4") == (1, 17)
    assert min_runtime("auto") == (1, 17)


def test_a_new_precision_needs_two_files(tmp_path: Path) -> None:
    """A copy of the package with insertions in two files exports and proves the new precision."""
    path = changed_package(tmp_path / "changed", NEW_PRECISION)
    source = save_small_bert(tmp_path / "small-bert", BertModel)
    text = write_lines(tmp_path / "text.txt")

    command = ["export", "--model", str(source), "--text", str(text), "--quantize", "toy8"]
    printed = run_command(path, command, runs=tmp_path / "runs")

    run = tmp_path / "runs" / "small-bert"
    folder = run / "export" / "small-bert-feature-extraction"
    assert (folder / "onnx" / "model_toy8.onnx").is_file()
    assert json.loads((folder / "export.toy8.json").read_text())["precision"] == "toy8"
    parity = json.loads((run / "parity" / "small-bert-feature-extraction.toy8.json").read_text())
    assert parity["passed"], parity
    assert parity["results"], "int8's tolerances were applied"
    assert "model_toy8.onnx" in (folder / "README.md").read_text(encoding="utf-8")
    assert "toy8" in printed


def test_the_unchanged_package_does_not_know_that_precision() -> None:
    with pytest.raises(InputError, match="unknown precision 'toy8'"):
        checked_precisions(["toy8"])

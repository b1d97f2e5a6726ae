"""conformance.jsonl of an exported encoder, and the check program next to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistil.core.contract import CONFORMANCE_FILE
from edgedistil.export.conformance import CHECK_FILE, spread
from edgedistil.export.conformance_text import conformance_pairs, conformance_texts


@pytest.fixture
def package(small_export: Path, tmp_path: Path) -> Path:
    """A copy of the export that a test may change."""
    return Path(shutil.copytree(small_export, tmp_path / "package"))


def check(package: Path, *arguments: str) -> tuple[int, str]:
    """Returns the exit code and the output of check.py."""
    command = [sys.executable, "-P", str(package / CHECK_FILE), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def rows(package: Path) -> list[dict[str, Any]]:
    lines = (package / CONFORMANCE_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_rows(package: Path, changed: list[dict[str, Any]]) -> None:
    lines = "".join(f"{json.dumps(row)}\n" for row in changed)
    (package / CONFORMANCE_FILE).write_text(lines, encoding="utf-8")


def test_the_package_passes_its_own_check(package: Path) -> None:
    head, *cases = rows(package)
    code, printed = check(package)
    assert (code, printed) == (0, f"{len(cases)} strings are as expected\n")
    assert check(package, "int8")[0] == 0
    assert set(head["graphs"]) == {"fp32", "int8"}
    assert sum(len(case["texts"]) == 2 for case in cases) > 30
    longest = max(len(case["tokens"][0]) for case in cases)
    assert longest == head["max_length"], "a text is cut"
    assert len((package / CHECK_FILE).read_text().splitlines()) <= 80


def test_another_id_is_reported_with_its_string(package: Path) -> None:
    changed = rows(package)
    changed[7]["tokens"][0][1] += 1
    write_rows(package, changed)
    code, printed = check(package)
    assert code == 3
    assert printed.startswith(ascii(changed[7]["texts"]))


def test_another_offset_is_reported(package: Path) -> None:
    changed = rows(package)
    changed[7]["tokens"][2][1][1] += 1
    write_rows(package, changed)
    assert check(package)[0] == 3


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_another_output_is_reported(package: Path, precision: str) -> None:
    changed = rows(package)
    tolerance = changed[0]["tolerances"][precision]["logits"]
    changed[9]["outputs"][precision]["logits"][0] += 2.1 * tolerance
    write_rows(package, changed)
    code, printed = check(package)
    assert code == 3
    assert f"logits in {precision} differs by" in printed


def test_outputs_of_a_sample_are_of_the_shortest_and_the_longest_text(package: Path) -> None:
    head, *cases = rows(package)
    printed = f"{len(cases)} strings are as expected, outputs of 3\n"
    assert check(package, "int8", "--outputs", "3") == (0, printed)
    assert check(package, "--outputs", "9999")[0] == 0
    with_outputs = sorted(
        (case for case in cases if case["outputs"]), key=lambda case: len(case["tokens"][0])
    )
    tolerance = head["tolerances"]["int8"]["logits"]
    for place, code in ((0, 3), (1, 0), (-1, 3)):
        case = with_outputs[place]
        case["outputs"]["int8"]["logits"][0] += 2.1 * tolerance
        write_rows(package, [head, *cases])
        assert check(package, "int8", "--outputs", "3")[0] == code
        case["outputs"]["int8"]["logits"][0] -= 2.1 * tolerance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outputs"], "argument --outputs: expected one argument"),
        (["--outputs", "three"], "argument --outputs: invalid int value: 'three'"),
        (["--outputs", "0"], "--outputs: got 0, expected at least 1"),
        (["--outputs", "-3"], "--outputs: got -3, expected at least 1"),
        (["int9"], "PRECISION: got ['int9'], expected some of ['fp32', 'int8']"),
    ],
)
def test_arguments_that_would_compare_nothing_are_refused(
    package: Path, arguments: list[str], message: str
) -> None:
    code, printed = check(package, *arguments)
    assert code == 2
    assert printed.startswith("usage: check.py")
    assert message in printed


def test_a_file_that_was_changed_is_refused(package: Path) -> None:
    graph = package / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    code, printed = check(package)
    assert (code, printed) == (
        3,
        "onnx/model_int8.onnx was changed after the export: its sha256 differs\n",
    )


def test_a_folder_without_its_tokenizer_is_refused(package: Path) -> None:
    (package / "tokenizer.json").unlink()
    assert check(package) == (
        2,
        "tokenizer.json is missing: copy the folder with all its files\n",
    )


def test_the_strings_are_many_different_and_repeatable() -> None:
    texts = conformance_texts(["[MASK]", "<s>"])
    assert 290 <= len(texts) <= 360
    assert len(set(texts)) == len(texts)
    assert texts == conformance_texts(["<s>", "[MASK]"])
    assert {"", " ", "[MASK]", "[mask]"} < set(texts)
    assert len(conformance_pairs(texts)) == -(-len(texts) // 8)


def test_values_are_spread_over_an_output() -> None:
    values = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    places = spread(values)
    assert (len(places), places[0], places[-1]) == (64, 0, 1000)
    assert spread(values[0, 0, :5]) == [0, 1, 2, 3, 4]

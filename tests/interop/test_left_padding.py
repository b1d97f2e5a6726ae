"""Clients of exports whose tokenizers pad on the left: a text alone, padded, and among others.

The change of a text's outputs has to be within the bound that the export's own record states.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistil.core.export_records import InvarianceRecord
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import graph_name
from edgedistil.core.rundir import RunDir
from edgedistil.export.publish import export_model
from edgedistil.export.source import read_source
from tests.export.families.conftest import CASES, copy_tokenizer, make_model
from tests.fixtures.tokenizer_folders import our_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK = "feature-extraction"
PRECISIONS = ("fp32", "int8")
TEXT = "The export writes a graph."
SHORT, LONG = "A graph.", "It wasn't naïve: the Café's owner paid 1,299.50 € for books!"
# Call → its texts. The compared one is alone, padded by a longer one, and the last of three.
CALLS = {"alone": [TEXT], "padded": [TEXT, LONG], "last": [LONG, SHORT, TEXT]}

Answers = Mapping[str, Any]
Client = Callable[..., Answers]


@dataclass(frozen=True)
class LeftPadded:
    """An export folder, and the bound of each precision that its records state."""

    folder: Path
    bounds: Mapping[str, float]

    def jobs(self) -> list[dict[str, Any]]:
        """Every call in every precision."""
        return [
            {
                "key": f"{precision}.{call}",
                "folder": str(self.folder),
                "task": TASK,
                "file": graph_name(precision),
                "texts": texts,
            }
            for precision in PRECISIONS
            for call, texts in CALLS.items()
        ]


def export_left_padded(name: str, tokenizer_folders: Mapping[str, Path], root: Path) -> LeftPadded:
    """Exports a tiny model of a family with rotary positions, padded on the left."""
    source = root / "source"
    make_model(CASES[name], TASK).save_pretrained(source)
    copy_tokenizer(tokenizer_folders[CASES[name].tokenizer], source)
    settings_file = source / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps(settings | {"padding_side": "left"}))
    run = RunDir(root / "run")
    model = read_source(source, name=name, role="other", task=TASK)
    options = ExportOptions(precisions=list(PRECISIONS))
    bounds = {}
    for record, parity in export_model(run, model, options, text=our_text()):
        assert isinstance(parity.invariance, InvarianceRecord)
        assert parity.invariance.bound is not None
        bounds[record.precision] = parity.invariance.bound
    return LeftPadded(run.export(name, TASK), bounds)


@pytest.fixture(scope="module", params=["modernbert", "eurobert"])
def exported(
    request: pytest.FixtureRequest,
    tokenizer_folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> LeftPadded:
    return export_left_padded(
        request.param, tokenizer_folders, tmp_path_factory.mktemp(request.param)
    )


@pytest.fixture(scope="module")
def modernbert(
    tokenizer_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> LeftPadded:
    """Of both families the one that optimum-onnx's version of transformers has."""
    return export_left_padded("modernbert", tokenizer_folders, tmp_path_factory.mktemp("optimum"))


def own_states(answers: Answers) -> dict[str, np.ndarray]:
    """States of the compared text's tokens in every call; padding is in front of them."""
    length = answers["fp32.alone/input_ids"].shape[1]
    states = {}
    for precision in PRECISIONS:
        for call, texts in CALLS.items():
            key, row = f"{precision}.{call}", texts.index(TEXT)
            ids = answers[f"{key}/input_ids"][row]
            # The client padded on the left, or the states are not the text's.
            np.testing.assert_array_equal(ids[-length:], answers["fp32.alone/input_ids"][0])
            states[key] = answers[f"{key}/output"][row, -length:]
    return states


def own_vectors(answers: Answers) -> dict[str, np.ndarray]:
    return {
        f"{precision}.{call}": answers[f"{precision}.{call}/sentence"][texts.index(TEXT)]
        for precision in PRECISIONS
        for call, texts in CALLS.items()
    }


def assert_within(bounds: Mapping[str, float], outputs: Mapping[str, np.ndarray]) -> None:
    for precision, bound in bounds.items():
        alone = outputs[f"{precision}.alone"]
        for call in CALLS:
            change = float(np.abs(outputs[f"{precision}.{call}"] - alone).max())
            assert change <= bound, (precision, call, change)


def test_the_bound_of_float32_is_that_of_sums(exported: LeftPadded) -> None:
    assert exported.bounds["fp32"] < 1e-4 < exported.bounds["int8"]


def test_onnxruntime_with_tokenizers(client: Client, exported: LeftPadded) -> None:
    answers = client("plain", "plain_client.py", exported.jobs())
    assert answers["fp32.padded/input_ids"].shape[1] > answers["fp32.alone/input_ids"].shape[1]
    assert_within(exported.bounds, own_states(answers))


def test_optimum_and_sentence_transformers(client: Client, modernbert: LeftPadded) -> None:
    answers = client("optimum", "optimum_client.py", modernbert.jobs())
    assert_within(modernbert.bounds, own_states(answers))
    assert_within(modernbert.bounds, own_vectors(answers))


def test_the_comparison_can_fail() -> None:
    outputs = {f"{p}.{call}": np.zeros(3) for p in PRECISIONS for call in CALLS}
    bounds = {"fp32": 1e-5, "int8": 0.1}
    assert_within(bounds, outputs)
    outputs["fp32.last"] = np.array([0.0, 2e-5, 0.0])
    with pytest.raises(AssertionError, match=r"fp32.*last"):
        assert_within(bounds, outputs)

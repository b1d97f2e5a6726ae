"""Candidates that are measured on this machine in place of being predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgedistil
from edgedistil import search_measuring
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import load_device
from edgedistil.core.errors import InputError
from edgedistil.core.recipe import Recipe, parse_recipe
from edgedistil.search import stage as search_stage
from tests.export.families.conftest import CASES, copy_tokenizer, make_model

Make = Callable[[str], Recipe]


@pytest.fixture
def recipe(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> Make:
    """A recipe over a random model of a family."""

    def make(name: str) -> Recipe:
        folder = tmp_path / name
        make_model(CASES[name], "fill-mask", num_hidden_layers=2).save_pretrained(folder)
        copy_tokenizer(tokenizer_folders[CASES[name].tokenizer], folder)
        data = {
            "name": "small",
            "teacher": {"source": str(folder)},
            "corpus": {"sources": [{"files": "none.txt"}]},
            "train": {"steps": 1},
        }
        return parse_recipe(data, where="test")

    return make


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_measuring, "MIN_SECONDS", 0.01)
    monkeypatch.setattr(search_measuring, "MIN_CALLS", 3)
    # The machine of the tests need not have a device file.
    monkeypatch.setattr(search_stage, "_find_device", lambda _: load_device("rpi4"))


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_first_candidates_have_measured_times_and_sizes(name: str, recipe: Make) -> None:
    options = SearchOptions(device="host", under=["40MB"], length=16, measure=3)
    record = edgedistil.search(recipe(name), options)
    measured = [c for c in record.candidates if c.is_measured]
    assert len(measured) == 3
    for candidate in measured:
        assert 0 < candidate.latency_ms.low == candidate.latency_ms.high
        assert candidate.file_bytes.low == candidate.file_bytes.high
        assert candidate.fit == "fits"
    # What shapes predict is what was written.
    predicted = edgedistil.search(recipe(name), SearchOptions(device="host", under=["40MB"]))
    for candidate in measured:
        (same,) = [
            c for c in predicted.candidates
            if (c.layers, c.heads, c.precision)
            == (candidate.layers, candidate.heads, candidate.precision)
        ]  # fmt: skip
        assert same.file_bytes.low <= candidate.file_bytes.low <= same.file_bytes.high


def test_a_limit_below_every_time_rules_measured_candidates_out(recipe: Make) -> None:
    options = SearchOptions(device="host", under=["0.000001ms"], length=16, measure=1)
    record = edgedistil.search(recipe("distilbert"), options)
    (measured,) = [c for c in record.candidates if c.is_measured]
    assert measured.fit == "does not fit"
    assert "latency" in measured.excess


def test_a_board_that_cannot_be_reached_is_not_measured(recipe: Make) -> None:
    with pytest.raises(InputError, match=r"'rpi4' is not this machine\n.*--ssh"):
        edgedistil.search(recipe("bert"), SearchOptions(device="rpi4", under=["1s"], measure=1))


@pytest.mark.parametrize(("device", "largest"), [("x86-avx2", 64), ("rpi4", 128)])
def test_int8_is_made_for_the_device(
    device: str, largest: int, recipe: Make, tmp_path: Path
) -> None:
    checked = recipe("bert")
    settings = SearchOptions(device=device, under=["40MB"], length=16)
    candidates = edgedistil.search(checked, settings).candidates
    candidate = next(c for c in candidates if c.precision == "int8")
    maker = search_measuring.GraphMaker(checked, tmp_path, device=device)
    graph = ir.load(maker.graph(candidate).path).graph
    weights = [
        value.const_value.numpy().astype(int)
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.dtype == ir.DataType.INT8 and "lin1" in name
    ]
    assert weights
    assert largest / 2 < max(int(np.abs(weight).max()) for weight in weights) <= largest

"""The shipped spreads and constants are those that the stored measurements ask for."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.rundir import read_json
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS
from edgedistil.costmodel.memory import MEMORY_CONSTANTS, MEMORY_SPREAD
from edgedistil.costmodel.model import RATIO_RESIDUAL

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def judged() -> Iterator[SimpleNamespace]:
    """Modules of the benchmarks, which are scripts next to each other."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import cost_model
        import cost_model_memory
        import cost_model_spread
        import cost_model_threads

        yield SimpleNamespace(
            page=cost_model,
            memory=cost_model_memory,
            spread=cost_model_spread,
            threads=cost_model_threads,
        )
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_bands_are_as_wide_as_devices_that_were_left_out_ask_for(judged: SimpleNamespace) -> None:
    spreads = judged.spread.family_spreads()
    assert {spread.family for spread in spreads} == {"in-order", "narrow", "wide", "x86"}
    for spread in spreads:
        assert judged.page.shipped_spread(spread.family) >= round(spread.least, 2), spread.family


def test_a_spread_holds_nine_of_ten_rows_with_devices_weighing_the_same(
    judged: SimpleNamespace,
) -> None:
    def rows(device: str, errors: list[float]) -> list[object]:
        return [
            judged.spread.Judged("wide", device, "row", "onnxruntime", math.exp(error), 1.0)
            for error in errors
        ]

    many = rows("a", [0.1] * 99 + [0.9])
    assert judged.spread.required_spread(many) == pytest.approx(math.exp(0.2))
    # One row of a second device weighs as much as all of the first one's.
    both = many + rows("b", [-0.5])
    assert judged.spread.required_spread(both) == pytest.approx(math.exp(1.0))


def test_every_published_row_that_is_judged_is_inside_its_band(judged: SimpleNamespace) -> None:
    judgements = judged.page.judge(judged.page.published_rows())
    outside = [j.row.board for j in judgements if not j.row.is_fitted and not j.is_inside]
    assert not outside
    n2 = {j.row.runtime: j for j in judgements if "N2" in j.row.board}
    assert set(n2) == {"onnxruntime fp32", "onnxruntime int8"}


def test_int8_at_16_tokens_gains_nothing_from_a_second_thread(judged: SimpleNamespace) -> None:
    fit = judged.threads.fit_threads(list(judged.threads.ten_profiles()), load_device("x86-amx"))
    constants = ONNXRUNTIME_CONSTANTS["amx"]
    assert constants.thread_cycles == pytest.approx(fit.thread_cycles, rel=0.01)
    assert constants.serial_share == pytest.approx(fit.serial_share, rel=0.01)
    assert load_device("x86-amx").thread_scaling.of(2) == pytest.approx(fit.speedup, rel=0.01)
    assert len(fit.rows) == 30 and fit.largest_error < 0.25
    gains = {
        (row.call.precision, row.call.tokens): row.predicted
        for row in fit.rows
        if row.call.shape == "distilbert-3x384-12"
    }
    # Measured: 0.92, 1.35; fp32 1.40, 1.65.
    assert gains["int8", 16] < 1 < gains["int8", 256] < 1.5
    assert gains["fp32", 16] > gains["int8", 64] and gains["fp32", 256] > 1.6


def test_the_residual_of_ratios_is_the_one_that_the_judged_ratios_ask_for(
    judged: SimpleNamespace,
) -> None:
    judgements = judged.page.judge_ratios()
    assert len(judgements) == 30
    required = judged.page.required_residual(judgements)
    assert required <= RATIO_RESIDUAL < required + 0.01
    # The null model is shown next to each: it is not the model under another name.
    assert sum(abs(j.counted / j.ratio - 1) <= 0.1 for j in judgements) == 24
    assert sum(abs(j.predicted / j.ratio - 1) <= 0.1 for j in judgements) == 28


def test_the_memory_constants_are_what_the_script_fits(judged: SimpleNamespace) -> None:
    content = read_json(judged.memory.OUT)
    for storage, constants in MEMORY_CONSTANTS.items():
        peaks = judged.memory.stored_peaks(content, storage)
        assert len(peaks) == 52
        assert judged.memory.fit(peaks) == constants
    required = judged.memory.required_memory_spread(content)
    assert 1.5 < required <= MEMORY_SPREAD < required + 0.1

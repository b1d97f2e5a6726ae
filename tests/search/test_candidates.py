"""Shapes of candidates, and how bands are compared with limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.records import Band, NotMeasured
from edgedistil.core.search_records import Budget
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, core_family
from edgedistil.costmodel.shapes import EncoderShape
from edgedistil.search.budget import excess_of, fit_of, read_budget
from edgedistil.search.candidates import Setting, enumerate_shapes, judge

MINILM = EncoderShape(
    layers=6,
    hidden=384,
    heads=12,
    head_width=32,
    intermediate=1536,
    vocabulary=30522,
    embedding=384,
    positions=512,
    segments=0,
)


def test_shapes_are_all_combinations() -> None:
    shapes = list(enumerate_shapes(MINILM, least_vocabulary=9_000))
    assert len(set(shapes)) == len(shapes) == 6 * 4 * 4
    assert {shape.vocabulary for shape in shapes} == {30522, 20_000, 16_000, 12_000}
    assert {shape.intermediate for shape in shapes} == {1536, 1152, 768, 384}


def test_heads_are_halved_where_they_can_be_removed() -> None:
    shapes = list(enumerate_shapes(MINILM, least_vocabulary=9_000, fewer_heads=True))
    assert len(set(shapes)) == len(shapes) == 6 * 4 * 2 * 4
    assert {shape.heads for shape in shapes} == {12, 6}


def test_a_half_of_minilm_with_16000_tokens_has_half_of_its_parameters() -> None:
    shapes = list(enumerate_shapes(MINILM, least_vocabulary=2_000, depths=[3]))
    (half,) = [s for s in shapes if (s.vocabulary, s.intermediate) == (16_000, 1536)]
    # Of the teacher's 22,713,728: 48.6% fewer.
    assert half.parameters == 11_664_768


@pytest.mark.parametrize(
    ("band", "fit"), [((1, 9), "fits"), ((1, 11), "may fit"), ((11, 12), "does not fit")]
)
def test_a_band_is_compared_with_both_ends(band: tuple[float, float], fit: str) -> None:
    low, high = band
    assert fit_of([(Band(low=low, high=high), 10.0), (Band(low=5, high=50), None)]) == fit


def test_one_exceeded_limit_is_enough() -> None:
    within, beyond = Band(low=1, high=2), Band(low=11, high=12)
    assert fit_of([(within, 10.0), (beyond, 10.0)]) == "does not fit"


def test_limits_have_units() -> None:
    budget = read_budget(["0.5s", "11.5MiB"], "256MB")
    assert budget.latency_ms == 500
    assert budget.file_bytes == int(11.5 * 2**20)
    assert budget.memory_bytes == 256_000_000


def test_a_smaller_student_needs_less_of_everything() -> None:
    device = load_device("rpi4")
    constants = ONNXRUNTIME_CONSTANTS[core_family(device)]
    setting = Setting(device, constants, 64, 1, Budget(file_bytes=1))
    shapes = list(enumerate_shapes(MINILM, least_vocabulary=2_000))
    large, small = judge(shapes[0], "int8", setting), judge(shapes[-1], "int8", setting)
    assert small.file_bytes.high < large.file_bytes.low
    assert small.latency_ms.high < large.latency_ms.high
    assert small.memory_bytes.high < large.memory_bytes.high
    assert small.worst_ratio < large.worst_ratio


def test_a_narrow_teacher_has_no_wider_students() -> None:
    narrow = replace(MINILM, intermediate=44)
    assert {s.intermediate for s in enumerate_shapes(narrow, least_vocabulary=9_000)} == {44}


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (9.0, ""),
        (Band(low=8.0, high=10.0), ""),
        (Band(low=9.0, high=11.0), "up to 11 of 10"),
        (10.5, "up to 10.5 of 10"),
        (NotMeasured(not_measured="no board"), "not measured (no board)"),
    ],
)
def test_only_what_is_below_its_limit_for_sure_has_no_excess(
    need: float | Band | NotMeasured, words: str
) -> None:
    assert excess_of(need, 10.0) == words
    assert excess_of(need, None) == ""

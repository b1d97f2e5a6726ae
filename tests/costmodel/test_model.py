"""The cost model: bands that behave, threads by precision and work, a null model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from edgedistil.core.device import device_names, load_device
from edgedistil.costmodel.constants import (
    ONNXRUNTIME_CONSTANTS,
    UNCERTAIN_FIELDS,
    CoreFamily,
    core_family,
)
from edgedistil.costmodel.model import (
    cost_terms,
    counted_ratio,
    latency_band,
    predict_seconds,
    ratio_band,
    scaling_is_unknown,
)
from edgedistil.costmodel.workload import NodeWork
from tests.costmodel.conftest import encoder


@pytest.mark.parametrize("name", device_names())
def test_bands_are_as_wide_as_they_say_and_no_wider(name: str) -> None:
    spec = load_device(name)
    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    band = latency_band(encoder(6), spec, constants, threads=1)
    assert 0 < band.low < band.high
    assert band.high / band.low == pytest.approx(constants.spread)


@pytest.mark.parametrize("name", device_names())
def test_more_work_takes_longer_and_more_threads_do_not(name: str) -> None:
    spec = load_device(name)
    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]

    def time(layers: int, threads: int = 1) -> float:
        return predict_seconds(encoder(layers), spec, constants, threads=threads)

    assert time(3) < time(6) == pytest.approx(2 * time(3), rel=0.2)
    assert time(6, spec.cores) < time(6)


def test_a_ratio_is_known_better_than_its_times() -> None:
    spec = load_device("rpi4")
    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    middle, band = ratio_band(encoder(6), encoder(3), spec, constants, threads=1)
    assert middle == pytest.approx(2, rel=0.01)
    assert band.high / band.low < 1.1
    int8 = encoder(3, arithmetic="int8")
    _, across_precisions = ratio_band(encoder(6), int8, spec, constants, threads=1)
    assert across_precisions.high / across_precisions.low > 1.5, (
        "the constants of int8 and fp32 kernels are independent: their errors do not cancel"
    )


def test_identical_models_are_equally_fast_within_the_residual() -> None:
    spec = load_device("rpi5")
    constants = ONNXRUNTIME_CONSTANTS["wide"]
    middle, band = ratio_band(encoder(3), encoder(3), spec, constants, threads=4)
    assert middle == 1
    assert (band.low, band.high) == (pytest.approx(0.96), pytest.approx(1.04))


def test_corners_scale_nothing_when_certain() -> None:
    certain = replace(ONNXRUNTIME_CONSTANTS["wide"], spread=1.0)
    _, band = ratio_band(encoder(6), encoder(3), load_device("rpi5"), certain, threads=1)
    assert math.isclose(band.high / band.low, 1.04 / 0.96)


# --- terms ---------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_the_cache_come_from_memory() -> None:
    spec = load_device("rpi5")  # 2 MiB of last-level cache at 2.4 GHz, 8 GB/s of one core
    cached = UNCERTAIN_FIELDS.index("cache_bytes_per_cycle")
    fetched = UNCERTAIN_FIELDS.index("bandwidth_share")

    def weights(size: float, elements: int = 0) -> tuple[float, float]:
        nodes = [replace(encoder(1)[0], weight_bytes=int(size), elements=elements)]
        terms = cost_terms(nodes, spec, ONNXRUNTIME_CONSTANTS["wide"], threads=1)
        return terms[cached] * 2.4e9, terms[fetched] * 8e9

    assert weights(2**20) == (pytest.approx(2**20), 0)
    assert weights(4 * 2**20) == (0, pytest.approx(4 * 2**20))
    half = pytest.approx(1.25 * 2**20)
    assert weights(2.5 * 2**20) == (half, half), "half way to one and a half"
    assert weights(2**20, elements=2**19) == (pytest.approx(0), pytest.approx(2**20)), (
        "activations take their part"
    )


def test_attention_is_float_whatever_the_weights_are() -> None:
    spec = load_device("rpi5")
    attention = replace(encoder(1)[0], weight_bytes=0)
    values = cost_terms([attention], spec, ONNXRUNTIME_CONSTANTS["wide"], threads=1)
    terms = dict(zip(UNCERTAIN_FIELDS, values, strict=True))
    assert terms["attention_efficiency"] > 0 == terms["fp32_efficiency"]


def test_every_call_costs_something() -> None:
    spec = load_device("rpi5")
    seconds = predict_seconds([], spec, ONNXRUNTIME_CONSTANTS["wide"], threads=1)
    assert seconds == pytest.approx(40_000 / 2.4e9)


# --- threads -------------------------------------------------------------------------------------


def speedup(work: list[NodeWork], family: CoreFamily) -> float:
    spec = load_device("x86-amx")
    constants = ONNXRUNTIME_CONSTANTS[family]
    one, two = (predict_seconds(work, spec, constants, threads=threads) for threads in (1, 2))
    return one / two


def test_int8_gains_less_from_a_thread_than_fp32_and_short_nodes_less_than_long_ones() -> None:
    short, long = 10**6, 10**8
    gains = {
        (arithmetic, macs): speedup(encoder(6, arithmetic=arithmetic, macs=macs), "amx")
        for arithmetic in ("fp32", "int8")
        for macs in (short, long)
    }
    assert gains["int8", short] < 1 < gains["fp32", long]
    assert gains["int8", short] < gains["int8", long] < gains["fp32", long]
    assert gains["fp32", short] < gains["fp32", long] < 2


def test_a_call_without_work_to_divide_loses_by_a_second_thread() -> None:
    shape = replace(encoder(1)[1], moved_bytes=16, elements=1)
    assert speedup([shape] * 20, "amx") == pytest.approx(1, rel=1e-3)
    assert speedup([replace(shape, moved_bytes=2000)] * 20, "amx") < 1


@pytest.mark.parametrize("family", ["in-order", "narrow", "wide", "x86"])
def test_the_gain_of_int8_is_unknown_until_it_is_measured(family: CoreFamily) -> None:
    constants = ONNXRUNTIME_CONSTANTS[family]
    fp32, int8 = encoder(3), encoder(3, arithmetic="int8")
    assert not scaling_is_unknown(fp32, constants, threads=4)
    assert not scaling_is_unknown(int8, constants, threads=1)
    assert scaling_is_unknown(int8, constants, threads=4)
    measured = replace(constants, scaling_origin="ten profiles")
    assert not scaling_is_unknown(int8, measured, threads=4)


def test_bands_include_no_gain_from_threads_where_it_is_unknown() -> None:
    spec, constants = load_device("rpi4"), ONNXRUNTIME_CONSTANTS["narrow"]
    fp32, int8 = encoder(3), encoder(3, arithmetic="int8")
    one = latency_band(int8, spec, constants, threads=1)
    four = latency_band(int8, spec, constants, threads=4)
    assert four.low < one.low and four.high == pytest.approx(one.high)
    # fp32 gains, int8 may not: the ratio may be as low as fp32 on four against int8 on one thread.
    slowest = predict_seconds(fp32, spec, constants, threads=4) / predict_seconds(
        int8, spec, constants, threads=1
    )
    _, unknown = ratio_band(fp32, int8, spec, constants, threads=4)
    known = replace(constants, scaling_origin="measured")
    _, measured = ratio_band(fp32, int8, spec, known, threads=4)
    assert unknown.low < slowest and unknown.low < 0.8 * measured.low
    assert unknown.high == pytest.approx(measured.high)


def test_two_cores_read_no_faster_than_each_alone() -> None:
    spec = load_device("rpi5")  # 8 GB/s of one core, 10 of all
    fetched = UNCERTAIN_FIELDS.index("bandwidth_share")
    nodes = [replace(encoder(1)[0], weight_bytes=10**9)]

    def rate(one: float, all_cores: float, threads: int) -> float:
        figures = {"one_core_gb_per_s": one, "bandwidth_gb_per_s": all_cores}
        memory = spec.memory.model_copy(
            update={
                name: getattr(spec.memory, name).model_copy(update={"value": value})
                for name, value in figures.items()
            }
        )
        machine = spec.model_copy(update={"memory": memory})
        terms = cost_terms(nodes, machine, ONNXRUNTIME_CONSTANTS["wide"], threads=threads)
        return float(1 / terms[fetched])

    assert [rate(8, 10, threads) for threads in (1, 2, 4)] == pytest.approx([8, 10, 10])
    assert [rate(5, 40, threads) for threads in (1, 2, 4)] == pytest.approx([5, 10, 20])


# --- null model ----------------------------------------------------------------------------------


def test_the_null_model_counts_multiply_adds_at_the_peak_and_nothing_else() -> None:
    spec = load_device("rpi5")
    assert counted_ratio(encoder(6), encoder(3), spec) == 2
    # Four int8 products in the time of one of fp32.
    assert counted_ratio(encoder(3), encoder(3, arithmetic="int8"), spec) == 4
    fetching = [replace(node, weight_bytes=10**9, moved_bytes=10**9) for node in encoder(3)]
    assert counted_ratio(encoder(6), fetching, spec) == 2

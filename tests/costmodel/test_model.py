"""The cost model: bands that behave, constants that a fit recovers, memory as measured."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from edgedistil.core.device import device_names, load_device
from edgedistil.costmodel.model import (
    ONNXRUNTIME_CONSTANTS,
    UNCERTAIN_FIELDS,
    Constants,
    core_family,
    cost_terms,
    fit_constants,
    latency_band,
    memory_band,
    predict_seconds,
    ratio_band,
)
from edgedistil.costmodel.workload import Arithmetic, NodeWork


def encoder(layers: int, *, arithmetic: Arithmetic = "fp32") -> list[NodeWork]:
    size = 4 if arithmetic == "fp32" else 1
    matmul = NodeWork("p", "MatMul", arithmetic, 10**8, size * 10**6, 64, 10**6, 10**5, False)
    norm = NodeWork("n", "LayerNormalization", "none", 0, 0, 0, 10**6, 10**5, False)
    gelu = NodeWork("g", "Gelu", "none", 0, 0, 0, 10**6, 10**5, True)
    return [matmul, norm, gelu] * layers


@pytest.mark.parametrize("name", device_names())
def test_bands_are_as_wide_as_they_say_and_no_wider(name: str) -> None:
    spec = load_device(name)
    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    band = latency_band(encoder(6), spec, constants, threads=1)
    assert 0 < band.low < band.high
    assert band.high / band.low == pytest.approx(constants.spread)
    assert constants.spread <= (3 if spec.in_order else 2)


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


# --- fitting -------------------------------------------------------------------------------------


def samples_of(truth: Constants, works: list[list[NodeWork]]) -> list[tuple[np.ndarray, float]]:
    """Cost terms and the seconds that `truth` predicts for them on a Raspberry Pi 4."""
    spec = load_device("rpi4")
    samples = []
    for work in works:
        terms = cost_terms(work, spec, threads=1, half_rows=truth.half_rows)
        samples.append((terms, float(terms @ truth.unit_costs)))
    return samples


ENCODERS = [
    *(encoder(layers) for layers in (1, 3, 6, 12)),
    *(encoder(layers, arithmetic="int8") for layers in (1, 3, 6, 12)),
]


def test_a_fit_reproduces_the_times_it_was_fitted_on() -> None:
    spec = load_device("rpi4")
    prior = ONNXRUNTIME_CONSTANTS["narrow"]
    truth = replace(prior, fp32_efficiency=0.4, int8_efficiency=0.3, overhead_cycles=20_000.0)
    samples = samples_of(truth, ENCODERS)
    fitted = fit_constants(samples, prior, origin="test", spread=1.2)
    for work, (_, seconds) in zip(ENCODERS, samples, strict=True):
        assert predict_seconds(work, spec, fitted, threads=1) == pytest.approx(seconds, rel=0.05)
    assert fitted.fp32_efficiency == pytest.approx(0.4, rel=0.15)
    assert (fitted.origin, fitted.spread) == ("test", 1.2)


def test_a_fit_on_the_priors_own_times_is_the_prior() -> None:
    prior = ONNXRUNTIME_CONSTANTS["narrow"]
    fitted = fit_constants(samples_of(prior, ENCODERS), prior, origin="test", spread=1.2)
    assert fitted.unit_costs == pytest.approx(prior.unit_costs, rel=1e-12)


def test_constants_that_no_time_depends_on_stay_at_the_prior() -> None:
    prior = ONNXRUNTIME_CONSTANTS["narrow"]
    truth = replace(prior, fp32_efficiency=0.3)
    fitted = fit_constants(samples_of(truth, ENCODERS[:4]), prior, origin="test", spread=1.2)
    assert fitted.int8_efficiency == pytest.approx(prior.int8_efficiency, rel=1e-9)
    assert fitted.attention_efficiency == pytest.approx(prior.attention_efficiency, rel=1e-9)
    assert fitted.fp32_efficiency < 0.5


def test_a_fit_is_the_minimum_of_times_and_prior_together() -> None:
    prior = ONNXRUNTIME_CONSTANTS["narrow"]
    truth = replace(prior, fp32_efficiency=0.4, overhead_cycles=20_000.0)
    samples = samples_of(truth, ENCODERS)
    terms = np.array([sample_terms for sample_terms, _ in samples])
    fitted = fit_constants(samples, prior, origin="test", spread=1.2)

    def loss(log_costs: np.ndarray) -> float:
        errors = np.log(terms @ np.exp(log_costs)) - np.log([seconds for _, seconds in samples])
        distance = log_costs - np.log(prior.unit_costs)
        return float((errors**2).sum() + 0.3**2 * (distance**2).sum())

    best = np.log(fitted.unit_costs)
    rng = np.random.default_rng(5)
    nearby = [best + 1e-3 * rng.normal(size=best.size) for _ in range(50)]
    assert loss(best) < min(loss(log_costs) for log_costs in nearby)


def test_unit_costs_and_back() -> None:
    constants = ONNXRUNTIME_CONSTANTS["wide"]
    names = [field.name for field in fields(Constants)]
    assert names[:10] == list(UNCERTAIN_FIELDS)
    assert constants.unit_costs[0] == 1 / constants.fp32_efficiency
    assert constants.unit_costs[-1] == constants.call_cycles
    doubled = constants.with_unit_costs(2 * constants.unit_costs)
    assert doubled.fp32_efficiency == pytest.approx(constants.fp32_efficiency / 2)
    assert doubled.call_cycles == 2 * constants.call_cycles


# --- terms ---------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_the_cache_come_from_memory() -> None:
    spec = load_device("rpi5")  # 2 MiB of last-level cache at 2.4 GHz, 8 GB/s of one core
    cached = UNCERTAIN_FIELDS.index("cache_bytes_per_cycle")
    fetched = UNCERTAIN_FIELDS.index("bandwidth_share")

    def weights(size: float, elements: int = 0) -> tuple[float, float]:
        nodes = [replace(encoder(1)[0], weight_bytes=int(size), elements=elements)]
        terms = cost_terms(nodes, spec, threads=1, half_rows=1)
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
    values = cost_terms([attention], spec, threads=1, half_rows=1)
    terms = dict(zip(UNCERTAIN_FIELDS, values, strict=True))
    assert terms["attention_efficiency"] > 0 == terms["fp32_efficiency"]


def test_every_call_costs_something() -> None:
    spec = load_device("rpi5")
    seconds = predict_seconds([], spec, ONNXRUNTIME_CONSTANTS["wide"], threads=1)
    assert seconds == pytest.approx(40_000 / 2.4e9)


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("megabytes", "measured_mib"), [(268, 425), (67, 160), (17.4, 103)])
def test_memory_with_inline_weights_is_around_what_was_measured(
    megabytes: float, measured_mib: int
) -> None:
    file_bytes = int(megabytes * 1e6)
    band = memory_band(file_bytes, external=False, work=encoder(1), page_bytes=4096)
    assert band.low < measured_mib * 2**20 < band.high


@pytest.mark.parametrize(
    ("packed", "logits", "measured_mib"),
    [
        pytest.param(170e6, 0, 244, id="DistilBERT"),
        pytest.param(42.5e6, 0, 137, id="MiniLM's encoder"),
        pytest.param(89.4e6, 128 * 30522, 231, id="MiniLM fill-mask at 128 tokens"),
        pytest.param(5.3e6, 0, 86, id="MiniLM's encoder in int8"),
    ],
)
def test_memory_with_external_weights_is_around_what_was_measured(
    packed: float, logits: int, measured_mib: int
) -> None:
    elements = max(logits, 128 * 1536)
    nodes = [replace(encoder(1)[0], weight_bytes=int(packed), elements=elements)]
    band = memory_band(0, external=True, work=nodes, page_bytes=4096)
    assert band.low < measured_mib * 2**20 < band.high


def test_large_pages_take_more_memory() -> None:
    small = memory_band(10**8, external=False, work=encoder(1), page_bytes=4096)
    large = memory_band(10**8, external=False, work=encoder(1), page_bytes=16384)
    assert large.high > small.high

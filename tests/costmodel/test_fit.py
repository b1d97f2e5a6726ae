"""Fits of the constants: they recover what made the times, and stay where times say nothing."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from edgedistil.core.device import load_device
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, UNCERTAIN_FIELDS, Constants
from edgedistil.costmodel.fit import fit_constants
from edgedistil.costmodel.model import cost_terms, predict_seconds
from edgedistil.costmodel.workload import NodeWork
from tests.costmodel.conftest import encoder


def samples_of(truth: Constants, works: list[list[NodeWork]]) -> list[tuple[np.ndarray, float]]:
    """Cost terms and the seconds that `truth` predicts for them on a Raspberry Pi 4."""
    spec = load_device("rpi4")
    samples = []
    for work in works:
        terms = cost_terms(work, spec, truth, threads=1)
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
    fitted = fit_constants(samples, prior)
    for work, (_, seconds) in zip(ENCODERS, samples, strict=True):
        assert predict_seconds(work, spec, fitted, threads=1) == pytest.approx(seconds, rel=0.05)
    assert fitted.fp32_efficiency == pytest.approx(0.4, rel=0.15)


def test_a_fit_on_the_priors_own_times_is_the_prior() -> None:
    prior = ONNXRUNTIME_CONSTANTS["narrow"]
    fitted = fit_constants(samples_of(prior, ENCODERS), prior)
    assert fitted.unit_costs == pytest.approx(prior.unit_costs, rel=1e-12)


def test_constants_that_no_time_depends_on_stay_at_the_prior() -> None:
    prior = ONNXRUNTIME_CONSTANTS["narrow"]
    truth = replace(prior, fp32_efficiency=0.3)
    fitted = fit_constants(samples_of(truth, ENCODERS[:4]), prior)
    assert fitted.int8_efficiency == pytest.approx(prior.int8_efficiency, rel=1e-9)
    assert fitted.attention_efficiency == pytest.approx(prior.attention_efficiency, rel=1e-9)
    assert fitted.fp32_efficiency < 0.5


def test_a_fit_is_the_minimum_of_times_and_prior_together() -> None:
    prior = ONNXRUNTIME_CONSTANTS["narrow"]
    truth = replace(prior, fp32_efficiency=0.4, overhead_cycles=20_000.0)
    samples = samples_of(truth, ENCODERS)
    terms = np.array([sample_terms for sample_terms, _ in samples])
    fitted = fit_constants(samples, prior)

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
    assert names[:11] == list(UNCERTAIN_FIELDS)
    assert constants.unit_costs[0] == 1 / constants.fp32_efficiency
    assert constants.unit_costs[-1] == constants.thread_cycles
    doubled = constants.with_unit_costs(2 * constants.unit_costs)
    assert doubled.fp32_efficiency == pytest.approx(constants.fp32_efficiency / 2)
    assert doubled.call_cycles == 2 * constants.call_cycles

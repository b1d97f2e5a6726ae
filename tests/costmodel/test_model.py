"""The cost model: counts by hand, bands that behave, constants that a fit finds again."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from edgedistil.core.device import device_names, load_device
from edgedistil.core.rundir import RunDir
from edgedistil.costmodel import model as costs
from edgedistil.costmodel.workload import Work, trace, work_of
from edgedistil.profiling.artefacts import run_artefacts

B, L, D, F = 2, 5, 7, 11


def event(
    op: str, takes: list[dict[str, list[int]]], gives: list[dict[str, list[int]]]
) -> dict[str, object]:
    arguments = {"op_name": op, "input_type_shape": takes, "output_type_shape": gives}
    return {"name": "/layer.0/x_kernel_time", "args": arguments}


def test_a_product_with_packed_weights_by_hand() -> None:
    found = work_of(event("MatMul", [{"float": [B, L, D]}], [{"float": [B, L, F]}]))
    assert (found.macs, found.weight_bytes, found.rows, found.arithmetic) == (
        B * L * D * F,
        4 * D * F,
        B * L,
        "fp32",
    )
    assert found.moved_bytes == 4 * (B * L * D + B * L * F)


def test_a_product_of_two_activations_has_no_weights() -> None:
    takes = [{"float": [B, 3, L, D]}, {"float": [B, 3, D, L]}]
    found = work_of(event("FusedMatMul", takes, [{"float": [B, 3, L, L]}]))
    assert (found.macs, found.weight_bytes) == (B * 3 * L * L * D, 0)


def test_an_integer_product_has_a_byte_a_weight() -> None:
    takes = [{"float": [B, L, D]}, {"float": []}, {"int8": []}, {"float": [F]}]
    found = work_of(event("DynamicQuantizeMatMul", takes, [{"float": [B, L, F]}]))
    assert (found.macs, found.weight_bytes, found.arithmetic) == (B * L * D * F, D * F, "int8")


def test_packed_attention_projects_and_multiplies_twice() -> None:
    found = work_of(
        event("Attention", [{"float": [B, L, D]}, {"float": [3 * D]}], [{"float": [B, L, D]}])
    )
    assert found.macs == B * L * D * 3 * D + 2 * B * L * L * D


def test_a_gather_moves_its_rows_not_its_table() -> None:
    found = work_of(
        event("Gather", [{"float": [30522, D]}, {"int64": [B, L]}], [{"float": [B, L, D]}])
    )
    assert (found.macs, found.moved_bytes) == (0, 2 * 4 * B * L * D)


def test_a_real_graph_is_counted_as_it_runs(exported: RunDir) -> None:
    student = next(
        a for a in run_artefacts(exported) if a.label == "student-feature-extraction.fp32"
    )
    works = trace(student.path, student.inputs, [5, 13])
    width, wide = 31, 61
    for length, nodes in works.items():
        products = 2 * (
            3 * length * width * width + 2 * length * length * width + 2 * length * width * wide
        )
        assert sum(node.macs for node in nodes) == products
    int8 = next(a for a in run_artefacts(exported) if a.label == "student-feature-extraction.int8")
    nodes = trace(int8.path, int8.inputs, [5])[5]
    assert {node.arithmetic for node in nodes if node.weight_bytes} == {"int8"}
    assert sum(node.weight_bytes for node in nodes) == 2 * (3 * width * width + 2 * width * wide)


def encoder(layers: int, *, arithmetic: str = "fp32") -> list[Work]:
    size = 4 if arithmetic == "fp32" else 1
    product = Work("p", "MatMul", arithmetic, 10**8, size * 10**6, 64, 10**6, 10**5, False)  # type: ignore[arg-type]
    norm = Work("n", "LayerNormalization", "none", 0, 0, 0, 10**6, 10**5, False)
    gelu = Work("g", "Gelu", "none", 0, 0, 0, 10**6, 10**5, True)
    return [product, norm, gelu] * layers


@pytest.mark.parametrize("name", device_names())
def test_bands_are_as_wide_as_they_say_and_no_wider(name: str) -> None:
    spec = load_device(name)
    constants = costs.ONNXRUNTIME[costs.family(spec)]
    band = costs.latency_band(encoder(6), spec, constants, threads=1)
    assert 0 < band.low < band.high
    assert band.high / band.low == pytest.approx(constants.spread)
    assert constants.spread <= (3 if spec.in_order else 2)


@pytest.mark.parametrize("name", device_names())
def test_more_work_takes_longer_and_more_threads_do_not(name: str) -> None:
    spec = load_device(name)
    constants = costs.ONNXRUNTIME[costs.family(spec)]

    def time(layers: int, threads: int = 1) -> float:
        return costs.seconds(encoder(layers), spec, constants, threads=threads)

    assert time(3) < time(6) == pytest.approx(2 * time(3), rel=0.2)
    assert time(6, spec.cores) < time(6)


def test_a_ratio_is_known_better_than_its_times() -> None:
    spec = load_device("rpi4")
    constants = costs.ONNXRUNTIME[costs.family(spec)]
    middle, band = costs.ratio_band(encoder(6), encoder(3), spec, constants, threads=1)
    assert middle == pytest.approx(2, rel=0.01)
    assert band.high / band.low < 1.1
    _, apart = costs.ratio_band(
        encoder(6), encoder(3, arithmetic="int8"), spec, constants, threads=1
    )
    assert apart.high / apart.low > 1.5, (
        "int8 and fp32 kernels are uncertain apart: nothing cancels"
    )


def test_identical_models_are_equally_fast_within_the_residual() -> None:
    spec = load_device("rpi5")
    middle, band = costs.ratio_band(
        encoder(3), encoder(3), spec, costs.ONNXRUNTIME["wide"], threads=4
    )
    assert middle == 1 and (band.low, band.high) == (pytest.approx(0.96), pytest.approx(1.04))


def test_a_fit_tells_the_times_it_was_given() -> None:
    spec = load_device("rpi4")
    prior = costs.ONNXRUNTIME["narrow"]
    truth = replace(prior, fp32_efficiency=0.4, int8_efficiency=0.3, overhead_cycles=20_000.0)
    works = [encoder(n, arithmetic=kind) for n in (1, 3, 6, 12) for kind in ("fp32", "int8")]
    samples = [
        (
            costs.features(w, spec, threads=1, half_rows=prior.half_rows),
            costs.seconds(w, spec, truth, threads=1),
        )
        for w in works
    ]
    fitted = costs.fitted(samples, prior, origin="test", spread=1.2)
    for work, (_, seconds) in zip(works, samples, strict=True):
        assert costs.seconds(work, spec, fitted, threads=1) == pytest.approx(seconds, rel=0.05)
    assert fitted.fp32_efficiency == pytest.approx(0.4, rel=0.15)


def test_weights_that_do_not_fit_the_cache_come_from_memory() -> None:
    spec = load_device("rpi5")  # 2 MiB of last-level cache at 2.4 GHz, 8 GB/s of one core
    cached, fetched = (
        costs.UNCERTAIN.index("cache_bytes_per_cycle"),
        costs.UNCERTAIN.index("bandwidth_share"),
    )

    def weights(size: float, elements: int = 0) -> tuple[float, float]:
        nodes = [replace(encoder(1)[0], weight_bytes=int(size), elements=elements)]
        found = costs.features(nodes, spec, threads=1, half_rows=1)
        return found[cached] * 2.4e9, found[fetched] * 8e9

    assert weights(2**20) == (pytest.approx(2**20), 0)
    assert weights(4 * 2**20) == (0, pytest.approx(4 * 2**20))
    assert weights(2.5 * 2**20) == (pytest.approx(1.25 * 2**20), pytest.approx(1.25 * 2**20)), (
        "half way to one and a half"
    )
    assert weights(2**20, elements=2**19) == (pytest.approx(0), pytest.approx(2**20)), (
        "activations take their part"
    )


def test_attention_is_float_whatever_the_weights_are() -> None:
    spec = load_device("rpi5")
    both = replace(encoder(1)[0], weight_bytes=0)
    found = dict(
        zip(costs.UNCERTAIN, costs.features([both], spec, threads=1, half_rows=1), strict=True)
    )
    assert found["attention_efficiency"] > 0 == found["fp32_efficiency"]


def test_every_call_costs_something() -> None:
    spec = load_device("rpi5")
    assert costs.seconds([], spec, costs.ONNXRUNTIME["wide"], threads=1) == pytest.approx(
        40_000 / 2.4e9
    )


def test_memory_has_a_band_around_what_was_measured_here() -> None:
    work = encoder(1)
    for megabytes, measured_mib in ((268, 425), (67, 160), (17.4, 103)):
        band = costs.memory_band(int(megabytes * 1e6), external=False, work=work, page_bytes=4096)
        assert band.low < measured_mib * 2**20 < band.high
    # DistilBERT, MiniLM's encoder, its fill-mask model with 128 × 30,522 logits, its encoder in int8.
    for packed, logits, measured_mib in (
        (170e6, 0, 244),
        (42.5e6, 0, 137),
        (89.4e6, 128 * 30522, 231),
        (5.3e6, 0, 86),
    ):
        nodes = [replace(encoder(1)[0], weight_bytes=int(packed), elements=max(logits, 128 * 1536))]
        band = costs.memory_band(0, external=True, work=nodes, page_bytes=4096)
        assert band.low < measured_mib * 2**20 < band.high
    pages = costs.memory_band(10**8, external=False, work=work, page_bytes=16384)
    assert pages.high > costs.memory_band(10**8, external=False, work=work, page_bytes=4096).high


def test_corners_scale_nothing_when_certain() -> None:
    certain = replace(costs.ONNXRUNTIME["wide"], spread=1.0)
    _, band = costs.ratio_band(encoder(6), encoder(3), load_device("rpi5"), certain, threads=1)
    assert math.isclose(band.high / band.low, 1.04 / 0.96)

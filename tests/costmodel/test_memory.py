"""The memory model: bands that hold what was measured, with what the process itself takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedistil.costmodel.memory import MEMORY_CONSTANTS, MEMORY_SPREAD, memory_band, memory_parts
from tests.costmodel.conftest import encoder

MIB = 2**20


@pytest.mark.parametrize("external", [True, False])
def test_a_process_without_a_model_takes_python_numpy_and_the_runtime(external: bool) -> None:
    band = memory_band(0, external=external, work=[], page_bytes=4096)
    # 50 MiB after the imports on two machines, and the session.
    assert 45 < band.low / MIB < 60 < 80 < band.high / MIB < 100
    assert band.high / band.low == pytest.approx(MEMORY_SPREAD)


@pytest.mark.parametrize(
    ("megabytes", "weights", "measured_mib"),
    [
        pytest.param(68, 21.2e6, 141, id="student of MiniLM: README.md"),
        pytest.param(91, 42.5e6, 166, id="MiniLM: README.md"),
    ],
)
def test_encoders_with_external_weights_are_in_the_band(
    megabytes: float, weights: float, measured_mib: int
) -> None:
    nodes = [replace(encoder(1)[0], weight_bytes=int(weights), elements=256 * 1536)]
    band = memory_band(int(megabytes * 1e6), external=True, work=nodes, page_bytes=4096)
    assert band.low < measured_mib * MIB < band.high


def test_a_weight_that_is_used_twice_is_stored_once() -> None:
    nodes = [replace(node, weight_bytes=3 * MIB) for node in encoder(1)[:1] * 2]
    weights, others, _, largest = memory_parts(4 * MIB, nodes)
    assert (weights, others, largest) == (6 * MIB, 0, 3 * MIB)


def test_touched_embeddings_are_resident() -> None:
    work = encoder(1)
    small = memory_band(10**7, external=True, work=work, page_bytes=4096)
    large = memory_band(6 * 10**7, external=True, work=work, page_bytes=4096)
    middle = (large.low * large.high) ** 0.5 - (small.low * small.high) ** 0.5
    assert middle == pytest.approx(MEMORY_CONSTANTS["external"].other_share * 5 * 10**7)


def test_large_pages_take_more_memory() -> None:
    small = memory_band(10**8, external=False, work=encoder(1), page_bytes=4096)
    large = memory_band(10**8, external=False, work=encoder(1), page_bytes=16384)
    assert large.high > small.high

"""Numbers from counters: equal in torch and numpy, uniform; shuffles are bijections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistil.data.counter_rng import (
    key_tensor,
    permute,
    splitmix64,
    splitmix64_array,
    stream_key,
    uniform,
)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=7))
def test_torch_and_numpy_mix_alike(values: list[int]) -> None:
    unsigned = np.array(values, np.uint64)
    signed = torch.from_numpy(unsigned.astype(np.int64))
    assert np.array_equal(splitmix64(signed).numpy().astype(np.uint64), splitmix64_array(unsigned))


def test_mixing_is_splitmix64() -> None:
    first = [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]  # its published outputs from state 0
    assert splitmix64_array(np.arange(3, dtype=np.uint64)).tolist() == first


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_shuffle_is_a_bijection(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key=key)), np.arange(size))


def test_a_shuffle_is_read_at_any_place_in_any_order() -> None:
    whole = permute(np.arange(997), 997, key=5)
    assert np.array_equal(permute(np.array([700, 3, 41]), 997, key=5), whole[[700, 3, 41]])


def test_other_keys_shuffle_otherwise_and_places_do_not_follow_each_other() -> None:
    one, other = (permute(np.arange(10_007), 10_007, key=key) for key in (1, 2))
    assert (one == other).mean() < 0.01
    assert abs(np.corrcoef(np.arange(10_007), one)[0, 1]) < 0.05
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.05


def test_a_range_larger_than_any_memory_is_shuffled() -> None:
    places = np.arange(10**15, 10**15 + 11)
    assert len(set(permute(places, 10**16, key=3).tolist())) == 11


def test_uniform_numbers_are_even_and_inside() -> None:
    numbers = uniform(splitmix64(torch.arange(100_003)))
    assert numbers.min() > 0 and numbers.max() < 1
    assert torch.histc(numbers, 10).sub(10_000).abs().max() < 500
    extremes = uniform(torch.tensor([0, -1]))
    assert extremes[0] > 0 and extremes[1] < 1


@pytest.mark.parametrize("other", [(1, "a", 3), (1, "a2"), ("1", "a", 2), (1, 2, "a")])
def test_keys_distinguish_their_parts(other: tuple[int | str, ...]) -> None:
    assert stream_key(1, "a", 2) != stream_key(*other)
    assert stream_key(1, "a", 2) == stream_key(1, "a", 2)


def test_a_large_key_fits_a_tensor() -> None:
    assert key_tensor(2**64 - 1).item() == -1

"""Random numbers as a pure function of counters: the same on every device, in every batch size, in any order.

A drawn number depends on (key, counter) only, so a sequence gets the same mask whichever rank and whichever micro-batch
it travels in, and a run resumes without any random state of its data. The mixing function is SplitMix64's (Steele, Lea,
Flood 2014) on two's-complement int64, which torch and numpy wrap alike.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def key_of(*parts: int | str) -> int:
    """A 64-bit key, unsigned, from what identifies a stream of numbers: `key_of(seed, "mask", step)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mixed(values: Tensor) -> Tensor:
    """SplitMix64's output function of int64 counters, elementwise; any shape, any device."""
    z = values * _signed(_GOLDEN) + _signed(_GOLDEN)
    z = (z ^ _shifted_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shifted_right(z, 27)) * _signed(_MIX_2)
    return z ^ _shifted_right(z, 31)


def uniform(values: Tensor) -> Tensor:
    """Float64 in (0, 1) from mixed int64 values: 52 bits, never 0 or 1."""
    return (_shifted_right(values, 12).double() + 0.5) * 2.0**-52


def _shifted_right(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)  # torch's >> keeps the sign


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def mixed_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`mixed` for numpy's uint64."""
    z = values * np.uint64(_GOLDEN) + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def permuted(positions: NDArray[np.int64], size: int, *, key: int) -> NDArray[np.int64]:
    """Where a shuffle of `range(size)` puts these positions: a bijection, without storing it.

    A Feistel network of six rounds over the next even power of two, walked until it lands inside the range (Black and
    Rogaway 2002): constant memory, so a corpus of any number of rows is shuffled anew each epoch for nothing.

    Args:
        positions: Integers in [0, size), any shape.
        size: Of the range, >= 1.
        key: Of the shuffle; another key is another shuffle.
    Returns:
        Integers in [0, size), same shape.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    result = _feistel(positions.astype(np.uint64), half, key)
    outside = result >= size
    while outside.any():
        result[outside] = _feistel(result[outside], half, key)
        outside = result >= size
    return result.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: np.uint64, key: int) -> NDArray[np.uint64]:
    low_bits = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & low_bits
    for round_number in range(6):
        round_key = np.uint64(key_of(key, round_number))
        left, right = right, left ^ (mixed_array(right ^ round_key) & low_bits)
    return (left << half) | right


def tensor_key(key: int) -> Tensor:
    """A key as an int64 scalar tensor."""
    return torch.tensor(_signed(key), dtype=torch.int64)

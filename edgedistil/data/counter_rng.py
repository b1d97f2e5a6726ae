"""Random numbers as pure functions of counters.

A number depends on (key, counter) only: it is the same on every device, in every batch size and in
any order. So a sequence gets the same mask on any rank and in any micro-batch, and a run resumes
without a saved random state of its data. The mixing function is SplitMix64's (Steele, Lea, Flood
2014) on two's-complement int64, which overflows in the same way in torch and numpy.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# SplitMix64's own constants.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

# Four Feistel rounds already pass for random (Luby, Rackoff 1988); two more cost little.
_FEISTEL_ROUNDS = 6


def stream_key(*parts: int | str) -> int:
    """Returns the 64-bit key of a random stream.

    Args:
        parts: What identifies the stream: `stream_key(seed, "mask", step)`.
    Returns:
        Unsigned integer below 2**64.
    """
    # The type is part of the text, so 1 and "1" are different streams.
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def splitmix64(counters: Tensor) -> Tensor:
    """Mixes int64 counters into random int64 values, elementwise; any shape, any device."""
    z = counters * _signed(_GOLDEN) + _signed(_GOLDEN)
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX_2)
    return z ^ _shift_right(z, 31)


def splitmix64_array(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mixes numpy uint64 counters; the same bits as `splitmix64`."""
    z = counters * np.uint64(_GOLDEN) + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def uniform(values: Tensor) -> Tensor:
    """Converts mixed int64 values to float64 in (0, 1).

    Uses 52 bits: neither 0 nor 1 occurs, so a logarithm of the result is finite.
    """
    return (_shift_right(values, 12).double() + 0.5) * 2.0**-52


def permute(positions: NDArray[np.int64], size: int, *, key: int) -> NDArray[np.int64]:
    """Applies a keyed random permutation of `range(size)` to some positions.

    A Feistel network over the next even power of two, applied again until the result is inside the
    range (cycle walking; Black and Rogaway 2002). Nothing is stored, so a corpus of any number of
    rows is shuffled again each epoch in constant memory.

    Args:
        positions: Integers in [0, size), any shape.
        size: Length of the range, >= 1.
        key: Key of the permutation; another key is another permutation.
    Returns:
        Integers in [0, size), same shape.
    """
    # Feistel halves have equal width, so the range is rounded up to an even power of two.
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    result = _feistel(positions.astype(np.uint64), half_bits, key)
    # The power of two is at most 4 · size: four passes on average, at worst.
    outside = result >= size
    while outside.any():
        result[outside] = _feistel(result[outside], half_bits, key)
        outside = result >= size
    return result.astype(np.int64)


def key_tensor(key: int) -> Tensor:
    """Converts an unsigned 64-bit key to an int64 scalar tensor."""
    return torch.tensor(_signed(key), dtype=torch.int64)


def _feistel(values: NDArray[np.uint64], half_bits: np.uint64, key: int) -> NDArray[np.uint64]:
    """Permutes values of 2 · half_bits bits."""
    # Each round is invertible whatever its mixing function is, so the result is a permutation.
    low_bits = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & low_bits
    for round_number in range(_FEISTEL_ROUNDS):
        round_key = np.uint64(stream_key(key, round_number))
        left, right = right, left ^ (splitmix64_array(right ^ round_key) & low_bits)
    return (left << half_bits) | right


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Shifts as if unsigned: torch's own >> of int64 keeps the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Reinterprets an unsigned 64-bit integer as two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value

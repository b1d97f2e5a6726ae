"""File format of inputs that the programs of all environments read; needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

INPUTS = ("input_ids", "attention_mask")
# Ids of words and pieces, which a vocabulary trimmed to 16,000 tokens has too.
ID_RANGE = (1_000, 16_000)


def random_ids(rng: np.random.Generator, length: int) -> np.ndarray:
    """Returns the ids of one sequence, shape (1, length), int64."""
    return rng.integers(*ID_RANGE, (1, length))


def write_feeds(path: Path, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Writes batches as an npz file with arrays named `INDEX/INPUT`."""
    arrays = {}
    for index, batch in enumerate(batches):
        for name in INPUTS:
            arrays[f"{index}/{name}"] = batch[name]
    np.savez(path, **arrays)


def read_feeds(path: str) -> list[dict[str, np.ndarray]]:
    """Reads a file of `write_feeds`."""
    with np.load(path) as stored:
        count = len(stored.files) // len(INPUTS)
        return [{name: stored[f"{index}/{name}"] for name in INPUTS} for index in range(count)]


def outputs_path(path: str) -> str:
    """Path of the file with a worker's outputs for a file of feeds."""
    return f"{path}.outputs.npz"

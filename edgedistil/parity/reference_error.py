"""Distance of a quantized artefact from PyTorch with the same roundings.

The distance is divided by that of the reference from float32: 0 for the same roundings, 1 for an
error as large as the quantization's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Wider rows are stored as this many random projections, which keep the length of a difference:
# within 1% over 256 rows (Johnson and Lindenstrauss 1984).
PROJECTIONS = 64
_SEED = 22
# Relative error that counts as the own one of a part that rounds nothing.
FLOAT_ERROR = 1e-4
_TINY = 1e-30


def compressed(rows: Array) -> NDArray[np.float32]:
    """Returns rows of outputs in the form in which references are stored and compared.

    Args:
        rows: Shape (N, width) or (N,); rows wider than `PROJECTIONS` are projected.
    Returns:
        Shape (N, min(width, PROJECTIONS)); the length of differences of rows is the same.
    """
    rows_NW = rows.reshape(len(rows), -1).astype(np.float32, copy=False)
    width = rows_NW.shape[1]
    if width <= PROJECTIONS:
        return rows_NW
    projected_NP: NDArray[np.float32] = rows_NW @ _signs(width)
    return projected_NP


@lru_cache(maxsize=4)
def _signs(width: int) -> NDArray[np.float32]:
    """Random signs, shape (width, PROJECTIONS), the same in every process."""
    signs = np.random.default_rng(_SEED).choice((-1.0, 1.0), (width, PROJECTIONS))
    return np.asarray(signs / np.sqrt(PROJECTIONS), np.float32)


@dataclass(frozen=True)
class SquaredErrors:
    """Sums of squares over the values of a part or of the outputs.

    Attributes:
        own: Of artefact - reference.
        rounding: Of reference - PyTorch in float32, and what float32 itself may be off by.
    """

    own: float = 0.0
    rounding: float = 0.0

    def __add__(self, other: SquaredErrors) -> SquaredErrors:
        return SquaredErrors(self.own + other.own, self.rounding + other.rounding)

    @property
    def share(self) -> float:
        """‖artefact - reference‖ / ‖reference - PyTorch‖."""
        return float(np.sqrt(self.own / (self.rounding + _TINY)))


def squared_errors(expected: Array, reference: Array, actual: Array) -> SquaredErrors:
    """Compares one output, or the hidden states behind one part.

    Args:
        expected: PyTorch's values in float32.
        reference: `compressed` values of PyTorch with the artefact's roundings.
        actual: The artefact's values.
    """
    rounded = reference.astype(np.float64)
    rounding = float(((compressed(expected) - rounded) ** 2).sum())
    # A part that rounds nothing has no error that a difference could be divided by.
    of_float = FLOAT_ERROR**2 * float((rounded**2).sum())
    return SquaredErrors(
        own=float(((compressed(actual) - rounded) ** 2).sum()), rounding=rounding + of_float
    )

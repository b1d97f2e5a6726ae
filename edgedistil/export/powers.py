"""Powers of two that move the range of one tensor into the next, without a rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistil.parity.formula import Formula, call, scale_columns, scale_rows


@dataclass(frozen=True)
class Powers:
    """Powers of two that move ranges from one tensor to the next, as `powers_text`.

    Attributes:
        input: What the weight's rows are multiplied by, because its input was divided by it.
        output: What the outputs are multiplied by, because the next weight's rows are divided.
    """

    input: str | None = None
    output: str | None = None

    def move(
        self, matrix_KN: NDArray[np.float32], formula: Formula | None
    ) -> tuple[NDArray[np.float32], Formula | None]:
        """Multiplies a weight, and writes that into its formula."""
        if self.input is not None:
            matrix_KN = scale_rows(matrix_KN, self.input)
            formula = call("scale_rows", formula, repr(self.input))
        if self.output is not None:
            matrix_KN = scale_columns(matrix_KN, self.output)
            formula = call("scale_columns", formula, repr(self.output))
        return matrix_KN, formula

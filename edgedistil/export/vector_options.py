"""What the user states about sentence vectors: pooling where the folder has none, and length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgedistil.core.errors import InputError
from edgedistil.core.sentence_vector import Pooling, SentenceVector, Step

DEFAULT_HINT = "leave the option out: the model's own description is used"


@dataclass(frozen=True)
class VectorOptions:
    """Options of an export that change how sentence vectors are made.

    Attributes:
        pooling: How to pool, of a folder that does not say it.
        normalize: Whether vectors are divided by their L2 norm, of a folder that does not say it.
        dimension: Values that vectors are cut to; None: all.
    """

    pooling: Pooling | None = None
    normalize: bool = False
    dimension: int | None = None

    def apply(self, vector: SentenceVector, folder: Path) -> SentenceVector:
        """Returns the description of a folder with what the user states.

        Args:
            vector: What the folder says, or a guess.
            folder: The folder, for messages.
        Raises:
            InputError: The folder says something else, or nothing says how the model pools.
        """
        if not vector.is_guess:
            self._check_agrees(vector, folder)
        elif self.pooling is not None:
            steps = (Step("normalize"),) if self.normalize else ()
            vector = replace(vector.with_pooling(self.pooling), steps=steps)
        elif self.normalize or self.dimension is not None:
            raise InputError(
                f"{folder} does not say how the model pools, so its vectors cannot be normalized "
                "or cut",
                hint="state it with --pooling, as the model's documentation describes",
            )
        return vector if self.dimension is None else vector.truncated(self.dimension)

    def _check_agrees(self, vector: SentenceVector, folder: Path) -> None:
        """Raises InputError if the user states something else than the folder."""
        if self.pooling is not None and vector.pooling != (self.pooling,):
            raise InputError(
                f"--pooling is {self.pooling}, and {folder / 'modules.json'} says: "
                f"{vector.in_words()}",
                hint=DEFAULT_HINT,
            )
        if self.normalize and not vector.is_normalized:
            raise InputError(
                f"--normalize adds a step that {folder / 'modules.json'} does not have: "
                f"{vector.in_words()}",
                hint=DEFAULT_HINT,
            )

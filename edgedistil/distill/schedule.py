"""How long a run is: tokens, epochs or steps, as steps."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RunLength:
    steps: int
    tokens_per_step: float

    @property
    def tokens(self) -> int:
        """About: rows of the layout `lines` differ in length."""
        return round(self.steps * self.tokens_per_step)


def run_length(
    corpus_tokens: int,
    corpus_rows: int,
    *,
    tokens: int | None,
    epochs: int | None,
    steps: int | None,
    global_batch: int,
) -> RunLength:
    """Steps of a run, of whose three measures exactly one is given. Tokens and epochs are rounded up to whole steps."""
    tokens_per_step = global_batch * corpus_tokens / corpus_rows
    if steps is None:
        wanted = tokens if tokens is not None else (epochs or 0) * corpus_tokens
        steps = max(1, math.ceil(wanted / tokens_per_step))
    return RunLength(steps, tokens_per_step)

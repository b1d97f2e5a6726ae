"""Length of a run, its evaluation interval and its learning rate, as functions of the recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgedistil.core.recipe import Train

# Most held-out evaluations of a run whose recipe does not set train.evaluate_every.
_DEFAULT_EVALUATIONS = 10


@dataclass(frozen=True)
class RunLength:
    """Length of a run in optimizer steps.

    Attributes:
        steps: Optimizer steps.
        tokens_per_step: Mean tokens of a global batch; with the layout `lines` steps differ.
    """

    steps: int
    tokens_per_step: float

    @property
    def tokens(self) -> int:
        """Tokens of the run; an estimate with the layout `lines`."""
        return round(self.steps * self.tokens_per_step)

    @classmethod
    def of(cls, settings: Train, *, corpus_tokens: int, corpus_rows: int) -> RunLength:
        """Returns the length of a run over a corpus.

        Args:
            settings: Recipe section [train].
            corpus_tokens: Tokens of one pass over the training part.
            corpus_rows: Rows of the training part.
        """
        tokens_per_step = settings.global_batch * corpus_tokens / corpus_rows
        steps = total_steps(settings, corpus_tokens=corpus_tokens, tokens_per_step=tokens_per_step)
        return cls(steps, tokens_per_step)


def total_steps(settings: Train, *, corpus_tokens: int, tokens_per_step: float) -> int:
    """Returns the optimizer steps of a run; tokens and epochs are rounded up to entire steps.

    Args:
        settings: Recipe section [train]; exactly one of tokens, epochs and steps is set.
        corpus_tokens: Tokens of one pass over the training part.
        tokens_per_step: Mean tokens of a global batch.
    """
    if settings.steps is not None:
        return settings.steps
    # Epochs are passes over the training part.
    tokens = settings.tokens
    if tokens is None:
        tokens = (settings.epochs or 0) * corpus_tokens
    return max(1, math.ceil(tokens / tokens_per_step))


def evaluation_interval(settings: Train, *, steps: int) -> int:
    """Returns the steps between two held-out evaluations."""
    return settings.evaluate_every or math.ceil(steps / _DEFAULT_EVALUATIONS)


def learning_rate_factor(step: int, *, steps: int, warmup: float) -> float:
    """Returns the learning rate of a step as a share of the peak rate.

    Rises linearly over the warm-up to 1, then falls linearly towards 0. Neither the first nor the
    last step has the factor 0: it would change nothing.

    Args:
        step: Step, from 0.
        steps: Steps of the run.
        warmup: Share of the steps in which the rate rises, 0 <= warmup < 1.
    """
    # Rounding up: any warm-up above 0 has at least one step.
    warmup_steps = math.ceil(warmup * steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (steps - step) / max(steps - warmup_steps, 1)

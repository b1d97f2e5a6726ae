"""Names of the numbers from a config that the formulas of constants refer to."""

from __future__ import annotations

HEADS = "heads"
ATTENTION_SCALE = "attention_scale"
MASKED_SCORE = "masked_score"

# Added to the scores of padding: exp() of it is 0, and float16 can hold it.
MASKED_SCORE_VALUE = -10000.0


def epsilon_name(module: str) -> str:
    """Name of the setting that holds a normalization's epsilon."""
    return f"eps:{module}"

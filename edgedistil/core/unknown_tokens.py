"""Warns of text in a language or script that a vocabulary does not have."""

from __future__ import annotations

from edgedistil.core import console

# English text has under 1% of unknown tokens with its own vocabulary, and text in a script that the
# vocabulary lacks over 50%. Beyond this share, figures say little about the text.
WARNED_SHARE = 0.05

# Texts that were warned of: one text is tokenized for many cells and artefacts.
_warned: set[str] = set()


def warn_of_unknown_tokens(unknown: int, total: int, *, text: str) -> None:
    """Warns once of a text if many of its tokens are unknown.

    Args:
        unknown: Occurrences of the unknown token ([UNK]).
        total: Number of tokens.
        text: The text in messages, such as "the corpus".
    """
    if total == 0 or unknown / total < WARNED_SHARE:
        return
    message = (
        f"{unknown / total:.0%} of the tokens of {text} are unknown to the model's vocabulary: it "
        "may be in a language or script that the model was not made for"
    )
    if message not in _warned:
        _warned.add(message)
        console.warn(message)

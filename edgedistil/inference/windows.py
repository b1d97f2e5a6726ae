"""Reads a stream of texts in windows, so that only some of them are tokens at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.inference.batching import Framed

# Texts of a window: enough that each length has neighbours of its own.
_WINDOW_TEXTS = 4096
# Characters of a window. A token of one character takes some 100 bytes while it is made and 50
# after that, so a window stays below 30 MB (docs/log.md#memory-of-bulk-work).
WINDOW_CHARACTERS = 2**18
# Characters of a long text that are tokenized at first, for each token that is used: words of most
# languages have fewer, and a text below the minimum is cheap as it is.
_CHARACTERS_PER_TOKEN = 32
_MIN_CUT = 2**15

# A text, or several that belong together.
Item = TypeVar("Item", bound=str | tuple[str, ...])


def in_windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yields texts, or tuples of texts, in lists of bounded size; a longer one is alone."""
    window: list[Item] = []
    characters = 0
    for item in items:
        size = len(item) if isinstance(item, str) else sum(map(len, item))
        full = len(window) == _WINDOW_TEXTS or characters + size > WINDOW_CHARACTERS
        if window and full:
            yield window
            window, characters = [], 0
        window.append(item)
        characters += size
    if window:
        yield window


def frame_texts(tokenizer: TextTokenizer, texts: Sequence[str], max_length: int) -> list[Framed]:
    """Returns token ids and token types of texts, cut to `max_length` tokens.

    As `TextTokenizer.encode_framed`, but without making all tokens of a text that is cut anyway.
    """
    short = _CHARACTERS_PER_TOKEN * max_length
    shortened = [
        text if len(text) <= max(short, _MIN_CUT) else _shorten(tokenizer, text, max_length)
        for text in texts
    ]
    return tokenizer.encode_framed(shortened, max_length)


def _shorten(tokenizer: TextTokenizer, text: str, max_length: int) -> str:
    """Returns the part of a long text that its first tokens, or last ones, come from.

    Twice as much text has to give the same tokens: where words end is up to the tokenizer.
    """
    on_the_left = tokenizer.truncation_side == "left"
    size = max(_CHARACTERS_PER_TOKEN * max_length, _MIN_CUT)
    part = text[-size:] if on_the_left else text[:size]
    (framed,) = tokenizer.encode_framed([part], max_length)
    while size < len(text):
        size *= 2
        larger = text[-size:] if on_the_left else text[:size]
        (again,) = tokenizer.encode_framed([larger], max_length)
        # A shorter one is not cut, so more of the text may give more tokens.
        if again == framed and len(framed[0]) >= max_length:
            return part
        part, framed = larger, again
    return text

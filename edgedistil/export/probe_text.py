"""The built-in text of the parity check, for models that come without text of their own."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.tokenizer import TextTokenizer

# Written for this purpose: twenty scripts, prose, pairs of questions and answers, code, emoji.
_FILE = Path(__file__).with_name("probe_text.txt")
# A line of which more is unknown to the vocabulary is in a script that the model cannot read.
_MOST_UNKNOWN = 0.3


def probe_lines() -> list[str]:
    """Returns all lines."""
    return _FILE.read_text(encoding="utf-8").splitlines()


def built_in_text(tokenizer: TextTokenizer) -> list[str]:
    """Returns the lines that a model's vocabulary can express, one sequence each.

    One line of the others stays, so that the token for unknown text is compared too.
    """
    lines = probe_lines()
    unknown_id = tokenizer.token_id("unk")
    if unknown_id is None:
        return lines
    readable: list[str] = []
    unreadable: list[str] = []
    for line, ids in zip(lines, tokenizer.encode_texts(lines), strict=True):
        is_readable = ids.count(unknown_id) <= _MOST_UNKNOWN * len(ids)
        (readable if is_readable else unreadable).append(line)
    # A vocabulary that can express nothing of it gets all of it, and the warning about that.
    return readable + unreadable[:1] if readable else lines

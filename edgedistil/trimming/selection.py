"""Chooses the tokens that stay in a trimmed vocabulary, by their counts in a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_trim import Vocabulary, read_vocabulary, renumbered, required_ids
from edgedistil.core.writing_script import byte_level_text, count_letters, script_of_text

# Texts per call of the tokenizer: enough to use all cores, few enough for its encodings in memory.
_TEXTS_AT_ONCE = 1024
# Letters of a script that the vocabulary has no words of; below this share of a text they are names
# and quotations.
_FOREIGN_SHARE = 0.05
# Share of a vocabulary's words from which on it was made for their script: BERT's English one has
# 0.5% of words in Cyrillic.
_OWN_SHARE = 0.01
# The same for scripts in which a token is a character: English BERT has 1.6% of Chinese ones.
_LETTERS_SHARE = 0.1


@dataclass(frozen=True)
class VocabularyRequest:
    """How small a vocabulary shall be: exactly one of the two.

    Attributes:
        size: Number of tokens.
        coverage: Share of the counted text's tokens that stay as they are, 0 to 1.
    """

    size: int | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class Selection:
    """Tokens that stay.

    Attributes:
        vocabulary: The vocabulary before.
        new_ids: Old id → new id.
        required: Number of tokens that have to stay whatever the text is.
        coverage: Share of the counted tokens that stay as they are, 0 to 1.
    """

    vocabulary: Vocabulary
    new_ids: dict[int, int]
    required: int
    coverage: float

    @property
    def rows(self) -> list[int]:
        """Old id of each new id."""
        return list(self.new_ids)


def count_tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """Counts the tokens of texts by id, without special tokens; shape (V,)."""
    counts_V = np.zeros(tokenizer.size, np.int64)
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        encoded = tokenizer.encode_texts(texts[first : first + _TEXTS_AT_ONCE])
        # bincount refuses an empty list of no type.
        joined = np.concatenate([np.array(ids, np.int64) for ids in encoded])
        counts_V += np.bincount(joined, minlength=tokenizer.size)
    return counts_V


def select_tokens(
    tokenizer: TextTokenizer,
    counts_V: NDArray[np.int64],
    request: VocabularyRequest,
) -> Selection:
    """Chooses the tokens that stay: those that must, and the most frequent others.

    Args:
        tokenizer: The tokenizer.
        counts_V: Occurrences of each token, shape (V,).
        request: How small the vocabulary shall be.
    Raises:
        InputError: The size is below the tokens that must stay, or not below the present size.
        ModelError: The vocabulary is of a kind that cannot be trimmed.
    """
    vocabulary = read_vocabulary(tokenizer)
    required = required_ids(tokenizer, vocabulary)
    _check_size(request, least=len(required), present=len(vocabulary.ids), tokenizer=tokenizer)
    target = len(vocabulary.ids) if request.size is None else request.size
    remaining = set(required)
    total, covered = int(counts_V.sum()), int(counts_V[sorted(required)].sum())
    for number in _by_frequency(vocabulary, counts_V):
        reached = request.coverage is not None and covered >= request.coverage * total
        if len(remaining) >= target or reached:
            break
        new = vocabulary.with_parts([number]) - remaining
        # A joined token may need more room for its parts than is left; a shorter one may fit.
        if new and len(remaining) + len(new) <= target:
            remaining |= new
            covered += int(counts_V[sorted(new)].sum())
    if len(remaining) == len(vocabulary.ids):
        raise InputError(
            f"all {len(remaining):,} tokens are needed for a coverage of {request.coverage}",
            hint="ask for a smaller coverage or for a size",
        )
    share = covered / total if total else 1.0
    return Selection(vocabulary, renumbered(vocabulary, remaining), len(required), share)


def _check_size(
    request: VocabularyRequest, *, least: int, present: int, tokenizer: TextTokenizer
) -> None:
    """Raises InputError for a size that cannot be reached, or that removes nothing."""
    if request.size is None:
        return
    if request.size < least:
        raise InputError(
            f"a vocabulary of {request.size:,} tokens is too small for the tokenizer in "
            f"{tokenizer.folder}: {least:,} have to stay (special and added tokens, and single "
            "characters, without which words would become unknown)",
            hint=f"the least size that works is {least}",
        )
    if request.size >= present:
        raise InputError(
            f"a vocabulary of {request.size:,} tokens is not smaller than the present one, "
            f"which has {present:,}",
            hint=f"expected {least} to {present - 1}",
        )


def _by_frequency(vocabulary: Vocabulary, counts_V: NDArray[np.int64]) -> list[int]:
    """Ids by falling count; equal ones by id, because vocabularies start with frequent tokens."""
    reserved = vocabulary.reserved
    return sorted(vocabulary.ids.values(), key=lambda n: (-int(counts_V[n]), n in reserved, n))


# --- scripts -------------------------------------------------------------------------------------


def token_text(token: str, vocabulary: Vocabulary) -> str:
    """Returns the text of a token, without the marks of its place in a word."""
    text = token.removeprefix(vocabulary.prefix).removesuffix(vocabulary.suffix)
    if vocabulary.kind == "BPE" and _is_byte_level(vocabulary):
        return byte_level_text(text).strip()
    return text.strip("▁ ")


def _is_byte_level(vocabulary: Vocabulary) -> bool:
    decoder = vocabulary.described.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    return any(step.get("type") == "ByteLevel" for step in steps)


def dropped_by_script(selection: Selection) -> dict[str, int]:
    """Counts the tokens that went, by the script of their first letter; most first."""
    vocabulary = selection.vocabulary
    counts: dict[str, int] = {}
    for token, number in vocabulary.ids.items():
        if number not in selection.new_ids:
            script = script_of_text(token_text(token, vocabulary))
            counts[script] = counts.get(script, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def warn_of_other_scripts(vocabulary: Vocabulary, texts: Sequence[str]) -> dict[str, float]:
    """Warns if a text is in a script that the vocabulary has hardly any words of.

    Returns:
        Script → share of the text's letters, of such scripts.
    """
    own = _own_scripts(vocabulary)
    letters = count_letters(texts)
    total = letters.total()
    shares = {script: n / total for script, n in letters.most_common() if script not in own}
    if sum(shares.values()) >= _FOREIGN_SHARE:
        listed = ", ".join(f"{script.title()} {share:.0%}" for script, share in shares.items())
        console.warn(
            f"{sum(shares.values()):.0%} of the text's letters are in a script that the vocabulary "
            f"has hardly any words of ({listed}): counts over this text say little about it"
        )
    return shares


def _own_scripts(vocabulary: Vocabulary) -> set[str]:
    """Scripts that the vocabulary was made for."""
    texts = [token_text(token, vocabulary) for token in vocabulary.ids]
    tokens = Counter(script_of_text(text) for text in texts if text)
    words = Counter(script_of_text(text) for text in texts if len(text) > 1)
    return {
        script
        for script in tokens
        # In a Chinese vocabulary most words are single characters.
        if words[script] >= _OWN_SHARE * len(texts) or tokens[script] >= _LETTERS_SHARE * len(texts)
    }

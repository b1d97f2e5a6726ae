"""Strings on which implementations of a tokenizer differ: ordinary text and hostile text.

All of them are our own. The same arguments give the same strings, on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.export.probe_text import probe_lines

_ORDINARY = 60
_WORDS = ("boat", "Straße", "naïve", "2026", "it's", "co-op", "東京", "मकान", "кот", "قلب")
# Each is put alone, between letters, between blanks, and twice in a row.
_FRAGMENTS = (
    *("e\u0301", "\u0301", "a\u0323\u0302", "ﬁ", "İ", "ß", "ǅ", "Å", "①", "½", "\u00ad"),
    *("\u200b", "\u200d", "\u200e", "\ufeff", "\u00a0", "\u2003", "\u3000", "\u2028", "\x85"),
    *("\x00", "\x07", "\x1b[0m", "\x7f", "\ufffd", "\ue000", "\U0010fffd", "\U000e0041"),
    *("東京", "한국어", "\u1112\u1161\u11ab", "ไทย", "हिन्दी", "क्ष", "العربية", "עברית", "ქართ"),
    *("🙂", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "☎\ufe0f", "𝔘", "𠀀", "\u0600a", "ٱ", "٣", "Ⅷ"),
    *("--", "...", "''", "``", "'s", "'LL", "«x»", "¿", "§", "€", "\\", "%s", "<b>", "&amp;"),
    *("\t", "\n", "\r\n", "   ", "_", "##ing", "\u2581", "Ġ", "@@", "http://a.b/c?d=1"),
)
_LONG = ("word " * 700, "x" * 300, "ab\u0301" * 120, "東" * 600, "1" * 1200, "🙂" * 200, "." * 800)


def conformance_texts(special_tokens: Sequence[str]) -> list[str]:
    """Returns about 300 different strings.

    Args:
        special_tokens: Tokens of the model, which also appear as text.
    """
    texts = ["", " ", "\n", "a", "A", *probe_lines()[:_ORDINARY], *_mixtures(), *_LONG]
    for fragment in _FRAGMENTS:
        texts += [fragment, f"ab{fragment}cd", f" {fragment}{fragment} x"]
    for token in sorted(set(special_tokens)):
        texts += [token, f"a {token} b", f"a{token}{token}b", token.lower()]
    return list(dict.fromkeys(texts))


def conformance_pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of every eighth text and of one from the other end."""
    return [(text, texts[-1 - index]) for index, text in list(enumerate(texts))[::8]]


def _mixtures() -> list[str]:
    """Returns sentences of words of several scripts, with changing case and blanks."""
    sentences = []
    for start in range(len(_WORDS)):
        words = [*_WORDS[start:], *_WORDS[:start]]
        sentences += [" ".join(words), "".join(words[:4]).upper(), ",  ".join(words[:5]) + "!"]
    return sentences

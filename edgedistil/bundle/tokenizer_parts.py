"""Parts of tokenizer.json that the C++ library has; others are refused before a bundle is made.

The library refuses them too: it names the same parts when it reads the file. A test sends each
name of both lists through it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

# Section of tokenizer.json → types that the C++ library has.
PARTS: Mapping[str, frozenset[str]] = {
    "normalizer": frozenset(
        {
            *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt"),
            *("Precompiled", "Prepend", "Replace", "Sequence", "Strip", "StripAccents"),
        }
    ),
    "pre_tokenizer": frozenset(
        {
            *("BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation"),
            *("Sequence", "Split", "Whitespace", "WhitespaceSplit"),
        }
    ),
    "model": frozenset({"BPE", "Unigram", "WordLevel", "WordPiece"}),
    "post_processor": frozenset(
        {"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"}
    ),
}
# Regular expressions of the tokenizers of encoders: GPT-2's words, and runs of blanks.
REGULAR_EXPRESSIONS = frozenset(
    {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"\s{2,}|[\n\r\t]",
        r"\s+",
        " {2,}",
        " +",
    }
)
_STEPS = ("normalizers", "pretokenizers", "processors")


def missing_parts(
    described: Mapping[str, Any],
    parts: Mapping[str, frozenset[str]] = PARTS,
    *,
    expressions: Collection[str] | None = REGULAR_EXPRESSIONS,
) -> list[str]:
    """Returns the parts of a tokenizer.json that a library does not have, in words.

    Args:
        described: Content of tokenizer.json.
        parts: Section → types that the library has; by default those of the C++ library.
        expressions: Regular expressions that it has; None for all.
    """
    missing = []
    for section, known in parts.items():
        for part in _parts(described.get(section)):
            kind = str(part.get("type"))
            if kind not in known:
                missing.append(f"{section.replace('_', '-')} {kind}")
            pattern = part.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, dict) else None
            if regex is not None and expressions is not None and regex not in expressions:
                missing.append(f"regular expression {regex}")
    model = described.get("model") or {}
    if model.get("dropout"):
        missing.append("random dropout of merges")
    return missing


def _parts(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yields a part and those that a sequence consists of."""
    if not isinstance(part, dict):
        return
    yield part
    for key in _STEPS:
        for step in part.get(key) or []:
            yield from _parts(step)

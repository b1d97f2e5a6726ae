"""Removes tokens from a tokenizer's vocabulary and renumbers the others; without torch.

The new tokenizer is the old one's description with a smaller vocabulary: normalizer, pre-tokenizer,
post-processor and decoder stay. Ids keep their order. A text that is split into tokens which stay
has the same tokens as before, because what is removed had no part in splitting it:

- WordPiece takes the longest piece that fits, and Unigram the best sequence of pieces;
- BPE joins pairs in the order of the merges, and a token stays only together with its two parts.

Reasons: docs/decisions.md#vocabularies-are-trimmed-in-the-tokenizers-description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_files import TokenizerFiles, read_files
from edgedistil.core.tokenizer_vocabulary import model_kind, read_described

TRIMMED_KINDS = ("WordPiece", "BPE", "Unigram")
# Rows that a vocabulary reserves for its users; no text is split into them.
_RESERVED = re.compile(r"[\[<](?:\|?)(?:unused|reserved)[\w|-]*[\]>]|madeupword\d+")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a tokenizer whose vocabulary can be trimmed.

    Attributes:
        kind: WordPiece, BPE or Unigram.
        ids: Token → id, with added tokens.
        pieces: Tokens of the model itself, which texts are split into.
        prefix: Beginning of pieces inside a word, such as ##; often empty.
        suffix: End of pieces at the end of a word; almost always empty.
        parts: BPE: id → ids of the two tokens that are joined into it.
        described: The tokenizer's description, as tokenizer.json has it.
    """

    kind: str
    ids: Mapping[str, int]
    pieces: frozenset[str]
    prefix: str
    suffix: str
    parts: Mapping[int, tuple[int, int]]
    described: Mapping[str, Any]

    @property
    def reserved(self) -> set[int]:
        """Ids of rows that no text is split into."""
        return {number for token, number in self.ids.items() if _RESERVED.fullmatch(token)}

    def with_parts(self, ids: Iterable[int]) -> set[int]:
        """Returns the ids, and those of all tokens that they are joined from."""
        closed: set[int] = set()
        waiting = list(ids)
        while waiting:
            number = waiting.pop()
            if number not in closed:
                closed.add(number)
                waiting += self.parts.get(number, ())
        return closed


def read_vocabulary(tokenizer: TextTokenizer) -> Vocabulary:
    """Reads the vocabulary of a tokenizer.

    Raises:
        ModelError: It is of a kind that cannot be trimmed.
    """
    described = json.loads(tokenizer.backend.to_str())
    kind = model_kind(described)
    if kind not in TRIMMED_KINDS:
        raise ModelError(
            f"the tokenizer in {tokenizer.folder} is a {kind}; vocabularies that can be trimmed: "
            f"{', '.join(TRIMMED_KINDS)}",
            hint="every word of it has one token, so a word without it would be unknown",
        )
    model = described["model"]
    vocabulary = read_described(described)
    scored = {token: number for number, (token, _) in enumerate(vocabulary.scores)}
    pieces = vocabulary.ids or scored
    prefix = model.get("continuing_subword_prefix") or ""
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    parts: dict[int, tuple[int, int]] = {}
    for first, second in vocabulary.merges:
        joined = ids.get(first + second.removeprefix(prefix))
        # The first merge that makes a token is the one that most texts use.
        if joined is not None and first in ids and second in ids:
            parts.setdefault(joined, (ids[first], ids[second]))
    return Vocabulary(
        kind=kind,
        ids=ids,
        pieces=frozenset(pieces),
        prefix=prefix,
        suffix=model.get("end_of_word_suffix") or "",
        parts=parts,
        described=described,
    )


# --- tokens that stay ----------------------------------------------------------------------------


def required_ids(tokenizer: TextTokenizer, vocabulary: Vocabulary) -> set[int]:
    """Returns the ids of all tokens that have to stay.

    Special and added tokens, tokens that config.json names, and what is needed so that no text has
    an unknown token that had none: single characters, bytes, and tokens with a character that has
    no token of its own.
    """
    ids = vocabulary.ids
    added = {token["content"] for token in vocabulary.described["added_tokens"]}
    required = {ids[token] for token in added} | set(tokenizer.special_ids)
    unknown = vocabulary.described["model"].get("unk_token")
    if unknown in ids:
        required.add(ids[unknown])
    reserved = vocabulary.reserved
    for token in vocabulary.pieces:
        number = ids[token]
        if number not in reserved and not _is_spelled_by_others(token, vocabulary):
            required.add(number)
    required |= _worst_piece(vocabulary)
    required |= _ids_of_config(read_files(tokenizer.folder), set(ids.values()))
    return vocabulary.with_parts(required)


def _is_spelled_by_others(token: str, vocabulary: Vocabulary) -> bool:
    """Whether a token has several characters that have tokens of their own in their places."""
    if _BYTE_TOKEN.fullmatch(token):
        return False
    prefix, suffix = vocabulary.prefix, vocabulary.suffix
    inside = bool(prefix) and token.startswith(prefix) and token != prefix
    ends = bool(suffix) and token.endswith(suffix) and token != suffix
    text = token[len(prefix) :] if inside else token
    text = text[: -len(suffix)] if ends else text
    if len(text) < 2:
        return False
    # Pieces inside a word have the prefix; without one all places are the same.
    forms = [
        character if index == 0 and not inside else prefix + character
        for index, character in enumerate(text)
    ]
    if ends:
        forms[-1] += suffix
    return all(form in vocabulary.pieces for form in forms)


def _worst_piece(vocabulary: Vocabulary) -> set[int]:
    """Unigram's piece with the lowest score, from which the score of unknown text follows."""
    if vocabulary.kind != "Unigram":
        return set()
    scores = vocabulary.described["model"]["vocab"]
    return {min(range(len(scores)), key=lambda number: float(scores[number][1]))}


def _ids_of_config(files: TokenizerFiles, known: set[int]) -> set[int]:
    """Ids that config.json names, and those in front of the first position of RoBERTa's padding."""
    named: set[int] = set()
    for key, value in files.config.items():
        if not re.fullmatch(r".*_token_(?:id|ids|index)", key):
            continue
        values = value if isinstance(value, list) else [value]
        named |= {number for number in values if type(number) is int}
    family = files.family
    if family is not None and family.pad_counts_positions:
        # Positions are counted from the padding's id, which therefore must not change.
        named |= set(range(family.first_position(files.config)))
    return named & known


# --- the smaller tokenizer -----------------------------------------------------------------------


def renumbered(vocabulary: Vocabulary, remaining: Iterable[int]) -> dict[int, int]:
    """Returns old id → new id: without gaps, in the old order, added tokens behind pieces."""
    owners = {number: token for token, number in vocabulary.ids.items()}
    # The library numbers added tokens behind the pieces, whatever the file says.
    ordered = sorted(set(remaining), key=lambda n: (owners[n] not in vocabulary.pieces, n))
    return {old: new for new, old in enumerate(ordered)}


def trim_tokenizer(
    tokenizer: TextTokenizer, vocabulary: Vocabulary, new_ids: Mapping[int, int]
) -> TextTokenizer:
    """Returns the tokenizer with the tokens of `new_ids` only, under these ids.

    Args:
        tokenizer: The tokenizer.
        vocabulary: Its vocabulary.
        new_ids: Old id → new id, of `renumbered`.
    Raises:
        ModelError: A token around texts would go, or the library numbers the tokens otherwise.
    """
    from tokenizers import Tokenizer

    description = _trimmed_description(tokenizer, vocabulary, new_ids)
    backend = Tokenizer.from_str(json.dumps(description))
    backend.encode_special_tokens = tokenizer.backend.encode_special_tokens
    expected = {
        token: new_ids[number] for token, number in vocabulary.ids.items() if number in new_ids
    }
    if backend.get_vocab(with_added_tokens=True) != expected:
        raise ModelError(
            f"the tokenizer in {tokenizer.folder} numbers added tokens in a way that a smaller "
            "vocabulary cannot keep",
            hint="save it with transformers first: AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…)",
        )
    return tokenizer.with_backend(backend)


def _trimmed_description(
    tokenizer: TextTokenizer, vocabulary: Vocabulary, new_ids: Mapping[int, int]
) -> dict[str, Any]:
    """The description of the smaller tokenizer."""
    description = dict(vocabulary.described)
    model = dict(description["model"])
    if vocabulary.kind == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new_ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    else:
        model["vocab"] = {
            token: new_ids[number] for token, number in model["vocab"].items() if number in new_ids
        }
    if vocabulary.kind == "BPE":
        model["merges"] = _remaining_merges(vocabulary, new_ids)
    description["model"] = model
    description["added_tokens"] = [
        {**token, "id": new_ids[token["id"]]} for token in description["added_tokens"]
    ]
    processor = description.get("post_processor")
    if processor is not None:
        description["post_processor"] = _renumbered_processor(processor, new_ids, tokenizer)
    return description


def _remaining_merges(vocabulary: Vocabulary, new_ids: Mapping[int, int]) -> list[list[str]]:
    """Merges whose two parts and whose result stay, in their order."""
    remaining = {token for token, number in vocabulary.ids.items() if number in new_ids}
    merges = []
    for first, second in read_described(vocabulary.described).merges:
        joined = first + second.removeprefix(vocabulary.prefix)
        if {first, second, joined} <= remaining:
            merges.append([first, second])
    return merges


def _renumbered_processor(
    processor: Mapping[str, Any], new_ids: Mapping[int, int], tokenizer: TextTokenizer
) -> dict[str, Any]:
    """A description of what puts special tokens around texts, with the new ids."""

    def new_id(number: int) -> int:
        if number not in new_ids:
            raise ModelError(
                f"the tokenizer in {tokenizer.folder} puts id {number} around texts, which no "
                "token has"
            )
        return new_ids[number]

    changed = dict(processor)
    if processor["type"] == "Sequence":
        inner: Sequence[Mapping[str, Any]] = processor["processors"]
        changed["processors"] = [_renumbered_processor(one, new_ids, tokenizer) for one in inner]
    elif processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: {**token, "ids": [new_id(number) for number in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    else:
        for key in ("sep", "cls"):
            if key in processor:
                token, number = processor[key]
                changed[key] = [token, new_id(number)]
    return changed

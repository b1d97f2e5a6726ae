"""Writes a tokenizer so that clients of different age give the same ids.

The files are written from the fast tokenizer's description, not by transformers: version 5 names
classes that version 4 and transformers.js do not know, and does not write vocab.txt. Reasons:
docs/decisions.md#tokenizer-files-are-written-from-the-fast-tokenizers-description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.rundir import write_json, write_text
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_files import GENERIC_CLASS, SETTINGS_FILE, TOKENIZER_FILE

# In the order that transformers writes.
_SPECIALS = tuple(f"{kind}_token" for kind in ("unk", "sep", "pad", "cls", "mask", "bos", "eos"))
_MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def save_tokenizer(
    tokenizer: TextTokenizer,
    folder: Path,
    *,
    class_name: str,
    input_names: Sequence[str],
    max_length: int,
) -> None:
    """Writes the tokenizer's files into a folder that holds config.json.

    Args:
        tokenizer: The tokenizer.
        folder: The folder.
        class_name: Class that is named if it gives the same ids, such as BertTokenizer.
        input_names: Inputs of the model; clients must not feed any other.
        max_length: Tokens that a client truncates to.
    """
    # Truncation and padding are not written: they belong to a call, and a length in this file would
    # silently cut every user's text.
    described = json.loads(tokenizer.backend.to_str())
    specials = {name: tokenizer.special[name] for name in _SPECIALS if name in tokenizer.special}
    settings = {
        "tokenizer_class": class_name,
        "model_max_length": max_length,
        "model_input_names": [name for name in _MODEL_INPUTS if name in input_names],
    }
    sides = {
        "truncation_side": tokenizer.truncation_side,
        "padding_side": tokenizer.padding_side,
    }
    # Only a side that is not everyone's default is written.
    settings |= {key: side for key, side in sides.items() if side != "right"}
    # Not in tokenizer.json: whether "[MASK]" in a text is text.
    if tokenizer.backend.encode_special_tokens:
        settings["split_special_tokens"] = True
    settings |= _settings_of(described) | specials
    # Otherwise BERT's class adds a [MASK] to a vocabulary without one, with an id beyond the model.
    if "mask_token" not in specials:
        settings["mask_token"] = None
    write_json(folder / TOKENIZER_FILE, described)
    write_json(folder / "special_tokens_map.json", specials)
    write_json(folder / SETTINGS_FILE, settings)
    vocabulary = described["model"]["vocab"]
    # Clients without a reader for tokenizer.json read BERT's vocabulary from here.
    if described["model"].get("type") == "WordPiece":
        write_text(folder / "vocab.txt", vocabulary_lines(vocabulary))
    # A class may build another normalizer or template than the file describes, or not know its kind
    # of vocabulary.
    again = read_tokenizer(folder)
    if again.class_name is None or again.backend.to_str() != tokenizer.backend.to_str():
        write_json(folder / SETTINGS_FILE, {**settings, "tokenizer_class": GENERIC_CLASS})


def vocabulary_lines(vocabulary: Mapping[str, int]) -> str:
    """Returns the content of vocab.txt: one token a line, in the order of the ids.

    A reader takes the line number as the id, so ids without a token get a line that no text equals.
    """
    by_id = {token_id: token for token, token_id in vocabulary.items()}
    lines = [by_id.get(number, f"[unused-id-{number}]") for number in range(1 + max(by_id))]
    return "".join(f"{line}\n" for line in lines)


def _settings_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of tokenizer.json in the names of tokenizer_config.json, for other clients."""
    normalizer = described.get("normalizer") or {}
    added_tokens = {}
    for token in described["added_tokens"]:
        flags = {key: value for key, value in token.items() if key != "id"}
        added_tokens[str(token["id"])] = flags
    return {
        "do_lower_case": bool(normalizer.get("lowercase", False)),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": bool(normalizer.get("handle_chinese_chars", True)),
        "clean_up_tokenization_spaces": True,
        "added_tokens_decoder": added_tokens,
    }

"""Tokenizer files of a package, for clients of different age.

They are written from the fast tokenizer's description, not by `save_pretrained`: version 5 of
transformers names a tokenizer class that version 4 and transformers.js do not know, and does not
write vocab.txt. Reasons:
docs/decisions.md#tokenizer-files-are-written-from-the-fast-tokenizers-description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.rundir import write_json, write_text
from edgedistil.models.teacher import read_tokenizer

_SPECIALS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# In the order that transformers writes.
_MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def write_tokenizer(
    folder: Path, source_folder: Path, config: Mapping[str, Any], *, input_names: Sequence[str]
) -> int:
    """Writes the tokenizer files of a package.

    Args:
        folder: The package.
        source_folder: Holds the model's tokenizer.
        config: config.json of the package.
        input_names: Inputs of the graph; clients must not feed any other.
    Returns:
        Tokens that a client truncates to.
    Raises:
        ModelError: The folder has no fast WordPiece tokenizer.
    """
    tokenizer = read_tokenizer(source_folder)
    backend = tokenizer.backend_tokenizer
    # Truncation and padding are not written: they belong to a call, and a length in this file would
    # silently cut every user's text.
    fast = json.loads(backend.to_str())
    model_type = fast["model"].get("type")
    if model_type != "WordPiece":
        raise ModelError(
            f"the tokenizer in {source_folder} is of type {model_type}; expected WordPiece"
        )
    vocabulary = fast["model"]["vocab"]
    # BERT reads [CLS] … [SEP]; a client that reads only this file has to find that in it.
    if backend.encode("").ids != [tokenizer.cls_token_id, tokenizer.sep_token_id]:
        fast["post_processor"] = bert_template(tokenizer.cls_token, tokenizer.sep_token, vocabulary)

    # A tokenizer may declare no limit, and a model has positions for so many tokens only.
    max_length = min(int(tokenizer.model_max_length), int(config["max_position_embeddings"]))
    specials = {name: str(getattr(tokenizer, name)) for name in _SPECIALS}
    settings = {
        "tokenizer_class": FAMILIES[config["model_type"]].tokenizer_class,
        "model_max_length": max_length,
        "model_input_names": [name for name in _MODEL_INPUTS if name in input_names],
    }
    settings |= _fast_settings(fast) | specials
    write_json(folder / "tokenizer.json", fast)
    write_json(folder / "special_tokens_map.json", specials)
    write_json(folder / "tokenizer_config.json", settings)
    # Clients without a reader for tokenizer.json read the vocabulary from here.
    write_text(folder / "vocab.txt", vocabulary_lines(vocabulary))
    return max_length


def bert_template(cls: str, sep: str, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """Template of tokenizer.json: `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, B of type 1."""

    def special(token: str, type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    def sequence(name: str, type_id: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    single = [special(cls, 0), sequence("A", 0), special(sep, 0)]
    special_tokens = {
        token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in (cls, sep)
    }
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, sequence("B", 1), special(sep, 1)],
        "special_tokens": special_tokens,
    }


def vocabulary_lines(vocabulary: Mapping[str, int]) -> str:
    """Content of vocab.txt: one token a line, in the order of the ids.

    Raises:
        ModelError: The ids have a gap, so a line number would be another token's id.
    """
    # A reader takes the line number as the id.
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise ModelError(
            f"the {len(tokens)} ids of the vocabulary are not 0 to {len(tokens) - 1} without a gap"
        )
    return "".join(f"{token}\n" for token in tokens)


def _fast_settings(fast: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of tokenizer.json in the names of tokenizer_config.json, for other clients."""
    normalizer = fast.get("normalizer") or {}
    added_tokens = {}
    for token in fast["added_tokens"]:
        facts = {key: value for key, value in token.items() if key != "id"}
        added_tokens[str(token["id"])] = facts
    return {
        "do_lower_case": bool(normalizer.get("lowercase", False)),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": bool(normalizer.get("handle_chinese_chars", True)),
        "clean_up_tokenization_spaces": True,
        "added_tokens_decoder": added_tokens,
    }

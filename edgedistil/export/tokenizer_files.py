"""The tokenizer files of a package, as four clients of different age read them.

They are written from the fast tokenizer's own description, not by `save_pretrained`: version 5 of transformers names a
tokenizer class that version 4 and transformers.js do not know, and leaves out vocab.txt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.rundir import write_json, write_text
from edgedistil.models.teacher import read_tokenizer

_SPECIALS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def write_tokenizer(
    folder: Path, source: Path, config: dict[str, Any], *, input_names: Sequence[str]
) -> int:
    """Writes the tokenizer's files; returns the tokens that it truncates to.

    Truncation and padding stay out of tokenizer.json: they belong to the call, and a length baked in there silently
    cuts every user's text.

    Args:
        folder: Of the package.
        source: Folder with the model's tokenizer.
        config: The package's config.
        input_names: What the graph takes; what it does not take the tokenizer does not give.
    Raises:
        ModelError: No fast WordPiece tokenizer there.
    """
    tokenizer = read_tokenizer(source)
    fast = json.loads(tokenizer.backend_tokenizer.to_str())
    if fast["model"].get("type") != "WordPiece":
        raise ModelError(
            f"the tokenizer in {source} is of the type {fast['model'].get('type')}; expected WordPiece"
        )
    if tokenizer.backend_tokenizer.encode("").ids != [
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
    ]:
        # A BERT reads [CLS] … [SEP], and a client that reads this file only must know it.
        fast["post_processor"] = bert_template(
            tokenizer.cls_token, tokenizer.sep_token, fast["model"]["vocab"]
        )
    longest = min(int(tokenizer.model_max_length), int(config["max_position_embeddings"]))
    specials = {name: str(getattr(tokenizer, name)) for name in _SPECIALS}
    normalizer = fast.get("normalizer") or {}
    write_json(folder / "tokenizer.json", fast)
    write_json(folder / "special_tokens_map.json", specials)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": FAMILIES[config["model_type"]].tokenizer_class,
            "model_max_length": longest,
            "model_input_names": [
                name
                for name in ("input_ids", "token_type_ids", "attention_mask")
                if name in input_names
            ],
            "do_lower_case": bool(normalizer.get("lowercase", False)),
            "strip_accents": normalizer.get("strip_accents"),
            "tokenize_chinese_chars": bool(normalizer.get("handle_chinese_chars", True)),
            "clean_up_tokenization_spaces": True,
            "added_tokens_decoder": {
                str(token["id"]): _without_id(token) for token in fast["added_tokens"]
            },
            **specials,
        },
    )
    write_text(folder / "vocab.txt", vocabulary_lines(fast["model"]["vocab"]))
    return longest


def bert_template(cls: str, sep: str, vocabulary: dict[str, int]) -> dict[str, Any]:
    """tokenizer.json's words for `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, B and its [SEP] of type 1."""

    def special(token: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": kind}}

    def sequence(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(cls, 0), sequence("A", 0), special(sep, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, sequence("B", 1), special(sep, 1)],
        "special_tokens": {t: {"id": t, "ids": [vocabulary[t]], "tokens": [t]} for t in (cls, sep)},
    }


def vocabulary_lines(vocabulary: dict[str, int]) -> str:
    """A token a line, in the order of the ids.

    Raises:
        ModelError: The ids have a gap: the line number would be another id.
    """
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise ModelError(
            f"the vocabulary's {len(tokens)} ids do not go from 0 to {len(tokens) - 1} without a gap"
        )
    return "".join(f"{token}\n" for token in tokens)


def _without_id(token: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in token.items() if key != "id"}

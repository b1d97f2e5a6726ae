"""Finds the special tokens that code needs by their role, whatever a tokenizer calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgedistil.core.tokenizer_files import TokenizerFiles, undeclared_names

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Names that encoders use, for vocabularies without a file that says which token is which.
_CONVENTIONS = {
    "unk_token": ("[UNK]", "<unk>", "<|unk|>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "cls_token": ("[CLS]", "<s>"),
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
}


def special_roles(
    files: TokenizerFiles, backend: Tokenizer, special: Mapping[str, str]
) -> dict[str, str]:
    """Returns the special tokens by name, with those that no file names.

    A name that a file sets to null stays without a token.

    Args:
        files: The tokenizer's files.
        backend: The tokenizer.
        special: Tokens that the files, or the tokenizer's class, name.
    """
    roles = dict(special)
    added = backend.get_added_tokens_decoder()
    for name in undeclared_names(files, _CONVENTIONS):
        if name in roles:
            continue
        # config.json has the ids that the model was trained with.
        token_id = files.config.get(f"{name}_id")
        token = added.get(token_id) if type(token_id) is int else None
        usual = usual_token(backend, name)
        if token is not None and token.special:
            roles[name] = token.content
        elif usual is not None:
            roles[name] = usual
    return roles


def usual_token(backend: Tokenizer, name: str) -> str | None:
    """Returns the token that encoders use under a name; None if the vocabulary has none."""
    tokens = [t for t in _CONVENTIONS[name] if backend.token_to_id(t) is not None]
    return tokens[0] if tokens else None

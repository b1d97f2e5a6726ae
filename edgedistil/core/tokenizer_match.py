"""Signs that a tokenizer and a model come from different sources.

Ids beyond the model's rows and paddings that positions are not counted from are refused elsewhere.
This is about tokenizers whose ids all have a row. Each sign is a fact of the folder's files, with a
weight: 1 for what some legitimate models have, more for files that contradict each other.
Reasons: docs/decisions.md#signs-of-a-foreign-tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistil.core.tokenizer_classes import TOKENIZER_CLASSES
from edgedistil.core.tokenizer_files import (
    SETTINGS_FILE,
    TOKENIZER_FILE,
    TokenizerFiles,
    declared_tokens,
    undeclared_names,
)
from edgedistil.core.tokenizer_roles import usual_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Total weights from which a tokenizer is refused, and from which there is a warning.
REFUSED = 3
DOUBTED = 2
# Family and kind of tokenizer of trained models that the family's own class does not have:
# multilingual MiniLM and E5 are BERT bodies with XLM-R's tokenizer, and the padding of BERT.
_KNOWN = frozenset({("bert", "Unigram")})
# Special tokens whose ids config.json may have.
_ROLES = ("pad", "cls", "sep", "mask")
# Matrices are padded to multiples of 8 to 1,024 rows, by far less than this share.
_UNUSED_SHARE = 0.1


@dataclass(frozen=True)
class Sign:
    """A fact that speaks against a tokenizer.

    Attributes:
        text: The fact.
        weight: 1, 2 or 3.
    """

    text: str
    weight: int


def foreign_signs(
    files: TokenizerFiles, backend: Tokenizer, roles: Mapping[str, str], size: int
) -> list[Sign]:
    """Returns what speaks against a tokenizer being its model's own.

    Args:
        files: The folder's files.
        backend: The tokenizer.
        roles: Special token by name.
        size: One more than the tokenizer's largest id.
    """
    signs = (
        _missing_tokens(files, backend),
        _other_kind(files, backend),
        _other_ids(files, backend, roles, size),
        _unused_rows(files, size),
    )
    return [sign for sign in signs if sign is not None]


def total_weight(signs: Sequence[Sign]) -> int:
    """Returns the weight of all signs."""
    return sum(sign.weight for sign in signs)


def warn_of_doubts(folder: Path | str, doubts: Sequence[str]) -> None:
    """Warns if there are facts for which a folder's tokenizer may be another model's."""
    if doubts:
        # Imported here: devices read tokenizers without the packages of the console.
        from edgedistil.core import console

        console.warn(f"the tokenizer in {folder} may be another model's: {'; '.join(doubts)}")


def _missing_tokens(files: TokenizerFiles, backend: Tokenizer) -> Sign | None:
    """Special tokens that the settings name, of which tokenizer.json has none."""
    if not files.fast:
        return None
    added = {str(token.get("content")) for token in files.fast.get("added_tokens") or []}
    added |= set(files.added)
    tokens = declared_tokens(files)
    present = [t for t in tokens if t in added or backend.model.token_to_id(t) is not None]
    # A single token may have been added later.
    if len(tokens) < 2 or present:
        return None
    return Sign(
        f"{SETTINGS_FILE} names {', '.join(tokens)}, and {TOKENIZER_FILE} has none of them", REFUSED
    )


def _other_kind(files: TokenizerFiles, backend: Tokenizer) -> Sign | None:
    """A vocabulary of another kind than the class has that config.json names, or the family's."""
    kind, family = type(backend.model).__name__, files.family
    if not files.fast or family is None or (family.model_type, kind) in _KNOWN:
        return None
    # tokenizer_config.json comes with the tokenizer, and would agree with it in any folder.
    name = str(files.config.get("tokenizer_class")).removesuffix("Fast")
    row = TOKENIZER_CLASSES.get(name) or TOKENIZER_CLASSES.get(family.default_tokenizer)
    if row is None or row.kind == kind:
        return None
    return Sign(f"{TOKENIZER_FILE} is of the kind {kind}, expected {row.kind}", 1)


def _other_ids(
    files: TokenizerFiles, backend: Tokenizer, roles: Mapping[str, str], size: int
) -> Sign | None:
    """Ids of special tokens in config.json that the tokenizer gives to other tokens."""
    differences, equal = [], 0
    names = [f"{role}_token" for role in _ROLES]
    # Without a declaration the role follows config.json, and would always agree with it.
    undeclared = undeclared_names(files, names)
    for name in names:
        expected = files.config.get(f"{name}_id")
        token = usual_token(backend, name) if name in undeclared else roles.get(name)
        # A number that no token has is left from another model's configuration.
        if type(expected) is not int or token is None or not 0 <= expected < size:
            continue
        token_id = backend.token_to_id(token)
        equal += token_id == expected
        if token_id != expected:
            differences.append(f"{name}_id = {expected}, and '{token}' has {token_id}")
    if not differences:
        return None
    weight = 2 if len(differences) > 1 and not equal else 1
    return Sign(f"config.json has {'; '.join(differences)}", weight)


def _unused_rows(files: TokenizerFiles, size: int) -> Sign | None:
    """Rows of the word-embedding matrix without a token, beyond what padding leaves."""
    rows = files.size_of_model("vocabulary")
    # A vocabulary may have holes: `size` counts ids up to the largest.
    # What config.json does not say may be anything.
    if rows is None or files.family is None or files.family.keys.vocabulary not in files.config:
        return None
    if rows - size <= _UNUSED_SHARE * rows:
        return None
    return Sign(f"the model has {rows:,} word-embedding rows, the tokenizer {size:,} ids", 1)

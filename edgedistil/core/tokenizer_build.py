"""Builds tokenizers as transformers 5 does, from the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer_classes import TOKENIZER_CLASSES, Template, TokenizerClass
from edgedistil.core.tokenizer_files import (
    RESAVE_HINT,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    TokenizerFiles,
    added_tokens,
    class_name,
    declares_extra_tokens,
    extra_tokens,
    named_tokens,
    token_text,
)
from edgedistil.core.tokenizer_vocabulary import (
    Vocabulary,
    abridge,
    model_kind,
    read_class_files,
    read_described,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class BuiltTokenizer:
    """A tokenizer as transformers builds it.

    Attributes:
        class_name: Class of transformers; None if tokenizer.json was taken as it is.
        backend: The tokenizer.
        special: Special token by name.
        extra: Special tokens without a name.
        token_types: Whether the class returns token types; None: as the template has them.
    """

    class_name: str | None
    backend: Tokenizer
    special: dict[str, str]
    extra: tuple[str, ...]
    token_types: bool | None


def build_tokenizer(files: TokenizerFiles, *, abridged: bool = False) -> BuiltTokenizer:
    """Builds the tokenizer of a folder.

    Args:
        files: The files.
        abridged: Whether it needs the right ids and special tokens only, and encodes no text.
    Raises:
        ModelError: The folder lacks files of its tokenizer, or a token that the class needs.
    """
    name = class_name(files)
    row = TOKENIZER_CLASSES.get(name or "")
    # A class cannot read the vocabulary of another kind of model.
    readable = row is not None and (not files.fast or model_kind(files.fast) == row.kind)
    if name is not None and row is not None and readable:
        return _build_class(files, name, row, abridged=abridged)
    if not files.fast:
        raise ModelError(
            f"{files.folder} has a {name or 'tokenizer of an unknown class'} without "
            f"{TOKENIZER_FILE}; without that file, the tokenizers of these classes are read: "
            f"{', '.join(TOKENIZER_CLASSES)}",
            hint=RESAVE_HINT,
        )
    return _build_as_described(files)


def _build_as_described(files: TokenizerFiles) -> BuiltTokenizer:
    """Reads tokenizer.json as it is, as transformers' TokenizersBackend does."""
    from tokenizers import Tokenizer, processors

    backend = Tokenizer.from_file(str(files.folder / TOKENIZER_FILE))
    # Settings of the padding name the token, if nothing else does.
    padding = files.fast.get("padding") or {}
    defaults = {"pad_token": padding["pad_token"]} if "pad_token" in padding else {}
    named, extra = named_tokens(files, defaults), extra_tokens(files)
    _add_tokens(backend, files, named, extra)
    # Without a template transformers numbers the texts of a pair.
    if files.config and backend.post_processor is None:
        backend.post_processor = processors.TemplateProcessing(
            single="$A:0", pair="$A:0 $B:1", special_tokens=[]
        )
    return BuiltTokenizer(None, backend, _texts(named), _all_texts(extra), None)


def _build_class(
    files: TokenizerFiles, name: str, row: TokenizerClass, *, abridged: bool
) -> BuiltTokenizer:
    """Builds a tokenizer as a class with parts of its own does."""
    from tokenizers import AddedToken, Tokenizer

    named = named_tokens(files, row.tokens)
    for kind, flags in row.flags.items():
        if isinstance(named.get(kind), str):
            named[kind] = AddedToken(named[kind], **flags)
    special = _texts(named)
    vocabulary = (
        read_described(files.fast)
        if files.fast
        else read_class_files(files, row.files, special, name)
    )
    extra = _extra_of_class(files, row, vocabulary)
    if abridged:
        tokens = (*named.values(), *extra, *added_tokens(files))
        vocabulary = abridge(vocabulary, {token_text(token) for token in tokens})
    backend = row.build(vocabulary, files.settings, special)
    _add_tokens(backend, files, named, extra)

    if row.template is not None:
        _set_template(backend, row.template, special, files)
    elif files.fast.get("post_processor"):
        described = Tokenizer.from_file(str(files.folder / TOKENIZER_FILE))
        backend.post_processor = described.post_processor
    else:
        _set_template(backend, Template(types=True), special, files)
    return BuiltTokenizer(name, backend, special, _all_texts(extra), row.token_types)


# --- template ------------------------------------------------------------------------------------


def _set_template(
    backend: Tokenizer, template: Template, special: Mapping[str, str], files: TokenizerFiles
) -> None:
    from tokenizers import processors

    start = _required(special, files, template.start)
    end = _required(special, files, template.end)
    ids = {token: _id_of(backend, token) for token in (start, end)}
    if template.trims:
        prefix = bool(files.settings.get("add_prefix_space", False))
        backend.post_processor = processors.RobertaProcessing(
            (end, ids[end]),
            (start, ids[start]),
            trim_offsets=bool(files.settings.get("trim_offsets", True)),
            add_prefix_space=prefix,
        )
        return
    second = 1 if template.types else 0
    single = [f"{start}:0", "$A:0", f"{end}:0"]
    between = [f"{end}:0"] if template.double else []
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, *between, f"$B:{second}", f"{end}:{second}"],
        special_tokens=list(ids.items()),
    )


def _id_of(backend: Tokenizer, token: str) -> int:
    token_id = backend.token_to_id(token)
    assert token_id is not None, "special tokens were added to the vocabulary"
    return token_id


def _required(special: Mapping[str, str], files: TokenizerFiles, name: str) -> str:
    if name not in special:
        raise ModelError(f"{files.folder / SETTINGS_FILE} has no {name}; expected a token")
    return special[name]


# --- special and added tokens --------------------------------------------------------------------


def _extra_of_class(
    files: TokenizerFiles, row: TokenizerClass, vocabulary: Vocabulary
) -> Sequence[Any]:
    """Special tokens without a name: those of the files, of the vocabulary, or of the class."""
    from tokenizers import AddedToken

    if declares_extra_tokens(files):
        return extra_tokens(files)
    if vocabulary.added:
        return [
            AddedToken(token, normalized=False, special=is_special)
            for token, is_special in vocabulary.added.items()
        ]
    return row.extra


def _add_tokens(
    backend: Tokenizer, files: TokenizerFiles, named: Mapping[str, Any], extra: Sequence[Any]
) -> None:
    """Adds added and special tokens in transformers' order."""
    from tokenizers import AddedToken

    # Tokens that the files add, unless the backend has them with the same flags.
    present = [repr(token) for token in backend.get_added_tokens_decoder().values()]
    new = [token for token in added_tokens(files) if repr(token) not in present]

    # Special tokens that are not among them; of the vocabulary's own the backend keeps the id.
    contents = {token.content for token in backend.get_added_tokens_decoder().values()}
    contents |= {token.content for token in new}
    for token in (*named.values(), *extra):
        if token_text(token) not in contents:
            contents.add(token_text(token))
            new.append(AddedToken(token, special=True) if isinstance(token, str) else token)

    # A token that has a name is special, even if its flags do not say so.
    names = {token_text(token) for token in named.values()}
    for token in new:
        token.special = token.special or token.content in names
    backend.add_tokens(new)


def _texts(named: Mapping[str, Any]) -> dict[str, str]:
    return {name: token_text(token) for name, token in named.items()}


def _all_texts(tokens: Sequence[Any]) -> tuple[str, ...]:
    return tuple(token_text(token) for token in tokens)

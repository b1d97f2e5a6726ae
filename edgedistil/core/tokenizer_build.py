"""Builds tokenizers as the classes of transformers 5 do, from files of a folder."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer_files import (
    RESAVE_HINT,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    TokenizerFiles,
    added_tokens,
    class_name,
    extra_tokens,
    named_tokens,
    token_text,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
Built = tuple[str | None, "Tokenizer", dict[str, str]]


def build_tokenizer(files: TokenizerFiles) -> Built:
    """Builds the tokenizer; returns transformers' class, the tokenizer and its special tokens."""
    name = class_name(files)
    kind = (files.fast.get("model") or {}).get("type", "WordPiece")
    builder = _BUILDERS.get(name or "")
    # A class cannot read the vocabulary of another kind of model.
    if builder is not None and builder.kind == kind:
        return name, *builder.build(files)
    if not files.fast:
        raise ModelError(
            f"{files.folder} has a {name or 'tokenizer'} without {TOKENIZER_FILE}; vocab.txt "
            "alone is read for BERT's tokenizer only",
            hint=RESAVE_HINT,
        )
    return None, *_build_as_described(files)


def _build_as_described(files: TokenizerFiles) -> tuple[Tokenizer, dict[str, str]]:
    """Reads tokenizer.json as it is, as transformers' TokenizersBackend does."""
    from tokenizers import Tokenizer, processors

    backend = Tokenizer.from_file(str(files.folder / TOKENIZER_FILE))
    special = _add_special_tokens(backend, files, defaults={})
    # Without a model nothing says what the tokens are called: BERT's names, as far as they occur.
    if not files.config:
        vocabulary = backend.get_vocab(with_added_tokens=True)
        own = {name: token for name, token in _BERT_TOKENS.items() if token in vocabulary}
        special = {**own, **special}
    # Without a template transformers numbers the texts of a pair.
    elif backend.post_processor is None:
        backend.post_processor = processors.TemplateProcessing(
            single="$A:0", pair="$A:0 $B:1", special_tokens=[]
        )
    return backend, special


def _build_bert(files: TokenizerFiles) -> tuple[Tokenizer, dict[str, str]]:
    """Builds a tokenizer as transformers' BertTokenizer does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    unknown = token_text(named_tokens(files, _BERT_TOKENS).get("unk_token", "[UNK]"))
    # Of a tokenizer.json it takes the vocabulary, and nothing else.
    if files.fast:
        vocabulary = files.fast["model"]["vocab"]
    else:
        vocabulary = models.WordPiece.read_file(str(files.folder / "vocab.txt"))
    settings = files.settings
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    special = _add_special_tokens(backend, files, defaults=_BERT_TOKENS)
    cls, sep = _required(special, files, "cls_token"), _required(special, files, "sep_token")
    single = [f"{cls}:0", "$A:0", f"{sep}:0"]
    _set_template(backend, single, [*single, "$B:1", f"{sep}:1"], (cls, sep))
    return backend, special


def _build_xlm_roberta(files: TokenizerFiles) -> tuple[Tokenizer, dict[str, str]]:
    """Builds a tokenizer as transformers' XLMRobertaTokenizer does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    defaults = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    # The class has a fixed place for the unknown token, whatever tokenizer.json says.
    pieces = [(piece, score) for piece, score in files.fast["model"]["vocab"]]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    charsmap = _precompiled_charsmap(files.fast.get("normalizer"))
    if charsmap is not None:
        backend.normalizer = normalizers.Precompiled(charsmap)
    scheme = "always" if files.settings.get("add_prefix_space", True) else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    special = _add_special_tokens(backend, files, defaults=defaults)
    bos, eos = _required(special, files, "bos_token"), _required(special, files, "eos_token")
    _set_template(backend, [bos, "$A", eos], [bos, "$A", eos, eos, "$B", eos], (bos, eos))
    return backend, special


def _precompiled_charsmap(normalizer: Mapping[str, Any] | None) -> bytes | None:
    """SentencePiece's normalization table in a described normalizer; None if it has none."""
    if not normalizer:
        return None
    parts = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    for part in parts:
        if part.get("type") == "Precompiled" and "precompiled_charsmap" in part:
            return base64.b64decode(part["precompiled_charsmap"])
    return None


def _set_template(
    backend: Tokenizer, single: list[str], pair: list[str], tokens: Sequence[str]
) -> None:
    from tokenizers import processors

    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys(tokens)]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=ids
    )


def _required(special: Mapping[str, str], files: TokenizerFiles, name: str) -> str:
    if name not in special:
        raise ModelError(f"{files.folder / SETTINGS_FILE} has no {name}; expected a token")
    return special[name]


@dataclass(frozen=True)
class _Builder:
    """How the tokenizer of a class is built.

    Attributes:
        kind: Kind of model in tokenizer.json whose vocabulary the class reads.
        build: Returns the tokenizer and its special tokens by name.
    """

    kind: str
    build: Callable[[TokenizerFiles], tuple[Tokenizer, dict[str, str]]]


_BERT_CLASSES = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "MobileBertTokenizer",
    "ConvBertTokenizer",
    "SqueezeBertTokenizer",
)
_BUILDERS = {name: _Builder("WordPiece", _build_bert) for name in _BERT_CLASSES}
_BUILDERS["XLMRobertaTokenizer"] = _Builder("Unigram", _build_xlm_roberta)


# --- special and added tokens --------------------------------------------------------------------


def _add_special_tokens(
    backend: Tokenizer, files: TokenizerFiles, *, defaults: Mapping[str, str]
) -> dict[str, str]:
    """Adds added and special tokens in transformers' order; returns the special ones by name."""
    from tokenizers import AddedToken

    named = named_tokens(files, defaults)
    # Tokens that the files add, unless the backend has them with the same flags.
    present = [repr(token) for token in backend.get_added_tokens_decoder().values()]
    new = [token for token in added_tokens(files) if repr(token) not in present]

    # Special tokens that are not among them; of the vocabulary's own the backend keeps the id.
    contents = {token.content for token in backend.get_added_tokens_decoder().values()}
    contents |= {token.content for token in new}
    for token in (*named.values(), *extra_tokens(files)):
        if token_text(token) not in contents:
            contents.add(token_text(token))
            new.append(AddedToken(token, special=True) if isinstance(token, str) else token)

    # A token that has a name is special, even if its flags do not say so.
    names = {token_text(token) for token in named.values()}
    for token in new:
        token.special = token.special or token.content in names
    backend.add_tokens(new)
    return {name: token_text(token) for name, token in named.items()}

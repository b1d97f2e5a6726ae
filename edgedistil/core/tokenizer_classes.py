"""Table of transformers' tokenizer classes that build their parts themselves, one row each.

Of a tokenizer.json such a class takes the vocabulary and, where `template` is not set, the
template; normalizer and pre-tokenizer are its own. Facts: `tokenization_*.py` of transformers 5;
tests/core/test_tokenizer_classes.py compares the ids with transformers' over hostile text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgedistil.core.tokenizer_vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Settings = Mapping[str, Any]

_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_DEBERTA_TOKENS = {"bos_token": "[CLS]", "eos_token": "[SEP]", **_BERT_TOKENS}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_MPNET_TOKENS = {**_ROBERTA_TOKENS, "unk_token": "[UNK]"}
_ALBERT_TOKENS = {**_DEBERTA_TOKENS, "unk_token": "<unk>", "pad_token": "<pad>"}
# Tokens that CamemBERT's class adds; its vocabulary has them at the places of the usual ones.
_CAMEMBERT_EXTRA = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")


@dataclass(frozen=True)
class Template:
    """Special tokens around texts.

    Attributes:
        start: Name of the token in front.
        end: Name of the token behind each text.
        double: Whether two of the latter separate a pair.
        types: Whether the second text of a pair has token type 1.
        trims: Whether offsets leave out blanks, as byte-level tokens need it.
    """

    start: str = "cls_token"
    end: str = "sep_token"
    double: bool = False
    types: bool = False
    trims: bool = False


@dataclass(frozen=True)
class TokenizerClass:
    """How a class of transformers builds its tokenizer.

    Attributes:
        kind: Kind of model in tokenizer.json whose vocabulary it reads.
        build: Makes model, normalizer and pre-tokenizer from vocabulary, settings and special
            tokens.
        tokens: Special tokens where the files name none.
        template: Special tokens around texts; None: as tokenizer.json says, otherwise BERT's.
        files: Names of the files that it reads the vocabulary from without tokenizer.json.
        token_types: Whether it returns token types where the files do not say.
        flags: Special token that the class takes as a string → flags that it gets.
        extra: Special tokens without a name where the files declare none.
    """

    kind: str
    build: Callable[[Vocabulary, Settings, Mapping[str, str]], Tokenizer]
    tokens: Mapping[str, str]
    template: Template | None
    files: tuple[str, ...]
    token_types: bool = False
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    extra: tuple[str, ...] = ()


# --- WordPiece -----------------------------------------------------------------------------------


def _build_word_piece(
    vocabulary: Vocabulary, settings: Settings, special: Mapping[str, str]
) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    unknown = special.get("unk_token", "[UNK]")
    backend = Tokenizer(models.WordPiece(vocabulary.ids, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


# --- byte-level BPE ------------------------------------------------------------------------------


def _build_byte_level(
    vocabulary: Vocabulary, settings: Settings, _special: Mapping[str, str]
) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    model = models.BPE(
        vocab=vocabulary.ids,
        merges=vocabulary.merges,
        dropout=None,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )
    backend = Tokenizer(model)
    prefix = settings.get("add_prefix_space", False)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    return backend


# --- Unigram -------------------------------------------------------------------------------------


def _unigram(vocabulary: Vocabulary, unknown_id: int) -> Tokenizer:
    from tokenizers import Tokenizer, models

    model = models.Unigram(vocabulary.scores, unk_id=unknown_id, byte_fallback=False)
    return Tokenizer(model)


def _set_words(backend: Tokenizer, scheme: str) -> None:
    """Lets words start with ▁, after a split at blanks."""
    from tokenizers import decoders, pre_tokenizers

    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)


def _scheme(settings: Settings, otherwise: str) -> str:
    return "always" if settings.get("add_prefix_space", True) else otherwise


def _build_xlm_roberta(
    vocabulary: Vocabulary, settings: Settings, _special: Mapping[str, str]
) -> Tokenizer:
    from tokenizers import normalizers

    # The class has a fixed place for the unknown token, whatever the vocabulary says.
    backend = _unigram(vocabulary, unknown_id=3)
    if vocabulary.charsmap is not None:
        backend.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    _set_words(backend, _scheme(settings, "never"))
    return backend


def _build_camembert(
    vocabulary: Vocabulary, settings: Settings, special: Mapping[str, str]
) -> Tokenizer:
    from tokenizers import normalizers

    unknown = special.get("unk_token")
    places = [i for i, (piece, _) in enumerate(vocabulary.scores) if piece == unknown]
    backend = _unigram(vocabulary, unknown_id=next(iter(places), 0))
    if vocabulary.charsmap is not None:
        backend.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    _set_words(backend, _scheme(settings, "never"))
    return backend


def _build_albert(
    vocabulary: Vocabulary, settings: Settings, _special: Mapping[str, str]
) -> Tokenizer:
    from tokenizers import normalizers

    backend = _unigram(vocabulary, unknown_id=1)
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if vocabulary.charsmap is not None:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    backend.normalizer = normalizers.Sequence(steps)
    _set_words(backend, _scheme(settings, "never"))
    return backend


def _build_deberta_v2(
    vocabulary: Vocabulary, settings: Settings, special: Mapping[str, str]
) -> Tokenizer:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    unknown = (special.get("unk_token"), 0.0)
    place = settings.get("unk_id", 1) if vocabulary.unknown_id is None else vocabulary.unknown_id
    if unknown in vocabulary.scores:
        place = vocabulary.scores.index(unknown)
    backend = _unigram(vocabulary, unknown_id=place)

    # The class does not use the vocabulary's own table of the normalization.
    steps: list[Any] = [normalizers.Lowercase()] if settings.get("do_lower_case", False) else []
    steps += [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    backend.normalizer = normalizers.Sequence(steps)

    scheme = _scheme(settings, "first")
    splits: list[Any] = []
    if settings.get("split_by_punct", False):
        splits.append(pre_tokenizers.Punctuation(behavior="isolated"))
    splits.append(pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return backend


# --- the table -----------------------------------------------------------------------------------

_BERT = TokenizerClass(
    kind="WordPiece",
    build=_build_word_piece,
    tokens=_BERT_TOKENS,
    template=Template(types=True),
    files=("vocab.txt",),
    token_types=True,
)
_ROBERTA = TokenizerClass(
    kind="BPE",
    build=_build_byte_level,
    tokens=_ROBERTA_TOKENS,
    template=Template(double=True, trims=True),
    files=("vocab.json", "merges.txt"),
)
_DISTILBERT = TokenizerClass(
    kind="WordPiece",
    build=_build_word_piece,
    tokens=_BERT_TOKENS,
    template=Template(types=True),
    files=("vocab.txt",),
)
# MPNet's class gives its tokens flags of ordinary ones; only the mask takes the blank before it.
_PLAIN = {name: {"lstrip": name == "mask_token", "rstrip": False} for name in _MPNET_TOKENS}

TOKENIZER_CLASSES: dict[str, TokenizerClass] = {
    **dict.fromkeys(
        (
            "BertTokenizer",
            "ElectraTokenizer",
            "LayoutLMTokenizer",
            "MobileBertTokenizer",
            "ConvBertTokenizer",
            "SqueezeBertTokenizer",
            "LxmertTokenizer",
        ),
        _BERT,
    ),
    "DistilBertTokenizer": _DISTILBERT,
    **dict.fromkeys(
        ("RobertaTokenizer", "LongformerTokenizer", "BartTokenizer", "LEDTokenizer"), _ROBERTA
    ),
    "MPNetTokenizer": TokenizerClass(
        kind="WordPiece",
        build=_build_word_piece,
        tokens=_MPNET_TOKENS,
        template=Template(double=True, trims=True),
        files=("vocab.txt",),
        flags=_PLAIN,
    ),
    "DebertaTokenizer": TokenizerClass(
        kind="BPE",
        build=_build_byte_level,
        tokens=_DEBERTA_TOKENS,
        template=Template(double=True),
        files=("vocab.json", "merges.txt"),
        token_types=True,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        kind="Unigram",
        build=_build_xlm_roberta,
        tokens=_ROBERTA_TOKENS,
        template=Template(start="bos_token", end="eos_token", double=True),
        files=("sentencepiece.bpe.model",),
    ),
    "CamembertTokenizer": TokenizerClass(
        kind="Unigram",
        build=_build_camembert,
        tokens=_ROBERTA_TOKENS,
        template=Template(start="bos_token", end="eos_token", double=True),
        files=("sentencepiece.bpe.model",),
        flags={"mask_token": {"lstrip": True, "special": True}},
        extra=_CAMEMBERT_EXTRA,
    ),
    # Its class has BERT's template, but a tokenizer.json's own goes first, and no token types.
    "AlbertTokenizer": TokenizerClass(
        kind="Unigram",
        build=_build_albert,
        tokens=_ALBERT_TOKENS,
        template=None,
        files=("spiece.model",),
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        kind="Unigram",
        build=_build_deberta_v2,
        tokens=_DEBERTA_TOKENS,
        template=Template(types=True),
        files=("spm.model",),
        token_types=True,
    ),
}

"""Shapes of well-known teachers, sizes of well-known texts, and GPUs: a plan's facts offline."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from transformers import (
    BertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from edgedistil.core.sentence_vector import Pooling, SentenceVector, Step


@dataclass(frozen=True)
class KnownTeacher:
    """Shape of a well-known teacher, from its config.json.

    Attributes:
        layers: Number of layers.
        hidden: Width of the hidden states.
        heads: Attention heads of a layer.
        intermediate: Width of the feed-forward layers.
        vocabulary: Number of tokens.
        family: Class of its configuration.
        pooling: How it makes a sentence vector, which it then normalizes; None for a model with an
            MLM head.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    family: Callable[..., PreTrainedConfig] = BertConfig
    pooling: Pooling | None = None

    def config(self) -> PreTrainedConfig:
        """Returns the configuration of a model of this shape."""
        return self.family(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate,
            **_MORE_KEYS.get(self.family, {}),
        )

    def vector(self) -> SentenceVector | None:
        """Returns how it makes sentence vectors; None for a model with an MLM head."""
        if self.pooling is None:
            return None
        return SentenceVector(
            pooling=(self.pooling,), steps=(Step("normalize"),), dimension=self.hidden
        )


# The positions of RoBERTa start behind its padding id.
_MORE_KEYS: dict[Callable[..., PreTrainedConfig], dict[str, int]] = {
    RobertaConfig: {"max_position_embeddings": 514, "type_vocab_size": 1},
    XLMRobertaConfig: {"max_position_embeddings": 514, "type_vocab_size": 1},
}
# Sizes that many teachers share: layers, hidden, heads, intermediate, vocabulary.
_SMALL = (12, 384, 12, 1536, 30522)
_BASE = (12, 768, 12, 3072, 30522)
_LARGE = (24, 1024, 16, 4096, 30522)
_TEACHERS = {
    "google-bert/bert-base-uncased": KnownTeacher(*_BASE),
    "google-bert/bert-base-cased": KnownTeacher(12, 768, 12, 3072, 28996),
    "google-bert/bert-large-uncased": KnownTeacher(*_LARGE),
    "google-bert/bert-large-cased": KnownTeacher(24, 1024, 16, 4096, 28996),
    "google-bert/bert-base-multilingual-cased": KnownTeacher(12, 768, 12, 3072, 119547),
    "FacebookAI/roberta-base": KnownTeacher(12, 768, 12, 3072, 50265, RobertaConfig),
    "FacebookAI/roberta-large": KnownTeacher(24, 1024, 16, 4096, 50265, RobertaConfig),
    "FacebookAI/xlm-roberta-base": KnownTeacher(12, 768, 12, 3072, 250002, XLMRobertaConfig),
    "BAAI/bge-small-en-v1.5": KnownTeacher(*_SMALL, pooling="cls"),
    "BAAI/bge-base-en-v1.5": KnownTeacher(*_BASE, pooling="cls"),
    "BAAI/bge-large-en-v1.5": KnownTeacher(*_LARGE, pooling="cls"),
    "intfloat/e5-small-v2": KnownTeacher(*_SMALL, pooling="mean"),
    "intfloat/e5-base-v2": KnownTeacher(*_BASE, pooling="mean"),
    "intfloat/e5-large-v2": KnownTeacher(*_LARGE, pooling="mean"),
    # A BERT with the tokenizer of XLM-RoBERTa.
    "intfloat/multilingual-e5-small": KnownTeacher(12, 384, 12, 1536, 250037, pooling="mean"),
    "intfloat/multilingual-e5-base": KnownTeacher(
        12, 768, 12, 3072, 250002, XLMRobertaConfig, pooling="mean"
    ),
    "thenlper/gte-small": KnownTeacher(*_SMALL, pooling="mean"),
    "thenlper/gte-base": KnownTeacher(*_BASE, pooling="mean"),
    "thenlper/gte-large": KnownTeacher(*_LARGE, pooling="mean"),
    "Alibaba-NLP/gte-modernbert-base": KnownTeacher(
        22, 768, 12, 1152, 50368, ModernBertConfig, pooling="cls"
    ),
}
# The models have moved to these organisations; their old ids are still in use.
_ORGANISATIONS = ("google-bert/", "FacebookAI/")


@dataclass(frozen=True)
class TextSize:
    """Size of a data set's text.

    Attributes:
        text_bytes: UTF-8 bytes.
        source: Where the size comes from, as plans print it.
    """

    text_bytes: int
    source: str


# Read from the data set's card where it states a size (docs/log.md#sizes-of-the-papers-corpora).
_TEXTS = {
    ("wikimedia/wikipedia", "20231101.en"): TextSize(
        20_200_000_000, "20.2 GB assumed, not read from its card"
    ),
    ("bookcorpus/bookcorpus", None): TextSize(4_853_859_824, "4.85 GB by its card"),
}

# Splits of which the share of the rows is known, such as train[:10%].
_SLICE = re.compile(r"train(\[:(?P<percent>\d+)%\])?")

# English prose in BERT's vocabulary of 30,522 tokens: recipes/mlm.toml's 24.3 MB of text are 5.3M
# tokens.
BYTES_PER_TOKEN = 4.57


@dataclass(frozen=True)
class Gpu:
    """A GPU model.

    Attributes:
        name: Name as plans print it.
        memory_gib: Memory in GiB.
        peak_tflop_per_s: Peak of dense MatMuls in its 16-bit type, from the maker's data sheet.
        bfloat16: Whether its 16-bit type is bfloat16; else float16.
    """

    name: str
    memory_gib: int
    peak_tflop_per_s: float
    bfloat16: bool


GPUS = (
    Gpu("V100 16 GB", 16, 125.0, False),
    Gpu("T4", 16, 65.0, False),
    Gpu("A100 80 GB", 80, 312.0, True),
    Gpu("H100 SXM", 80, 989.0, True),
    # The same chip with more memory.
    Gpu("H200 SXM", 131, 989.0, True),
    Gpu("RTX 4090", 24, 165.0, True),
)


def known_teacher(source: str) -> KnownTeacher | None:
    """Returns the shape of a well-known teacher; None for others.

    Args:
        source: Hub id.
    """
    # A short id, such as roberta-base, is one of the organisations'.
    for organisation in ("", *_ORGANISATIONS):
        known = _TEACHERS.get(f"{organisation}{source}")
        if known is not None:
            return known
    return None


def known_text(hub: str, config: str | None, split: str = "train") -> TextSize | None:
    """Returns the size of a well-known data set, or of the share that a split takes of it.

    Args:
        hub: Id of the data set.
        config: Its configuration.
        split: A split such as `train`, or its first rows such as `train[:10%]`.
    Returns:
        None for other data sets and other splits.
    """
    text, slice_ = _TEXTS.get((hub, config)), _SLICE.fullmatch(split)
    if text is None or slice_ is None:
        return None
    if slice_["percent"] is None:
        return text
    return TextSize(
        text.text_bytes * int(slice_["percent"]) // 100, f"{slice_['percent']}% of {text.source}"
    )

"""Shapes of well-known teachers, sizes of well-known texts, and GPUs: a plan's facts offline."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import BertConfig

# Layers, hidden, heads, intermediate, vocabulary, from each model's config.json. All have 512
# positions.
_SHAPES = {
    "bert-base-uncased": (12, 768, 12, 3072, 30522),
    "bert-base-cased": (12, 768, 12, 3072, 28996),
    "bert-large-uncased": (24, 1024, 16, 4096, 30522),
    "bert-large-cased": (24, 1024, 16, 4096, 28996),
    "bert-base-multilingual-cased": (12, 768, 12, 3072, 119547),
}


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
    Gpu("RTX 4090", 24, 165.0, True),
)


def known_shape(source: str) -> BertConfig | None:
    """Returns the configuration of a well-known teacher; None for others.

    Args:
        source: Hub id.
    """
    # The models have moved to this organisation; their old ids are still in use.
    shape = _SHAPES.get(source.removeprefix("google-bert/"))
    if shape is None:
        return None
    layers, hidden, heads, intermediate, vocabulary = shape
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
    )


def known_text(hub: str, config: str | None) -> TextSize | None:
    """Returns the size of a well-known data set; None for others."""
    return _TEXTS.get((hub, config))

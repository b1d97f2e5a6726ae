"""What a plan knows without the hub: shapes of well-known teachers, sizes of well-known texts, and GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import BertConfig

# Layers, hidden, heads, intermediate, vocabulary: each model's config.json. All have 512 positions.
_SHAPES = {
    "bert-base-uncased": (12, 768, 12, 3072, 30522),
    "bert-base-cased": (12, 768, 12, 3072, 28996),
    "bert-large-uncased": (24, 1024, 16, 4096, 30522),
    "bert-large-cased": (24, 1024, 16, 4096, 28996),
    "bert-base-multilingual-cased": (12, 768, 12, 3072, 119547),
}


@dataclass(frozen=True)
class KnownText:
    text_bytes: int
    source: str


# `source` says whether a data set's card was read for the size, or the size is assumed; a plan prints it.
_TEXTS = {
    ("wikimedia/wikipedia", "20231101.en"): KnownText(
        20_200_000_000, "20.2 GB assumed, not read from its card"
    ),
    ("bookcorpus/bookcorpus", None): KnownText(4_853_859_824, "4.85 GB by its card"),
}

# English prose under BERT's 30,522 word pieces: 24.3 MB of recipes/tiny.toml's text are 5.3M tokens.
BYTES_PER_TOKEN = 4.57


@dataclass(frozen=True)
class Gpu:
    """Peak of dense matrix products in the 16-bit type it has, from the maker's data sheet."""

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
    """The configuration of a well-known teacher by its hub id; None for any other."""
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


def known_text(hub: str, config: str | None) -> KnownText | None:
    return _TEXTS.get((hub, config))

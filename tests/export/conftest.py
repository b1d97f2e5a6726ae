"""A small vocabulary and small models with enough signal that an int8 copy answers like its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from edgedistil.core.rundir import RunDir, create_run, mark_latest

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    f"{a}{b}"
    for a in ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi")
    for b in ("n", "r", "s", "t", "x", "y")
]
VOCABULARY = [*SPECIALS, *WORDS]  # 53 words
HIDDEN, INNER, HEADS, LAYERS, POSITIONS = 44, 68, 4, 2, 521
CLASSES = {
    each.__name__: each
    for each in (
        BertForMaskedLM,
        BertForPreTraining,
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertModel,
        DistilBertForMaskedLM,
        DistilBertForSequenceClassification,
        DistilBertModel,
    )
}
Make = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    fast = Tokenizer(
        WordPiece({word: index for index, word in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    fast.normalizer, fast.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    names = dict(
        zip(
            ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
            SPECIALS,
            strict=True,
        )
    )
    return PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=POSITIONS, **names)


@pytest.fixture(scope="session")
def text() -> list[str]:
    rows = torch.randint(len(WORDS), (60, 17), generator=torch.Generator().manual_seed(3))
    return [" ".join(WORDS[index] for index in row) for row in rows.tolist()]


def make(name: str, *, seed: int = 11) -> PreTrainedModel:
    """A model of that class whose weights are large enough for its answers to differ from position to position."""
    torch.manual_seed(seed)
    if name.startswith("Bert"):
        config = BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_attention_heads=HEADS,
            num_hidden_layers=LAYERS,
            max_position_embeddings=POSITIONS,
            initializer_range=0.2,
        )
    else:
        config = DistilBertConfig(
            vocab_size=len(VOCABULARY),
            dim=HIDDEN,
            hidden_dim=INNER,
            n_heads=HEADS,
            n_layers=LAYERS,
            max_position_embeddings=POSITIONS,
            initializer_range=0.2,
        )
    return CLASSES[name](config).eval().requires_grad_(False)


@pytest.fixture
def model() -> Make:
    return make


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Path]:
    """A saved model of that class with its tokenizer."""

    def save(name: str) -> Path:
        place = tmp_path / name
        make(name).save_pretrained(place)
        tokenizer.save_pretrained(place)
        return place

    return save


@pytest.fixture
def finished_run(runs: Path, tokenizer: PreTrainedTokenizerFast, text: list[str]) -> RunDir:
    """A run with a teacher, a student and held-out text, as distillation leaves it."""
    run = create_run("done", root=runs)
    for place, name in ((run.teacher, "BertForMaskedLM"), (run.student, "DistilBertForMaskedLM")):
        make(name).save_pretrained(place)
        tokenizer.save_pretrained(place)
    run.heldout_text.write_text("\n".join(text) + "\n", encoding="utf-8")
    mark_latest(run)
    return run

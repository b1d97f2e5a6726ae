"""A small tokenizer, and corpus settings that tests vary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgedistil.core.recipe import Corpus, SourceSpec
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus

WORDS = [f"w{number:03d}" for number in range(97)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def corpus_settings(sources: list[SourceSpec], **changed: Any) -> Corpus:
    """A recipe's corpus section that fits a few lines of text."""
    small = {"block_length": 17, "heldout_share": 0.2, "heldout_max_documents": 1000}
    return Corpus(sources=sources, **{**small, **changed})


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 97 words and BERT's special tokens.

    Truncation and padding are baked in, as in MiniLM's file.
    """
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """211 lines of 13 to 29 words."""
    path = tmp_path / "corpus.txt"
    lines = [
        " ".join(WORDS[(line * 7 + word * 3) % 97] for word in range(13 + line % 17))
        for line in range(211)
    ]
    path.write_text(
        "\n".join(f"{text} w{n % 97:03d} w{n // 97:03d}" for n, text in enumerate(lines)) + "\n"
    )
    return path


@pytest.fixture
def prepare(tokenizer_folder: Path, tmp_path: Path) -> Callable[..., TokenizedCorpus]:
    """`prepare(path, …)`: a corpus of files with small settings, each of which may be changed."""

    def _prepare(
        *patterns: Path | str,
        cache: Path = tmp_path / "cache",
        workers: int | None = None,
        **changed: Any,
    ) -> TokenizedCorpus:
        settings = corpus_settings([SourceSpec(files=str(p)) for p in patterns], **changed)
        return prepare_corpus(settings, tokenizer_folder, cache=cache, workers=workers)

    return _prepare

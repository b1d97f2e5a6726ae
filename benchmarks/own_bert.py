"""A small BERT of our own with random weights, to pre-train: its vocabulary, config and weights.

    python benchmarks/own_bert.py TEXT own-bert
    edgedistil distill benchmarks/table4/pretrain.toml

TEXT is a file of documents, one a line (.txt, .gz, .zst). The vocabulary is WordPiece's of that
text. Makes the folder in about a minute; what follows takes hours (benchmarks/table4/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from page import argument_parser
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from edgedistil.data.text_files import read_text_file

VOCABULARY = 8_000
LAYERS, WIDTH, HEADS = 12, 256, 4
POSITIONS = 128
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SEED = 56


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("text", type=Path, help="documents, one a line")
    parser.add_argument("folder", type=Path, help="where the model goes; must not exist")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    make_tokenizer(arguments.text, arguments.folder)
    make_model(arguments.folder)
    print(arguments.folder)


def make_tokenizer(text: Path, folder: Path) -> None:
    """Trains a lower-case vocabulary, and writes it as transformers' tokenizer of BERT."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL)
    backend.train_from_iterator(documents(text), trainer)
    vocabulary = backend.get_vocab()
    # The trainer numbers equally frequent tokens in another order in every process.
    tokens = [*SPECIAL, *sorted(set(vocabulary) - set(SPECIAL))]
    ids = {token: index for index, token in enumerate(tokens)}
    BertTokenizer(vocab=ids, model_max_length=POSITIONS).save_pretrained(folder)


def documents(text: Path) -> Iterator[str]:
    """Yields the documents of a text file."""
    return read_text_file(text, field="text", on_bad_utf8="refuse")


def make_model(folder: Path) -> None:
    """Writes config and random weights."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=POSITIONS,
    )
    torch.manual_seed(SEED)
    BertForMaskedLM(config).save_pretrained(folder)


if __name__ == "__main__":
    main()

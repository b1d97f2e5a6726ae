"""A small BERT of our own to pre-train: its vocabulary and random weights, and deeper ones from it.

    python benchmarks/own_bert.py new TEXT own-bert-3 --layers 3
    python benchmarks/own_bert.py stack runs/own-bert-3/student own-bert-6

TEXT is a file of documents, one a line (.txt, .gz, .zst). The vocabulary is WordPiece's of that
text. `stack` repeats the layers of a trained model (Gong et al. 2019, "Efficient training of BERT
by progressively stacking"). Each takes about a minute; the training in between takes hours
(benchmarks/table4/README.md).
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from page import argument_parser
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, DistilBertForMaskedLM
from word_pieces import word_pieces

from edgedistil.core.errors import EdgeDistilError, RunError
from edgedistil.core.rundir import replacing
from edgedistil.data.text_files import read_text_file

VOCABULARY = 8_000  # at most; a short text has fewer
WIDTH, HEADS = 256, 4
INIT_STD = 0.05
POSITIONS = 128
SEED = 56


def main() -> None:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="vocabulary and random weights")
    new.add_argument("text", type=Path, help="documents, one a line")
    new.add_argument("folder", type=Path, help="where the model goes; must not exist")
    new.add_argument("--layers", type=int, default=3)
    deeper = commands.add_parser("stack", help="twice as many layers, with the weights of a model")
    deeper.add_argument("model", type=Path, help="student of a run")
    deeper.add_argument("folder", type=Path, help="where the deeper model goes; must not exist")
    arguments = parser.parse_args()
    try:
        if arguments.command == "new":
            create(arguments.text, arguments.folder, layers=arguments.layers)
        else:
            deepen(arguments.model, arguments.folder)
    except (EdgeDistilError, OSError, ValueError) as error:
        raise SystemExit(f"own_bert.py: {error}") from error
    print(arguments.folder)


def create(text: Path, folder: Path, *, layers: int) -> None:
    """Writes a new model's folder, complete or not at all."""
    with new_folder(folder) as unfinished:
        tokens = make_tokenizer(text, unfinished)
        make_model(unfinished, layers, vocabulary=tokens)


def deepen(model: Path, folder: Path) -> None:
    """Writes the folder of a model with twice the layers, complete or not at all."""
    # Otherwise transformers asks the hub for a model of this name.
    if not (model / "config.json").is_file():
        raise RunError(f"{model} has no config.json; expected the student folder of a run")
    with new_folder(folder) as unfinished:
        stack(model, unfinished)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder that becomes `folder` if the body succeeds.

    Raises:
        RunError: `folder` exists.
    """
    if folder.exists():
        raise RunError(f"{folder} exists; remove it, or name another folder")
    with replacing(folder) as unfinished:
        unfinished.mkdir()
        yield unfinished


def make_tokenizer(text: Path, folder: Path) -> int:
    """Writes a lower-case vocabulary as transformers' tokenizer of BERT; returns its size."""
    ids = word_pieces(list(documents(text)), VOCABULARY, progress=True)
    BertTokenizer(vocab=ids, model_max_length=POSITIONS).save_pretrained(folder)
    return len(ids)


def documents(text: Path) -> Iterator[str]:
    """Yields the documents of a text file."""
    return read_text_file(text, field="text", on_bad_utf8="refuse")


def make_model(folder: Path, layers: int, *, vocabulary: int) -> None:
    """Writes config and random weights, whose attention looks at near positions from the start.

    Source: Trockman and Kolter 2023, "Mimetic initialization of self-attention layers".
    """
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=POSITIONS,
        initializer_range=INIT_STD,
    )
    torch.manual_seed(SEED)
    model = BertForMaskedLM(config)
    positions = model.bert.embeddings.position_embeddings.weight
    positions.data.copy_(sinusoids())
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        attention.key.weight.data.copy_(attention.query.weight.data)
    model.save_pretrained(folder)


def sinusoids() -> Tensor:
    """Position embeddings of sines and cosines, as large as the words', (POSITIONS, WIDTH)."""
    rates_H = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10_000) / WIDTH))
    angles_LH = torch.arange(POSITIONS)[:, None] * rates_H
    waves_LHX = torch.stack([angles_LH.sin(), angles_LH.cos()], dim=-1)
    return waves_LHX.flatten(1) * INIT_STD * math.sqrt(2)


def stack(model: Path, folder: Path) -> None:
    """Writes a model with the layers of a trained one, and the same layers once more above them."""
    shallow, loading = DistilBertForMaskedLM.from_pretrained(model, output_loading_info=True)
    # A BERT's weights have other names, and transformers would draw random ones in their place.
    if loading["missing_keys"]:
        raise RunError(f"{model} is not a DistilBERT with a head; expected the student of a run")
    config = shallow.config
    depth = config.n_layers
    config.n_layers = 2 * depth
    deep = DistilBertForMaskedLM(config)
    weights = shallow.state_dict()
    repeated = {name: weights[_below(name, depth)] for name in deep.state_dict()}
    deep.load_state_dict(repeated)
    deep.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder)


def _below(name: str, depth: int) -> str:
    """Name of a weight in the model that has the first `depth` layers."""
    return re.sub(r"\.layer\.(\d+)\.", lambda match: f".layer.{int(match[1]) % depth}.", name)


if __name__ == "__main__":
    main()

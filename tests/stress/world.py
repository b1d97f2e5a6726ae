"""Small sound inputs that cases copy and damage: models, text, a task and a complete run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = "small"
STUDENT_GRAPH = f"runs/{RUN}/export/student-feature-extraction/onnx/model.onnx"
# Export of an encoder that gives sentence vectors.
VECTORS = "vectors"
POSITIONS = 128

_SUBJECTS = "the boat|a long river|her brother|the old road|one harbour|every film|the actor"
_VERBS = "left|carried|was|opened|kept|often saw|never reached|slowly followed|ended"
_OBJECTS = "the market|good bread|bad weather|a great story|the sharp knife|poor work"
_ENDS = "in the morning|with little time|after the war|for nothing|again|without a word|at home"

RECIPE = """
name = "small"
[teacher]
source = "teacher"
[corpus]
block_length = 16
[[corpus.sources]]
files = "corpus.txt"
[train]
steps = 2
global_batch = 4
micro_batch = 2
precision = "float32"
heldout_tokens = 64
checkpoint_minutes = 0.001
[evaluate]
tasks = ["task.toml"]
models = ["teacher", "student"]
[export]
precisions = ["fp32", "int8"]
[profile]
devices = ["rpi4"]
lengths = [8]
threads = [1]
sentence_pairs = 4
claim_pairs = 4
"""
TASK = """
kind = "classification"
metric = "accuracy"
labels = ["bad", "good"]
[files]
train = "train.csv"
dev = "dev.csv"
[training]
epochs = 1
batch = 8
learning_rate = 1e-3
max_length = 16
source = "a test"
"""


def sentences(count: int, seed: int = 0) -> list[str]:
    """Returns sentences of an invented language that looks like English."""
    random = Random(seed)
    parts = [words.split("|") for words in (_SUBJECTS, _VERBS, _OBJECTS, _ENDS)]
    return [" ".join(random.choice(words) for words in parts) + "." for _ in range(count)]


class World:
    """The folder with all sound inputs; no case writes into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def copy(self, work: Path, *names: str) -> None:
        """Copies files and folders into a working folder, under the same names."""
        for name in names:
            source, target = self.path / name, work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)

    def copy_run(self, work: Path) -> Path:
        """Copies the complete run, its task and its data; returns the run's folder."""
        self.copy(work, "runs", "task.toml", "train.csv", "dev.csv", "teacher", "corpus.txt")
        return work / "runs" / RUN


def write_inputs(folder: Path) -> None:
    """Writes everything but the run, which the commands themselves make of it."""
    folder.mkdir(parents=True)
    text = "\n".join(sentences(240, seed=3)) + "\n"
    for name in ("corpus.txt", "text.txt"):
        (folder / name).write_text(text)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "task.toml").write_text(TASK)
    for name, count in (("train.csv", 48), ("dev.csv", 24)):
        rows = [f'"{text}",{label_of(text)}' for text in sentences(count, seed=count)]
        (folder / name).write_text("text,label\n" + "\n".join(rows) + "\n")
    device = (ROOT / "devices" / "rpi4.toml").read_text().replace('name = "rpi4"', 'name = "board"')
    (folder / "board.toml").write_text(device)
    _write_models(folder, text)


def label_of(text: str) -> str:
    """Returns the class of a sentence in the task."""
    return "good" if any(word in text for word in ("good", "great", "sharp")) else "bad"


def _write_models(folder: Path, text: str) -> None:
    import torch
    from tokenizers import processors
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        BertModel,
        PreTrainedTokenizerFast,
    )

    from benchmarks.word_pieces import BERT_SPECIAL, word_piece_tokenizer

    # A WordPiece tokenizer that is trained on our text.
    tokenizer = word_piece_tokenizer(text.splitlines(), 160)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS,
        **dict(zip(names, BERT_SPECIAL, strict=True)),
    )
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
    )
    for name, kind in (
        ("teacher", BertForMaskedLM),
        ("classifier", BertForSequenceClassification),
        ("encoder", BertModel),
    ):
        torch.manual_seed(7)
        kind(config).eval().save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    _write_modules(folder / "encoder")


def _write_modules(folder: Path) -> None:
    """Makes a model folder one of sentence-transformers."""
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{name}",
        }
        for index, (name, path) in enumerate(names.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

"""A small vocabulary and small models whose int8 copies still compute the same decisions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
)

from edgedistil.core.rundir import RunDir, create_run, mark_latest
from edgedistil.core.session import SessionOptions
from edgedistil.core.task import Task
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.trace import trace_model

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    f"{start}{end}"
    for start in ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi")
    for end in ("n", "r", "s", "t", "x", "y")
]
VOCABULARY = [*SPECIALS, *WORDS]  # 53 tokens
HIDDEN, INNER, HEADS, LAYERS, POSITIONS = 44, 68, 4, 2, 521
CLASSES: dict[str, type[PreTrainedModel]] = {
    model_class.__name__: model_class
    for model_class in (
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
MakeGraph = Callable[[str, Task], ir.Model]
Answer = Callable[[ir.Model], NDArray[np.float32]]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """The vocabulary's tokenizer, as transformers writes and the package reads it."""
    path = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    BertTokenizer(vocab=vocabulary, model_max_length=POSITIONS).save_pretrained(path)
    return read_tokenizer(path)


def copy_tokenizer(tokenizer: TextTokenizer, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (tokenizer.folder / name).is_file():
            shutil.copyfile(tokenizer.folder / name, folder / name)


@pytest.fixture(scope="session")
def text() -> list[str]:
    """60 lines of 17 random words."""
    rows = torch.randint(len(WORDS), (60, 17), generator=torch.Generator().manual_seed(3))
    return [" ".join(WORDS[index] for index in row) for row in rows.tolist()]


def make(name: str, *, seed: int = 11, **changes: object) -> PreTrainedModel:
    """A model of that class, with changes of its config.

    Its weights are so large that outputs differ between positions.
    """
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
    config.update(changes)
    return CLASSES[name](config).eval().requires_grad_(False)


@pytest.fixture
def model() -> Make:
    return make


@cache
def _traced(name: str, task: Task) -> ir.Model:
    source = make(name)
    graph = trace_model(source, task=task)
    run_standard_passes(graph, source.config)
    return graph


@pytest.fixture
def make_graph() -> MakeGraph:
    """Traces a model of that class once, runs the standard passes, and returns a copy."""
    return lambda name, task: _traced(name, task).clone()


@pytest.fixture
def graph(make_graph: MakeGraph) -> ir.Model:
    """The float32 graph of a masked LM, after the standard passes."""
    return make_graph("DistilBertForMaskedLM", "fill-mask")


@pytest.fixture
def answer() -> Answer:
    """Runs a graph on 3 × 17 random tokens with the session options that exports recommend."""

    def run(model: ir.Model) -> NDArray[np.float32]:
        # Without exact sums int8 saturates on x86 without VNNI, as session.json says.
        options = SessionOptions(exact_int8=True).to_onnxruntime()
        data = ir.to_proto(model).SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        ids = np.random.default_rng(5).integers(5, 53, (3, 17))
        return session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]

    return run


@pytest.fixture
def error(answer: Answer) -> Callable[[ir.Model, ir.Model], float]:
    """Mean error of a graph's outputs, relative to the mean of a reference graph's."""

    def relative_error(model: ir.Model, reference: ir.Model) -> float:
        expected = answer(reference)
        return float(np.abs(answer(model) - expected).mean() / np.abs(expected).mean())

    return relative_error


@pytest.fixture
def folder(tmp_path: Path, tokenizer: TextTokenizer) -> Callable[[str], Path]:
    """Saves a model of that class with its tokenizer."""

    def save(name: str) -> Path:
        path = tmp_path / name
        make(name).save_pretrained(path)
        copy_tokenizer(tokenizer, path)
        return path

    return save


@pytest.fixture
def finished_run(runs: Path, tokenizer: TextTokenizer, text: list[str]) -> RunDir:
    """A run with a teacher, a student and held-out text, as distillation leaves it."""
    run = create_run("done", root=runs)
    for path, name in ((run.teacher, "BertForMaskedLM"), (run.student, "DistilBertForMaskedLM")):
        make(name).save_pretrained(path)
        copy_tokenizer(tokenizer, path)
    run.heldout_text.write_text("\n".join(text) + "\n", encoding="utf-8")
    mark_latest(run)
    return run

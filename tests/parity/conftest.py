"""A tiny masked-LM student with a real tokenizer, its probes, and its exported ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForMaskedLM, PreTrainedTokenizerFast

from benchmarks.word_pieces import BERT_SPECIAL, word_piece_tokenizer
from edgedistil.core.options import ExportOptions
from edgedistil.core.rundir import RunDir
from edgedistil.export.publish import export_model
from edgedistil.export.source import read_source
from edgedistil.parity.probes import Probes

ROOT = Path(__file__).resolve().parents[2]
LAYERS, HEADS, WIDTH, INNER, POSITIONS = 3, 5, 35, 77, 67


@dataclass(frozen=True)
class Exported:
    """The fp32 graph, the probes it passed, and the folder of its source."""

    graph: Path
    probes: Probes
    source: Path


@pytest.fixture(scope="session")
def english() -> list[str]:
    """Paragraphs of real English that every checkout has."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


@pytest.fixture(scope="session")
def tiny_tokenizer(english: list[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of 307 tokens, trained on the same paragraphs."""
    tokenizer = word_piece_tokenizer(english, 307)
    names = {f"{token[1:-1].lower()}_token": token for token in BERT_SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **names)


@pytest.fixture(scope="session")
def tiny_student(tiny_tokenizer: PreTrainedTokenizerFast) -> DistilBertForMaskedLM:
    """Random weights, larger than transformers' own, so that a token wins by a margin."""
    torch.manual_seed(11)
    config = DistilBertConfig(
        vocab_size=len(tiny_tokenizer),
        dim=WIDTH,
        hidden_dim=INNER,
        n_layers=LAYERS,
        n_heads=HEADS,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
    )
    return DistilBertForMaskedLM(config).eval()


@pytest.fixture(scope="session")
def exported(
    tiny_student: DistilBertForMaskedLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    english: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    run = RunDir(tmp_path_factory.mktemp("run"))
    tiny_student.save_pretrained(run.student)
    tiny_tokenizer.save_pretrained(run.student)
    source = read_source(run.student, name="student", role="student", task="fill-mask")
    export_model(run, source, ExportOptions(precisions=["fp32"]), text=english)
    graph = run.export("student", "fill-mask") / "onnx" / "model.onnx"
    return Exported(graph, Probes.load(run.probes("student", "fill-mask")), run.student)

"""A small collection, and a run that was assembled from tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from edgedistil.core.rundir import RunDir

WORDS = ["gull", "sea", "moss", "stone", "bread", "salt", "harbour", "letter"]
DOCUMENTS = {"d1": "gull sea harbour", "d2": "moss stone", "d3": "bread salt", "d4": "letter"}
QUERIES = {"q1": "gull sea", "q2": "stone moss", "q3": "salt"}
ANSWERS = {"q1": "d1", "q2": "d2", "q3": "d3"}


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "birds"
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [{"_id": k, "text": v} for k, v in DOCUMENTS.items()])
    write_lines(folder / "queries.jsonl", [{"_id": k, "text": v} for k, v in QUERIES.items()])
    lines = "".join(f"{query}\t{document}\t1\n" for query, document in ANSWERS.items())
    (folder / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


def save_model(folder: Path, *, layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that was assembled from a teacher and a student."""
    run = RunDir(tmp_path / "run")
    save_model(run.teacher, layers=2, seed=1)
    save_model(run.student, layers=1, seed=2)
    save_model(run.student_step0, layers=1, seed=3)
    return run

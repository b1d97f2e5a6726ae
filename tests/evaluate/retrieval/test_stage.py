"""`evaluate --task` with a BEIR folder: models, baseline and modes on a small collection."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from edgedistil.core.errors import TaskError
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.records import EvaluationRecord, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.retrieval.embedders import static_embedder, torch_embedder
from edgedistil.evaluate.retrieval.stage import is_retrieval
from edgedistil.evaluate.stage import evaluate

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
    return run


def test_models_and_baseline_are_scored(run: RunDir, collection: Path) -> None:
    options = EvaluateOptions(tasks=[str(collection)], models=["teacher", "student"])
    record = evaluate(run, options)
    by_model = {score.model: score for score in record.retrieval}
    assert list(by_model) == ["teacher", "student", "static", "student in teacher's index"]
    for score in by_model.values():
        assert (score.collection, score.queries, score.documents) == ("birds", 3, 4)
        assert 0 <= score.low <= score.metrics["ndcg@10"] <= score.high <= 1
        assert score.metrics["recall@100"] == 1, "all four documents are among the first hundred"
    assert by_model["teacher"].retention == 1
    student, teacher = by_model["student"], by_model["teacher"]
    assert student.retention == pytest.approx(
        student.metrics["ndcg@10"] / teacher.metrics["ndcg@10"]
    )
    # Words in common find the right document, even with random word vectors.
    assert by_model["static"].metrics["ndcg@10"] == 1
    assert read_record(run.evaluation, EvaluationRecord) == record


def test_other_results_of_the_run_stay(run: RunDir, collection: Path) -> None:
    evaluate(run, EvaluateOptions(tasks=[str(collection)], models=["student"]))
    other = collection.rename(collection.with_name("mosses"))
    record = evaluate(run, EvaluateOptions(tasks=[str(other)], models=["student"]))
    assert {score.collection for score in record.retrieval} == {"birds", "mosses"}


def test_an_embedder_pools_real_tokens_only(run: RunDir) -> None:
    embedder = torch_embedder("student", run.student)
    together = embedder.embed(["gull", "gull sea harbour letter"], "query")
    alone = embedder.embed(["gull"], "query")
    np.testing.assert_allclose(together[0], alone[0], atol=1e-6)


def test_static_vectors_weigh_rare_words_more(run: RunDir) -> None:
    texts = ["gull gull gull gull sea"]
    embed = static_embedder(run.teacher, texts).embed
    gull, sea = embed(["gull"], "query")[0], embed(["sea"], "query")[0]
    table = BertModel.from_pretrained(run.teacher).get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(gull, table[5] * 1e-3 / (1e-3 + 0.8), rtol=1e-5)
    np.testing.assert_allclose(sea, table[6] * 1e-3 / (1e-3 + 0.2), rtol=1e-5)


def test_names_of_collections(collection: Path) -> None:
    assert is_retrieval("retrieval") and is_retrieval("retrieval:verses")
    assert is_retrieval(str(collection)) and not is_retrieval("sentiment")


def test_an_unknown_collection(run: RunDir) -> None:
    with pytest.raises(TaskError, match="did you mean 'code'"):
        evaluate(run, EvaluateOptions(tasks=["retrieval:cod"]))

"""Tables of encoders: intervals, baselines, and quality next to size and latency."""

from __future__ import annotations

from edgedistil.core.evaluation_records import PairScore, RetrievalDifference, RetrievalScore
from edgedistil.core.rundir import RunDir
from edgedistil.report.embedding_tables import (
    cost_table,
    difference_table,
    embedding_tables,
    pair_table,
    retrieval_table,
)
from edgedistil.report.load import load_results
from edgedistil.report.plots import measured_rows


def score(model: str, ndcg: float, *, seeds: int = 1) -> RetrievalScore:
    metrics = {"ndcg@10": ndcg, "recall@10": 0.8, "recall@100": 0.9, "mrr": 0.6}
    return RetrievalScore(
        collection="verses",
        origin="package",
        queries=200,
        documents=1000,
        model=model,
        metrics=metrics,
        low=ndcg - 0.02,
        high=ndcg + 0.02,
        reference="teacher",
        retention=ndcg / 0.5,
        retention_low=0.9,
        retention_high=0.98,
        interval="95%, resampled queries",
        notes=["student cuts 3 of 1,000 documents"],
        seeds=seeds,
    )


SCORES = [score("teacher", 0.5), score("student", 0.48, seeds=3), score("student int8", 0.47)]


def test_every_model_has_its_interval_and_its_share() -> None:
    table = retrieval_table(SCORES)
    assert table.rows[0] == ["verses", "teacher", "50.0 (48.0–52.0)", "80.0", "90.0", "60.0", "–"]
    assert table.rows[1][-1] == "96.0% (90.0%–98.0%)"
    assert "intervals of models of 3 distillations: 95%, resampled queries" in table.notes
    assert table.notes.count("verses: student cuts 3 of 1,000 documents") == 1


def test_differences_say_whether_they_are_beyond_the_interval() -> None:
    rows = []
    for low, high in ((0.01, 0.03), (-0.01, 0.02), (-0.03, -0.01)):
        rows.append(
            RetrievalDifference(
                collection="verses",
                model="student",
                other="student-step0",
                difference=(low + high) / 2,
                low=low,
                high=high,
                interval="95%",
            )
        )
    table = difference_table(rows)
    assert [row[-1] for row in table.rows] == ["ahead", "no", "behind"]
    assert table.rows[0][3] == "2.0 (1.0–3.0)"


def test_pairs_have_both_correlations() -> None:
    pairs = PairScore(
        name="sts",
        origin="sts.tsv",
        pairs=1379,
        model="student",
        pearson=0.81,
        pearson_low=0.79,
        pearson_high=0.83,
        spearman=0.8,
        spearman_low=0.78,
        spearman_high=0.82,
        interval="95%, resampled pairs",
    )
    expected = ["sts", "student", "1,379", "81.0 (79.0–83.0)", "80.0 (78.0–82.0)"]
    assert pair_table([pairs]).rows == [expected]


def test_quality_stands_next_to_size_and_latency(full_run: RunDir) -> None:
    results = load_results(full_run)
    evaluation = results.evaluation
    assert evaluation is not None
    record = evaluation.model_copy(update={"retrieval": SCORES})
    rows = measured_rows(results.profiles)
    table = cost_table(record, rows)
    assert table is not None
    by_artefact = {(row[0], row[1]): row for row in table.rows}
    assert by_artefact["student", "int8"][-1] == "47.0"
    assert by_artefact["teacher", "fp32"][-1] == "50.0"
    assert float(by_artefact["student", "int8"][3]) > 0
    assert cost_table(evaluation.model_copy(update={"retrieval": []}), rows) is None
    assert retrieval_table(SCORES) in embedding_tables(record)

"""Tables of sentence encoders: search quality, graded pairs, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgedistil.core.evaluation_records import (
    EvaluationRecord,
    PairScore,
    RetrievalDifference,
    RetrievalScore,
)
from edgedistil.core.format import (
    ABSENT,
    hundredths,
    mebibytes,
    number,
    percent,
    plural,
    with_interval,
)
from edgedistil.core.profile_records import LatencyStats, ProfileRow
from edgedistil.core.task import ENCODER_TASK
from edgedistil.report.table import TableData

# Metrics of a retrieval table after the one that counts.
_OTHER_METRICS = ("recall@10", "recall@100", "mrr")


def embedding_tables(record: EvaluationRecord) -> list[TableData]:
    """All tables of encoders that were scored without fine-tuning; empty ones are left out."""
    tables = []
    if record.retrieval:
        tables.append(retrieval_table(record.retrieval))
    if record.retrieval_differences:
        tables.append(difference_table(record.retrieval_differences))
    if record.pairs:
        tables.append(pair_table(record.pairs))
    return tables


# --- search --------------------------------------------------------------------------------------


def retrieval_table(scores: Sequence[RetrievalScore]) -> TableData:
    """Search quality by collection and model, × 100."""
    columns = [
        "collection",
        "model",
        "nDCG@10",
        "recall@10",
        "recall@100",
        "MRR",
        "share of the reference's nDCG@10",
    ]
    rows = []
    for score in scores:
        share = ABSENT
        if score.model != score.reference:
            share = with_interval(
                score.retention, score.retention_low, score.retention_high, percent
            )
        ndcg = with_interval(score.metrics["ndcg@10"], score.low, score.high, _tenths)
        others = [hundredths(score.metrics[name], 1) for name in _OTHER_METRICS]
        rows.append([score.collection, score.model, ndcg, *others, share])
    return TableData("Retrieval", columns, rows, list(dict.fromkeys(_retrieval_notes(scores))))


def _tenths(score: float) -> str:
    return hundredths(score, 1)


def _retrieval_notes(scores: Sequence[RetrievalScore]) -> Iterator[str]:
    """Yields notes of a table; the same one may come several times."""
    for score in scores:
        models = plural(score.seeds, "distillation")
        yield f"intervals of models of {models}: {score.interval}"
    yield f"the reference is {scores[0].reference}"
    yield "student-step0: the teacher's layers cut, not distilled"
    yield "static: means of the reference's word vectors, weighted by rarity; no transformer"
    yield "in …'s index: only the queries are the model's, the documents are the reference's"
    for score in scores:
        yield (
            f"{score.collection}: {score.queries:,} queries, {score.documents:,} documents "
            f"({score.origin})"
        )
        yield from (f"{score.collection}: {note}" for note in score.notes)


def difference_table(differences: Sequence[RetrievalDifference]) -> TableData:
    """Points of nDCG@10 between two models on the same queries."""
    rows = []
    for row in differences:
        points = with_interval(row.difference, row.low, row.high, _tenths)
        rows.append([row.collection, row.model, row.other, points, _direction(row)])
    columns = ["collection", "model", "compared with", "points of nDCG@10", "beyond the interval"]
    notes = [f"intervals: {row.interval}" for row in differences]
    title = "Differences on the same queries"
    return TableData(title, columns, rows, list(dict.fromkeys(notes)))


def _direction(row: RetrievalDifference) -> str:
    if row.low > 0:
        return "ahead"
    return "behind" if row.high < 0 else "no"


# --- pairs ---------------------------------------------------------------------------------------


def pair_table(scores: Sequence[PairScore]) -> TableData:
    """Correlations with the grades of text pairs, × 100."""
    rows = []
    for score in scores:
        pearson = with_interval(score.pearson, score.pearson_low, score.pearson_high, _tenths)
        spearman = with_interval(score.spearman, score.spearman_low, score.spearman_high, _tenths)
        rows.append([score.name, score.model, f"{score.pairs:,}", pearson, spearman])
    notes = [f"intervals: {scores[0].interval}"]
    columns = ["pairs", "model", "number", "Pearson", "Spearman"]
    return TableData("Similarity of text pairs", columns, rows, notes)


# --- cost ----------------------------------------------------------------------------------------


def cost_table(record: EvaluationRecord, rows: Sequence[ProfileRow]) -> TableData | None:
    """Search quality of encoders with their size and latency; None if neither was measured.

    Args:
        record: Scores of the encoders.
        rows: Measured rows with the same device, threads and length.
    """
    collections = list(dict.fromkeys(score.collection for score in record.retrieval))
    ndcg = {(s.collection, s.model): s.metrics["ndcg@10"] for s in record.retrieval}
    cells = []
    for row in rows:
        name = _name_of(row, record.retrieval)
        values = [ndcg.get((collection, name)) for collection in collections]
        if row.task != ENCODER_TASK or all(value is None for value in values):
            continue
        shown = [ABSENT if value is None else _tenths(value) for value in values]
        cells.append([row.model, row.precision, mebibytes(row.file_bytes), _median(row), *shown])
    if not cells:
        return None
    columns = ["encoder", "precision", "MiB", "p50, ms", *collections]
    where = f"{rows[0].device}, {plural(rows[0].threads, 'thread')}, {rows[0].length} tokens"
    notes = [f"latency: {where}; nDCG@10 × 100 of fp32 is PyTorch's, which fp32 artefacts match"]
    return TableData("Search quality against size and latency", columns, cells, notes)


def _name_of(row: ProfileRow, scores: Sequence[RetrievalScore]) -> str:
    """Name that a profiled artefact has among the scores."""
    if row.role == "teacher" and scores:
        return scores[0].reference
    return row.model if row.precision == "fp32" else f"{row.model} {row.precision}"


def _median(row: ProfileRow) -> str:
    if isinstance(row.latency, LatencyStats):
        return number(row.latency.p50_ms, 2)
    return ABSENT

"""Tables of a trimmed vocabulary: what it saves, and what it costs."""

from __future__ import annotations

from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.format import (
    ABSENT,
    hundredths,
    mebibytes,
    millions,
    milliseconds,
    percent,
)
from edgedistil.core.records import NotMeasured
from edgedistil.core.trim_records import TrimRecord
from edgedistil.report.table import TableData


def trim_tables(record: TrimRecord) -> list[TableData]:
    """Returns sizes, tokens on held-out text with the proof, and tokens that went."""
    sizes, texts = _size_table(record), _text_table(record)
    return [sizes, texts, *_latency_tables(record), _script_table(record)]


def trim_baseline_table(record: EvaluationRecord) -> TableData:
    """Returns scores of the models that trimming and distilling made, one column a task.

    A baseline that was not evaluated has a row that says so.
    """
    tasks = list(dict.fromkeys(summary.task for summary in record.summaries))
    collections = list(dict.fromkeys(score.collection for score in record.retrieval))
    scores = {(s.task, s.model): s.mean for s in record.summaries if s.artefact == "pytorch"}
    scores |= {(s.collection, s.model): s.metrics["ndcg@10"] for s in record.retrieval}
    columns = [*tasks, *collections]
    rows, notes = [], []
    # A teacher with a fitted head is a model of its own; the reference is the user's.
    has_given = any(model == "teacher-as-given" for _, model in scores)
    reference = "teacher-as-given" if has_given else "teacher"
    for model, description in {reference: "as given", **_BASELINES}.items():
        cells = [
            hundredths(scores[column, model], 1) if (column, model) in scores else ABSENT
            for column in columns
        ]
        rows.append([model, description, *cells])
        if ABSENT in cells and model in _REMEDIES:
            notes.append(f"{model} is not measured in every column: {_REMEDIES[model]}")
    notes.append("× 100: nDCG@10 of collections, means over the seeds of labelled tasks")
    return TableData(
        "Cost of trimming and of distilling", ["model", "what it is", *columns], rows, notes
    )


def _size_table(record: TrimRecord) -> TableData:
    before, after = record.parameters_before, record.parameters_after
    rows = [
        ["tokens", f"{record.vocabulary_before:,}", f"{record.vocabulary_after:,}"],
        ["parameters", millions(before), millions(after)],
        ["weights, MiB", mebibytes(record.bytes_before), mebibytes(record.bytes_after)],
    ]
    notes = [
        f"{percent(1 - after / before)} fewer parameters; {record.required:,} tokens have to stay "
        "whatever the text is",
        f"{percent(record.coverage, 2)} of the {record.counted_tokens:,} tokens of "
        f"{record.counted_on} stay as they are",
    ]
    return TableData(f"Vocabulary of {record.model} ({record.kind})", _COLUMNS, rows, notes)


def _text_table(record: TrimRecord) -> TableData:
    text, proof = record.heldout, record.proof
    per_text = [f"{tokens / text.texts:.1f}" for tokens in (text.tokens_before, text.tokens_after)]
    rows = [
        ["tokens per text", *per_text],
        ["unknown tokens", f"{text.unknown_before:,}", f"{text.unknown_after:,}"],
    ]
    notes = [
        f"{percent(text.growth - 1, sign=True)} tokens; {text.unchanged_texts:,} of {text.texts:,} "
        "texts have the same tokens as before",
        f"on {proof.texts} of these and {proof.random_sequences} sequences of random tokens the "
        f"outputs ({', '.join(proof.outputs)}) differ by at most {proof.max_abs:.1g}",
    ]
    if record.left_out:
        notes.append(f"not copied, may depend on the vocabulary: {', '.join(record.left_out)}")
    return TableData(f"Held-out text ({text.source})", _COLUMNS, rows, notes)


def _latency_tables(record: TrimRecord) -> list[TableData]:
    """The predicted cost of the longer texts; no table without a device."""
    if isinstance(record.latency, NotMeasured):
        return []
    rows = [
        [
            f"{row.device}, {row.precision}",
            f"{milliseconds(row.before_ms)} ({row.length_before} tokens)",
            f"{milliseconds(row.after_ms)} ({row.length_after} tokens)",
            f"{row.cost_ms:+.2f}",
        ]
        for row in record.latency
    ]
    columns = ["encoder", "before, ms", "after, ms", "cost, ms"]
    return [TableData("Predicted time of a mean text, one thread", columns, rows)]


def _script_table(record: TrimRecord) -> TableData:
    rows = [[script.title(), f"{count:,}"] for script, count in record.dropped_by_script.items()]
    return TableData("Tokens that went, by script", ["script", "tokens"], rows)


_COLUMNS = ("", "before", "after")
_BASELINES = {
    "teacher-trimmed": "trimmed, not distilled",
    "student-untrimmed": "distilled, not trimmed",
    "student": "trimmed and distilled",
}
_REMEDIES = {
    "teacher-trimmed": "edgedistil evaluate scores it",
    "student-untrimmed": "distil the recipe without student.vocabulary as another run, then "
    "edgedistil evaluate --untrimmed-run NAME",
}

"""Tables of a trimmed vocabulary."""

from __future__ import annotations

from edgedistil.core.evaluation_records import EvaluationRecord, Summary
from edgedistil.core.records import Band, NotMeasured, provenance
from edgedistil.core.trim_records import TrimLatency, TrimProof, TrimRecord, TrimText
from edgedistil.report.trim_tables import trim_baseline_table, trim_tables


def record(**changes: object) -> TrimRecord:
    values = {
        "model": "tiny",
        "kind": "BPE",
        "vocabulary_before": 2000,
        "vocabulary_after": 1500,
        "rows_before": 2048,
        "required": 300,
        "counted_on": "text.txt",
        "counted_tokens": 70_000,
        "coverage": 0.99951,
        "dropped_by_script": {"LATIN": 480, "no letter": 20},
        "heldout": TrimText(
            source="held-out lines",
            texts=10,
            unchanged_texts=7,
            tokens_before=400,
            tokens_after=412,
            unknown_before=1,
            unknown_after=1,
        ),
        "parameters_before": 4_000_000,
        "parameters_after": 3_000_000,
        "bytes_before": 16 * 2**20,
        "bytes_after": 12 * 2**20,
        "proof": TrimProof(
            texts=7, random_sequences=8, outputs=["logits"], max_abs=3e-7, tolerance=1e-5
        ),
        "latency": NotMeasured(not_measured="no device was named"),
        "old_ids": [0, 1],
        "provenance": provenance(),
    }
    return TrimRecord.model_validate(values | changes)


def test_sizes_tokens_and_scripts_have_a_table_each() -> None:
    sizes, texts, scripts = trim_tables(record(left_out=["model.onnx"]))
    assert sizes.rows[0] == ["tokens", "2,000", "1,500"]
    assert sizes.notes[0].startswith("25.0% fewer parameters; 300 tokens have to stay")
    assert texts.rows[0] == ["tokens per text", "40.0", "41.2"]
    assert texts.notes[0].startswith("+3.0% tokens; 7 of 10 texts have the same tokens")
    assert "differ by at most 3e-07" in texts.notes[1]
    assert texts.notes[2] == "not copied, may depend on the vocabulary: model.onnx"
    assert scripts.rows == [["Latin", "480"], ["No Letter", "20"]]


def test_a_device_adds_the_predicted_cost() -> None:
    row = TrimLatency(
        device="rpi4",
        precision="int8",
        length_before=42,
        length_after=43,
        before_ms=Band(low=20, high=60),
        after_ms=Band(low=20.5, high=61.5),
        cost_ms=0.71,
    )
    table = trim_tables(record(latency=[row]))[2]
    assert table.rows == [["rpi4, int8", "20.0–60.0 (42 tokens)", "20.5–61.5 (43 tokens)", "+0.71"]]


def summary(task: str, model: str, mean: float) -> Summary:
    values = dict.fromkeys(("median", "mean", "lowest", "highest"), mean)
    return Summary(task=task, model=model, metric="accuracy", seeds=[0], **values)  # type: ignore[arg-type]


def test_measured_baselines_have_scores_and_no_advice() -> None:
    models = ("teacher-as-given", "teacher-trimmed", "student-untrimmed", "student")
    scores = [summary("sst2", model, 0.9 - index / 100) for index, model in enumerate(models)]
    evaluation = EvaluationRecord(
        cells=[], summaries=scores, retentions=[], provenance=provenance()
    )
    table = trim_baseline_table(evaluation)
    assert table.columns == ["model", "what it is", "sst2"]
    assert [row[0] for row in table.rows] == list(models)
    assert [row[2] for row in table.rows] == ["90.0", "89.0", "88.0", "87.0"]
    assert len(table.notes) == 1

"""Calls with many texts: measured with both arenas, predicted, and as a user sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgedistil.cli import app
from edgedistil.core.bulk_records import BatchRow
from edgedistil.core.errors import InputError
from edgedistil.core.options import ProfileOptions
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import Band, NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.costmodel.workload import at_batch
from edgedistil.profiling import batches
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.batches import full_batch, padded_batch
from edgedistil.profiling.counting import count_batches, count_work
from edgedistil.profiling.stage import check_options
from edgedistil.report.batch_tables import throughput_table
from edgedistil.report.load import load_results
from edgedistil.report.sections import profile_section
from tests.profiling.conftest import make_artefact, profile_latest


def test_batches_are_measured_with_and_without_the_arena(exported: RunDir) -> None:
    run, (record,) = profile_latest(batches=[4, 1, 4], lengths=[5], sentence_pairs=40)
    assert run is not None
    assert read_record(run.profile("host", "measured.batches"), ProfileRecord) == record
    assert not run.profile("host", "measured").exists(), "single texts have a file of their own"
    assert record.rows == [] and record.claims == []
    shapes = {(row.precision, row.batch, row.length, row.arena) for row in record.batches}
    assert shapes == {
        (precision, batch, 5, arena)
        for precision in ("fp32", "int8")
        for batch in (1, 4)
        for arena in (True, False)
    }
    for row in record.batches:
        assert row.role == "student" and row.valid and row.threads == 1
        assert isinstance(row.latency_ms, float) and len(row.samples_ms) >= 5
        assert row.texts_per_s() == pytest.approx(1000 * row.batch / row.latency_ms)
        assert row.tokens_per_s() == pytest.approx(5000 * row.batch / row.latency_ms)
        assert isinstance(row.peak_memory_bytes, int) and isinstance(row.after_memory_bytes, int)
        assert 2**24 < row.after_memory_bytes <= row.peak_memory_bytes
    for gain in record.sorting:
        assert gain.batch == 4 and gain.texts == 32
        assert 0 <= gain.padding_sorted < gain.padding_unsorted < 1
        assert gain.low <= gain.gain <= gain.high
    assert len(record.sorting) == 2

    titles = [table.title for table in profile_section(load_results(run)).tables]
    assert "host: measured calls with many texts (median), memory of a process" in titles
    assert any("sentence pairs of" in title for title in titles)


def test_tables_say_which_precisions_are_the_same_in_any_batch() -> None:
    rows = [make_row(precision="int8"), make_row(precision="int8-dynamic"), make_row()]
    record = ProfileRecord(
        device="host",
        method="measured",
        rows=[],
        claims=[],
        batches=rows,
        provenance=profile_provenance(),
    )
    table = throughput_table(record)
    assert "fp32, int8: a text has the same vector in any batch" in table.notes
    assert any(note.startswith("int8-dynamic: a text has another vector") for note in table.notes)
    cells = dict(zip(table.columns, table.rows[0], strict=False))
    assert cells["texts/s"] == "4,000" and cells["tokens/s"] == "64,000"


def test_a_batch_that_memory_does_not_suffice_for_is_a_row(
    exported: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "private_memory_bytes", lambda *_, **__: 2**26)
    student = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    _, (record,) = profile_latest(model=student, batches=[4096], lengths=[65], sentence_pairs=0)
    for row in record.batches:
        assert not row.valid and "not enough memory" in str(row.invalid_reason)
        assert isinstance(row.latency_ms, NotMeasured)
    table = throughput_table(record)
    assert "invalid" in table.rows[0]
    assert any("4,096 texts of 65 tokens: not enough memory" in note for note in table.notes)


def make_row(**changes: object) -> BatchRow:
    fields: dict[str, object] = {
        "model": "student",
        "role": "student",
        "task": "feature-extraction",
        "precision": "fp32",
        "artefact_sha256": "ab",
        "device": "host",
        "method": "measured",
        "runtime": "x",
        "threads": 1,
        "batch": 8,
        "length": 16,
        "arena": True,
        "latency_ms": 2.0,
        "peak_memory_bytes": 2**26,
        "after_memory_bytes": 2**25,
        "valid": True,
    }
    return BatchRow.model_validate({**fields, **changes})


def profile_provenance() -> object:
    from edgedistil.core.records import provenance

    return provenance("test")


# --- inputs --------------------------------------------------------------------------------------


def feeds(*ids: int) -> dict[str, np.ndarray]:
    row = np.array([ids])
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def test_batches_repeat_texts_or_pad_them() -> None:
    inputs = {"a": feeds(5, 6), "b": feeds(7, 8), "c": feeds(9)}
    assert full_batch(inputs, ["a", "b"], 3)["input_ids"].tolist() == [[5, 6], [7, 8], [5, 6]]
    padded = padded_batch(inputs, ["c", "a"])
    assert padded["input_ids"].tolist() == [[9, 0], [5, 6]]
    assert padded["attention_mask"].tolist() == [[1, 0], [1, 1]]


# --- predicted -----------------------------------------------------------------------------------


def test_counts_of_a_batch_are_those_of_a_call_with_it(exported: RunDir) -> None:
    for artefact in run_artefacts(exported):
        if artefact.role != "student":
            continue
        model = artefact.job_model()
        predicted = count_batches(artefact.path, [7], [1, 5], model=model)
        five = model.model_copy(update={"batch": 5})
        assert predicted[7, 5] == count_work(artefact.path, [7], model=five)[7]
        assert predicted[7, 1] == count_work(artefact.path, [7], model=model)[7]
        with pytest.raises(ValueError, match="other nodes"):
            at_batch(predicted[7, 1], predicted[7, 5][1:], 3)


def test_predicted_rows_carry_the_batch(exported: RunDir) -> None:
    run, (record,) = profile_latest(device="rpi4", batches=[1, 8], lengths=[5, 17], threads=[2])
    assert run is not None
    assert read_record(run.profile("rpi4", "predicted.batches"), ProfileRecord) == record
    rows = {(row.precision, row.length, row.batch): row for row in record.batches}
    assert len(rows) == len(record.batches) == 8
    for row in record.batches:
        assert row.method == "predicted" and row.threads == 2
        assert isinstance(row.latency_ms, Band) and isinstance(row.peak_memory_bytes, Band)
        rate = row.texts_per_s()
        assert isinstance(rate, Band) and rate.low < rate.high
    one, eight = rows["fp32", 17, 1].latency_ms, rows["fp32", 17, 8].latency_ms
    assert isinstance(one, Band) and isinstance(eight, Band)
    assert one.low < eight.low < 8 * one.low, "costs of a call are shared by its texts"
    table = throughput_table(record)
    assert "no arena: texts/s" not in table.columns
    assert any("predicted, not measured" in note for note in table.notes)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "rpi4", "emulate": True}, "--batch and --emulate exclude each other"),
        ({"tune": True}, "--batch and --tune exclude each other"),
        ({"sustained": 3}, "--batch and --sustained exclude each other"),
    ],
)
def test_options_that_exclude_batches(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options(ProfileOptions(batches=[1], **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "--batch is 0: expected 1 to 4096"),
        ("x", "'x' is not a number, or numbers with commas"),
        ("1,,2", "'1,,2' is not a number, or numbers with commas"),
        ("1,99999", "--batch is 99999: expected 1 to 4096"),
    ],
)
def test_values_that_are_no_batches(value: str, message: str, runs: Path) -> None:
    result = CliRunner().invoke(app, ["profile", "--batch", value])
    assert result.exit_code != 0
    shown = result.output + str(result.exception)
    assert message in " ".join(shown.replace("│", " ").split())


def test_a_graph_with_a_fixed_batch_is_refused() -> None:
    artefact = make_artefact("student")
    graph = type(artefact.graph)(inputs={"input_ids": "input_ids"}, batch=3)
    fixed = type(artefact)(**{**vars(artefact), "graph": graph})
    with pytest.raises(InputError, match=r"--batch: model.onnx takes 3 texts a call"):
        batches.check_free_batch(fixed)

"""Tables of a distillation and of its plan."""

from __future__ import annotations

import pytest

from edgedistil.core.distill_records import DistillRecord, PlannedDevice, PlannedModel, PlanRecord
from edgedistil.core.records import NotMeasured, provenance, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.report.distill_tables import (
    describe_initialization,
    describe_training,
    heldout_table,
    model_table,
    plan_tables,
)


@pytest.fixture
def record(full_run: RunDir) -> DistillRecord:
    return read_record(full_run.distill, DistillRecord)


def test_models_are_listed_with_their_sizes(record: DistillRecord) -> None:
    table = model_table([("teacher", record.teacher), ("student", record.student)])
    assert table.rows[1] == ["student", "student", "BertForMaskedLM", "3", "384", "17.3M", "17.1M"]
    assert [len(row) for row in table.rows] == [len(table.columns)] * 2


def test_heldout_rows_and_their_number_of_tokens(record: DistillRecord) -> None:
    table = heldout_table(record.heldout)
    assert table.rows[0] == ["teacher", "0", "3.100", "–", "41.0%", "–", "–"]
    assert table.rows[2] == ["student", "200", "3.700", "29.0%", "34.0%", "53.0%", "0.700"]
    assert "1234 selected tokens" in table.notes[0]
    assert "80% hidden by [MASK], 10% replaced, 10% visible); 987 of them" in table.notes[0]


def test_training_is_described_by_its_length_and_speed(record: DistillRecord) -> None:
    assert describe_training(record) == (
        "200 steps, 0.82M tokens in 4.2 min (3,280 tokens/s);"
        " student layers initialized from teacher layers 0, 2, 5"
    )


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("random", "student initialized at random"),
        ("runs/a/student", "student initialized from runs/a/student"),
    ],
)
def test_other_initializations(record: DistillRecord, init: str, text: str) -> None:
    assert describe_initialization(record.model_copy(update={"student_init": init})) == text


def planned(seconds: float | NotMeasured) -> PlanRecord:
    unknown = NotMeasured(not_measured="no figure for this device")
    model = PlannedModel(
        name="bert", layers=12, hidden=768, vocabulary=30522, parameters=110_000_000, how="counted"
    )
    device = PlannedDevice(
        device="8 GPUs",
        method="predicted",
        processes=8,
        micro_batch=32,
        tokens_per_s=1_234_567.0 if isinstance(seconds, float) else unknown,
        seconds=seconds,
        memory_bytes=3 * 2**30,
        device_memory_bytes=unknown,
        how="from shapes",
    )
    return PlanRecord(
        recipe="base",
        objective="mlm",
        fits_head=False,
        teacher=model,
        student=model,
        layer_map=[0],
        corpus_tokens=3_000_000_000,
        corpus_how="estimated",
        tokens=9_000_000_000,
        steps=1000,
        tokens_per_step=4096,
        precision="bfloat16",
        devices=[device],
        notes=["a note"],
        provenance=provenance(),
    )


def test_a_plan_lists_models_and_devices() -> None:
    models, devices = plan_tables(planned(7200.0))
    assert models.rows[0] == ["teacher", "bert", "12", "768", "30522", "110.0M", "counted"]
    assert models.notes[0].startswith("9,000.0M tokens in 1,000 steps of 4,096 tokens;")
    assert devices.rows == [
        ["8 GPUs", "predicted", "8", "32", "1,234,567", "2.0 h", "3.0", "–", "from shapes"]
    ]
    assert devices.notes == ["a note"]


def test_a_plan_without_a_time_gives_the_reason() -> None:
    _, devices = plan_tables(planned(NotMeasured(not_measured="no such device here")))
    row = dict(zip(devices.columns, devices.rows[0], strict=True))
    assert (row["time"], row["tokens/s"]) == ("no such device here", "–")

"""Tables of an evaluation on labelled tasks, and of an ablation study."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistil.core.evaluation_records import AblationRecord, Cell, EvaluationRecord
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.report.evaluation_tables import (
    ablation_table,
    artefact_score_table,
    evaluation_tables,
    macro_table,
    score_table,
    task_table,
)

ABSENT = NotMeasured(not_measured="one seed")


@pytest.fixture
def record(full_run: RunDir) -> EvaluationRecord:
    return read_record(full_run.evaluation, EvaluationRecord)


def with_settings(record: EvaluationRecord, **by_model: dict[str, Any]) -> EvaluationRecord:
    """Changes the hyper-parameters of the cells of each model."""
    cells: list[Cell] = []
    for cell in record.cells:
        settings = by_model.get(cell.model.replace("-", "_"), {})
        cells.append(cell.model_copy(update={"hyper_parameters": settings}))
    return record.model_copy(update={"cells": cells})


def test_empty_tables_are_left_out(record: EvaluationRecord) -> None:
    assert len(evaluation_tables(record)) == 4
    bare = record.model_copy(update={"tasks": [], "macros": [], "artefacts": []})
    assert evaluation_tables(bare) == [score_table(bare)]


def test_a_task_is_listed_with_the_papers_scores(record: EvaluationRecord) -> None:
    table = task_table(record)
    assert table.rows == [
        ["Sentence sentiment", "accuracy", "4,001", "1,301", "57.0", "93.1 / 91.7"]
    ]
    assert table.notes[0] == "Sentence sentiment: a warning of the task"


def test_a_task_that_the_paper_lacks_has_a_dash(record: EvaluationRecord) -> None:
    own = record.tasks[0].model_copy(update={"paper": None, "title": ""})
    (row,) = task_table(record.model_copy(update={"tasks": [own]})).rows
    assert (row[0], row[-1]) == ("sentiment", "–")


def test_the_settings_that_were_tried_are_listed(record: EvaluationRecord) -> None:
    assert task_table(record).notes[-1] == (
        "Sentence sentiment: one setting for all models, no other was tried (made up)"
    )
    slow, fast = {"learning_rate": 2e-5, "epochs": 4}, {"learning_rate": 1e-4, "epochs": 4}
    searched = with_settings(record, teacher=slow, student_step0=fast, student=fast)
    facts = record.tasks[0].model_copy(
        update={"settings_tried": 3, "settings_chosen_on": "801 of its 4,001 training examples"}
    )
    assert task_table(searched.model_copy(update={"tasks": [facts]})).notes[-1] == (
        "Sentence sentiment: 3 settings tried for each model, chosen on 801 of its 4,001 training"
        " examples: learning rate 2e-05 for teacher, 0.0001 for student-step0, student; epochs 4"
        " for teacher, student-step0, student"
    )


def test_models_trained_on_unlabelled_texts_are_listed(record: EvaluationRecord) -> None:
    some = with_settings(record, teacher={"unlabelled": 0}, student={"unlabelled": 1500})
    assert task_table(some).notes[-1] == (
        "Sentence sentiment: student on 1,500 more texts, without labels,"
        " from the teacher's soft targets alone"
    )


def test_scores_have_their_retention(record: EvaluationRecord) -> None:
    table = score_table(record)
    assert table.rows[0] == ["sentiment", "teacher", "83.0", "83.0", "–", "1", "–", "–"]
    retention, above_baseline = table.rows[2][-2:]
    assert retention == "98.8% (97.5%–100.2%)"
    assert above_baseline == "96.2% (92.0%–101.0%)"
    assert table.notes == [
        "scores × 100 (sentiment: accuracy)",
        "sentiment: retention is a share of the mean of teacher; baseline: a constant prediction"
        " (57.0)",
    ]


def test_several_seeds_have_a_range(record: EvaluationRecord) -> None:
    summary = record.summaries[0].model_copy(
        update={"seeds": [1, 2, 3], "lowest": 0.81, "highest": 0.85, "artefact": "int8"}
    )
    (row,) = score_table(record.model_copy(update={"summaries": [summary]})).rows
    assert row[:6] == ["sentiment", "teacher int8", "83.0", "83.0", "81.0–85.0", "3"]


def test_a_retention_without_an_interval_is_shown_alone(record: EvaluationRecord) -> None:
    plain = record.retentions[0].model_copy(
        update={"retention_low": ABSENT, "retention_high": ABSENT}
    )
    rows = score_table(record.model_copy(update={"retentions": [plain]})).rows
    assert rows[2][-2] == "98.8%"


def test_macro_scores_are_next_to_the_papers(record: EvaluationRecord) -> None:
    assert macro_table(record).rows == [["GLUE", "student", "76.13", "77.00", "–", "2"]]


def test_artefacts_have_their_drop_size_and_latency(record: EvaluationRecord) -> None:
    table = artefact_score_table(record)
    assert table.rows[1] == ["sentiment student", "int8", "80.9", "+1.13", "17", "1.9"]
    assert table.notes == ["latency: one thread of a made-up host"]


def test_the_ablation_separates_noise_from_change(full_run: RunDir) -> None:
    record = read_record(full_run.ablation, AblationRecord)
    full, without = ablation_table(record).rows
    assert full == ["full recipe", "81.17", "–", "–", "–", "–", "–"]
    assert without == [
        "without the cosine loss",
        "80.04",
        "-1.13",
        "-1.71 … -0.53",
        "0.31",
        "significant",
        "-1.46",
    ]
    noisy = record.variations[1].model_copy(update={"within_noise": True})
    (row,) = ablation_table(record.model_copy(update={"variations": [noisy]})).rows
    assert row[5] == "inconclusive"

"""Sections: what each one shows, and what it says about a stage that has not run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedistil.core.format import ABSENT
from edgedistil.core.rundir import RunDir
from edgedistil.report.load import RunResults, load_results
from edgedistil.report.sections import (
    all_sections,
    artefact_section,
    profile_section,
    provenance_section,
    quality_section,
    size_section,
)
from tests.report.test_trim_tables import record


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


def test_baselines_are_shown_whenever_a_vocabulary_was_trimmed(results: RunResults) -> None:
    title = "Cost of trimming and of distilling"
    assert title not in [table.title for table in quality_section(results).tables]
    trimmed = replace(results, trim=record())
    (table,) = [t for t in quality_section(trimmed).tables if t.title == title]
    assert [row[0] for row in table.rows] == [
        "teacher",
        "teacher-trimmed",
        "student-untrimmed",
        "student",
    ]
    # This run has no such models: their cells are empty, and the notes say what to do.
    assert set(table.rows[1][2:]) == set(table.rows[2][2:]) == {ABSENT}
    assert ABSENT not in table.rows[3][2:]
    notes = "\n".join(table.notes)
    assert "teacher-trimmed is not measured in every column: edgedistil evaluate" in notes
    assert "--untrimmed-run NAME" in notes
    assert title in size_section(trimmed).lead
    # Without an evaluation there is no such table.
    assert title not in size_section(replace(trimmed, evaluation=None)).lead


def test_sections_follow_the_stages(results: RunResults) -> None:
    anchors = [section.anchor for section in all_sections(results)]
    assert anchors == ["distillation", "size", "quality", "artefacts", "latency", "provenance"]


def test_a_stage_that_has_not_run_is_named_with_its_command(results: RunResults) -> None:
    empty = replace(
        results, distill=None, evaluation=None, ablation=None, exports=[], parities=[], profiles=[]
    )
    absent = [section.absent for section in all_sections(empty)]
    assert absent == [
        "Not run: edgedistil distill RECIPE",
        "Not run: edgedistil distill RECIPE",
        "Not run: edgedistil evaluate",
        "Not run: edgedistil export",
        "Not run: edgedistil profile",
        "",
    ]


def test_size_compares_both_models_with_published_ones(results: RunResults) -> None:
    section = size_section(results)
    (picture,) = section.pictures
    for name in ("teacher", "student", "BERT-base", "DistilBERT", "GPT-3", "this run"):
        assert f">{name}</text>" in picture.svg
    assert "17.3M parameters and the teacher 22.9M" in section.lead
    (sources,) = section.folded
    assert any("README of google-research/bert" in row[-1] for row in sources.rows)


def test_an_ablation_without_an_evaluation_is_shown(results: RunResults) -> None:
    section = quality_section(replace(results, evaluation=None))
    assert section.absent
    assert [table.title for table in section.tables] == ["Ablation"]


def test_an_artefact_without_a_parity_check_is_left_out(results: RunResults) -> None:
    table = artefact_section(replace(results, parities=results.parities[1:])).tables[0]
    assert len(table.rows) == len(results.exports) - 1


def test_latency_plots_state_their_conditions(results: RunResults) -> None:
    captions = [picture.caption for picture in profile_section(results).pictures]
    conditions = "measured on host, 1 thread, batch 1, 128 tokens, onnxruntime 1.32.0."
    assert captions == [
        f"Size against latency: {conditions}",
        f"Latency of every measured call: {conditions}",
    ]


def test_predictions_alone_have_no_plots(results: RunResults) -> None:
    predicted = [profile for profile in results.profiles if profile.method == "predicted"]
    section = profile_section(replace(results, profiles=predicted))
    assert section.pictures == []
    assert section.tables[0].title == "Claims"


def test_provenance_lists_sources_files_and_every_stage(results: RunResults) -> None:
    text, files, versions = provenance_section(results).tables
    assert text.rows[0][-1] == "121212121212"
    assert text.notes == ["2.70M tokens for training, 31.0K held out before training"]
    assert files.rows[0] == ["student-feature-extraction/onnx/model.onnx", "65", "efefefefefef"]
    stages = [row[0] for row in versions.rows]
    assert stages == [
        "distill",
        "evaluate",
        "ablate",
        "export",
        "profile host measured",
        "profile rpi4 predicted",
    ]

"""Reading a run: all records, a trace that may be truncated, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.rundir import RunDir, write_text
from edgedistil.report.load import load_results


def append_line(run: RunDir, line: str) -> None:
    write_text(run.metrics, run.metrics.read_text(encoding="utf-8") + line)


def test_all_records_of_a_run_are_read(full_run: RunDir) -> None:
    results = load_results(full_run)
    assert results.name == "made-up"
    assert results.distill is not None and results.distill.steps == 200
    assert results.recipe == 'name = "made-up"\n'
    counts = (len(results.exports), len(results.parities), len(results.profiles))
    assert counts == (4, 4, 2)
    assert len(results.trace) == 200


def test_heldout_entries_have_the_tokens_of_their_step(full_run: RunDir) -> None:
    entries = load_results(full_run).heldout_trace
    assert [entry["tokens"] for entry in entries] == [4096 * step for step in range(20, 201, 20)]


def test_step_0_has_seen_no_tokens(full_run: RunDir) -> None:
    append_line(full_run, '{"kind": "heldout", "model": "student", "step": 0}\n')
    assert load_results(full_run).heldout_trace[-1]["tokens"] == 0


def test_heldout_entries_of_other_models_and_unknown_steps_are_left_out(full_run: RunDir) -> None:
    before = load_results(full_run).heldout_trace
    append_line(full_run, '{"kind": "heldout", "model": "teacher", "step": 20}\n')
    append_line(full_run, '{"kind": "heldout", "model": "student", "step": 999}\n')
    assert load_results(full_run).heldout_trace == before


def test_a_truncated_last_line_of_the_trace_is_ignored(full_run: RunDir) -> None:
    append_line(full_run, '{"kind": "train", "st')
    assert len(load_results(full_run).trace) == 200


def test_a_broken_line_inside_the_trace_is_an_error(full_run: RunDir) -> None:
    append_line(full_run, '{"kind": \n{"kind": "other"}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 211 is not valid JSON"):
        load_results(full_run)


def test_a_run_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to report yet"):
        load_results(RunDir(tmp_path))


def test_a_corrupt_record_is_named(full_run: RunDir) -> None:
    full_run.evaluation.write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match=r"evaluation\.json"):
        load_results(full_run)


def test_a_recipe_that_cannot_be_read_is_named(full_run: RunDir) -> None:
    full_run.recipe.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match=r"cannot read .*recipe\.toml(.|\n)*restore it"):
        load_results(full_run)

"""Comparison of two runs: the same figures, the relative change, no predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedistil.core.rundir import RunDir
from edgedistil.report.diff import compare_runs
from edgedistil.report.load import RunResults, load_results


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


def by_name(this: RunResults, other: RunResults) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in compare_runs(this, other).rows}


def test_a_run_does_not_differ_from_itself(results: RunResults) -> None:
    assert compare_runs(results, results).title == "made-up compared with made-up"
    changes = {cells[-1] for cells in by_name(results, results).values()}
    assert changes == {"+0.0%"}


def test_the_change_is_relative_to_the_other_run(results: RunResults) -> None:
    assert results.distill is not None
    doubled = results.distill.model_copy(update={"tokens_seen": 2 * results.distill.tokens_seen})
    figures = by_name(replace(results, distill=doubled), results)
    assert figures["training tokens (M)"] == ["1.64", "0.82", "+100.0%"]


def test_a_figure_that_one_run_lacks_has_a_dash(results: RunResults) -> None:
    figures = by_name(results, replace(results, exports=[]))
    assert figures["student feature-extraction int8 (MiB)"] == ["17.2", "–", "–"]


def test_measured_latencies_are_compared_and_predicted_bands_are_not(results: RunResults) -> None:
    names = [name for name in by_name(results, results) if "p50" in name]
    assert len(names) == 4
    assert all(name.endswith("host measured, 1 thread, length 128") for name in names)


def test_invalid_rows_are_not_compared(results: RunResults) -> None:
    host = next(profile for profile in results.profiles if profile.device == "host")
    invalid = [row.model_copy(update={"valid": False}) for row in host.rows]
    profiles = [host.model_copy(update={"rows": invalid})]
    names = by_name(replace(results, profiles=profiles), replace(results, profiles=[]))
    assert not any("p50" in name for name in names)

"""Tables of artefacts and of their parity with PyTorch."""

from __future__ import annotations

import pytest

from edgedistil.core.export_records import RankFigures
from edgedistil.core.rundir import RunDir
from edgedistil.report.export_tables import (
    error_by_length_table,
    export_table,
    parity_length_table,
    parts_table,
    ranking_table,
    tolerance_table,
)
from edgedistil.report.load import RunResults, load_results
from tests.fixtures.small_package import invariance_record


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


def test_an_artefact_is_listed_with_its_errors(results: RunResults) -> None:
    export, parity = results.exports[1], results.parities[1]
    assert (export.model, export.precision) == (parity.model, parity.precision)
    (row,) = export_table([(export, parity)]).rows
    assert row == [
        "student feature-extraction",
        "int8",
        "17",
        "0.31",
        "0.031",
        "0.99690",
        "99.0%",
        "–",
        "passed",
    ]


def test_an_artefact_is_listed_with_its_change_by_neighbours(results: RunResults) -> None:
    export, parity = results.exports[1], results.parities[1]
    changing = parity.model_copy(update={"invariance": invariance_record(0.25)})
    same = parity.model_copy(update={"invariance": invariance_record(0.0)})
    table = export_table([(export, changing), (export, same)])
    assert table.columns[-2] == "change by neighbours"
    assert [row[-2] for row in table.rows] == ["0.25", "none"]


def test_rankings_are_listed_where_there_are_any(results: RunResults) -> None:
    ranking = RankFigures(
        texts=200,
        similarity="cosine",
        top10_overlap=0.985,
        rank_correlation=0.9991,
        vector_cosine_min=0.99712,
        vector_cosine_mean=0.99934,
    )
    first, second = results.parities[:2]
    table = ranking_table([first, second.model_copy(update={"ranking": ranking})])
    assert table is not None
    cells = ["int8", "0.99712", "0.99934", "98.5%", "0.9991", "200"]
    assert table.rows == [["student feature-extraction", *cells]]
    assert len(table.columns) == len(table.rows[0])
    assert ranking_table([first]) is None


def test_a_failed_parity_check_is_in_capitals(results: RunResults) -> None:
    failed = results.parities[0].model_copy(update={"passed": False})
    (row,) = export_table([(results.exports[0], failed)]).rows
    assert row[-1] == "FAILED"


def test_errors_by_length(results: RunResults) -> None:
    table = error_by_length_table(results.parities)
    assert table.columns == ["artefact", "precision", "8", "32", "128"]
    assert table.rows[1] == ["student feature-extraction", "int8", "0.31", "0.35", "0.4"]


def test_a_length_that_one_artefact_lacks_has_a_dash(results: RunResults) -> None:
    short = results.parities[0].model_copy(update={"by_length": results.parities[0].by_length[:1]})
    table = error_by_length_table([short, results.parities[3]])
    assert table.rows[0][2:] == ["2e-06", "–", "–"]


def test_parity_of_each_length(results: RunResults) -> None:
    table = parity_length_table(results.parities[1])
    assert table.title == "student feature-extraction int8: parity by length"
    assert [row[0] for row in table.rows] == ["8", "32", "128"]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_tolerances_have_their_reason(results: RunResults) -> None:
    parity = results.parities[1]
    assert tolerance_table(parity).rows == [
        ["max_abs", "at most 1", "0.31", "passed", "invented for a test"]
    ]
    failed = parity.results[0].model_copy(update={"holds": False})
    (row,) = tolerance_table(parity.model_copy(update={"results": [failed]})).rows
    assert row[3] == "FAILED"


def test_parts_of_any_artefact_are_columns(results: RunResults) -> None:
    headless, other = results.exports[0], results.exports[1]
    with_head = other.model_copy(update={"bytes_by_part": {"embeddings": 2**21, "head": 2**20}})
    table = parts_table([headless, with_head])
    assert table.columns[2:] == ["embeddings", "attention", "feed-forward", "head"]
    assert table.rows[1][2:] == ["2.0", "0.0", "0.0", "1.0"]

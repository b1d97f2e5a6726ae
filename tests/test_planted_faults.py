"""A sample of the planted faults of benchmarks/planted_faults.py, judged by the real gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.planted.faults import FAULTS, Fault
from benchmarks.planted.package_faults import PACKAGE_FAULTS
from benchmarks.planted.plant import Plant
from benchmarks.planted.suite import (
    SUBJECTS,
    Exported,
    caught_by,
    export_subject,
    plant_all,
    plant_in_package,
)
from benchmarks.planted_faults import KINDS, documents, table, train_tokenizer

# Two of each kind, which no other test has.
SAMPLE = {
    "two words exchanged",
    "1% of the weights of query are 0",
    "a norm times 1.05",
    "two heads exchanged",
    "query and key exchanged in the scores",
    "mask of -10",
    "scores times 1.01",
    "wrong where the length is not a multiple of 2",
    "texts from the third on wrong",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A classifier of several labels; its sound artefacts have passed."""
    root = tmp_path_factory.mktemp("planted")
    text = documents()
    (subject,) = (subject for subject in SUBJECTS if subject.name == "multi-label")
    tokenizer = train_tokenizer(text, root / "tokenizer")
    return export_subject(subject, tokenizer, text, root, precisions=("fp32", "int8"))


def sample() -> list[Fault]:
    faults = [fault for fault in FAULTS if fault.name in SAMPLE]
    assert {fault.name for fault in faults} == SAMPLE
    return faults


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_harmful_fault_of_the_sample_is_caught(
    precision: str, exported: Exported, tmp_path: Path
) -> None:
    assert caught_by(exported.file(precision), exported, precision) == ()
    planted = list(plant_all(exported, precision, sample(), tmp_path))
    assert [row.fault for row in planted if row.outcome in {"missed", "absent"}] == []
    assert sum(row.outcome == "caught" for row in planted) >= 7


def test_faults_in_the_package_are_caught(exported: Exported, tmp_path: Path) -> None:
    planted = [plant_in_package(exported, fault, tmp_path) for fault in PACKAGE_FAULTS]
    assert {row.outcome for row in planted} == {"caught"}


def test_a_fault_that_changes_nothing_is_harmless(exported: Exported, tmp_path: Path) -> None:
    def rename(plant: Plant) -> bool:
        plant.graph.name = "another name"
        return True

    fault = Fault("another name", "wiring", rename)
    (row,) = plant_all(exported, "int8", [fault], tmp_path)
    assert (row.share, row.outcome, row.by) == (0.0, "harmless", ())


def test_the_suite_has_sixty_faults_in_five_kinds() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))
    assert len(names) + len(PACKAGE_FAULTS) >= 60
    assert {fault.kind for fault in FAULTS} == set(KINDS[:-1])


def test_planted_weights_differ_in_the_one_place(exported: Exported) -> None:
    plant = Plant(exported.file("fp32"))
    (fault,) = (fault for fault in FAULTS if fault.name == "two words exchanged")
    (name,) = plant.weights(r"word_embeddings\.weight$")
    before = plant.array(name)
    assert fault.apply(plant)
    changed = np.flatnonzero((plant.array(name) != before).any(axis=1))
    assert changed.tolist() == [len(before) - 5, len(before) - 2]


def test_the_table_counts_outcomes(exported: Exported, tmp_path: Path) -> None:
    rows = [plant_in_package(exported, fault, tmp_path) for fault in PACKAGE_FAULTS[:2]]
    assert table(rows).splitlines()[-1] == "| package | multi-label |  |  |  |  |  | 2 / 0 / 0 |"

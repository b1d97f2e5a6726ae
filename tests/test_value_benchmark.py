"""The experiment on the worth of distillation: its rule on records whose outcome is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TEXTS, QUERIES, DRAWS, PAIRS = 400, 300, 4, 500


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import value_report

        yield value_report
    finally:
        sys.path.remove(str(BENCHMARKS))


def record(report: ModuleType, arm: str, seed: int, *, quality: float) -> dict[str, Any]:
    """A record of a model that is right about this share of everything."""
    generator = np.random.default_rng([seed, *arm.encode()])
    cosines = np.random.default_rng(0).normal(size=PAIRS)
    noise = generator.normal(size=PAIRS) * (1 - quality)
    correct = [generator.random(TEXTS) < quality for _ in range(DRAWS)]
    hits = generator.random(QUERIES) < quality
    packed = sys.modules["value_judge"].pack(correct)
    return {
        "arm": arm,
        "seed": seed,
        "tokens": 0,
        "measured": {"machine": "a machine", "cores": 2, "versions": {}},
        "cosines": np.rint((cosines + noise) * 1e5).astype(int).tolist(),
        "ranks": hits.astype(int).tolist(),
        "ndcg": {"code": hits.astype(float).tolist(), "manual": hits.astype(float).tolist()},
        "correct": {"sentiment": packed, "topics": packed},
        "cloze": None,
    }


def outcome(report: ModuleType, folder: Path, qualities: dict[str, list[float]]) -> str:
    """The page for models of these qualities, one for each distillation."""
    for arm, by_seed in {"teacher": [1.0], **qualities}.items():
        for seed, quality in enumerate(by_seed):
            path = folder / f"{arm}-{seed}.json"
            path.write_text(json.dumps(record(report, arm, seed, quality=quality)))
    arms = report.read_arms(folder)
    everything = report.measures(arms)
    differences = dict(report.differences_from_control(arms, everything))
    page: str = report.render(arms, everything, differences)
    return page


def test_a_better_student_helps_and_a_worse_one_harms(report: ModuleType, tmp_path: Path) -> None:
    qualities = {"A0": [0.6], "A1": [0.8, 0.81, 0.79], "A2": [0.4, 0.41, 0.39]}
    page = outcome(report, tmp_path, qualities)
    assert "- A1: distillation helps\n" in page
    assert "- A2: distillation harms; behind on " in page


def test_students_that_differ_by_more_than_their_lead_show_nothing(
    report: ModuleType, tmp_path: Path
) -> None:
    page = outcome(report, tmp_path, {"A0": [0.6], "A1": [0.5, 0.7, 0.66]})
    assert "- A1: inconclusive" in page


def test_two_distillations_give_no_verdict(report: ModuleType, tmp_path: Path) -> None:
    page = outcome(report, tmp_path, {"A0": [0.6], "A1": [0.8, 0.81]})
    assert "- A1: no verdict, 2 of 3 distillations" in page


def test_records_without_control_are_refused(report: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "A1-0.json").write_text(json.dumps(record(report, "A1", 0, quality=0.7)))
    with pytest.raises(SystemExit, match="no record of teacher"):
        report.read_arms(tmp_path)


def test_bits_survive_packing(report: ModuleType) -> None:
    judge = sys.modules["value_judge"]
    draws = [np.arange(13) % 3 == 0, np.arange(13) % 2 == 0]
    assert (judge.unpack(judge.pack(draws)) == np.stack(draws)).all()


def test_ndcg_of_a_rank_is_trec_evals(report: ModuleType) -> None:
    values = report.ndcg_of_ranks([0, 1, 2, 10])
    assert values == pytest.approx([0, 1, 1 / np.log2(3), 1 / np.log2(11)])

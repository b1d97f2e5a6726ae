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

from tests.report.conftest import distilled

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


@pytest.fixture(scope="module")
def judge(report: ModuleType) -> ModuleType:
    assert report is not None
    return sys.modules["value_judge"]


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


def test_held_out_figures_are_selected_by_model_and_step(judge: ModuleType) -> None:
    record = distilled()
    teacher, step_0, student = record.heldout
    assert judge.heldout_figures(record, "teacher") is teacher
    assert judge.heldout_figures(record, "student-step0") is step_0
    assert judge.heldout_figures(record, "student") is student
    assert judge.cloze(record, "student") == pytest.approx(0.29)
    # The figure of step 0 was not measured in this record.
    assert judge.cloze(record, "student-step0") is None
    without = record.model_copy(update={"heldout": [teacher]})
    with pytest.raises(SystemExit, match="no held-out figures of student at step 0"):
        judge.heldout_figures(without, "student-step0")


def test_a_student_at_step_0_with_an_mlm_head_has_a_cloze(judge: ModuleType) -> None:
    record = distilled()
    step_0 = record.heldout[1].model_copy(update={"top1_hidden": 0.07})
    measured = record.model_copy(update={"heldout": [step_0]})
    assert judge.cloze(measured, "student-step0") == 0.07


def model_folder(path: Path, weights: bytes) -> Path:
    path.mkdir()
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_part_c_is_only_added_to_a_record_of_the_same_weights(
    judge: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "fine_tuned", lambda folder: {"of": folder.name})
    ours, other = model_folder(tmp_path / "ours", b"1"), model_folder(tmp_path / "other", b"2")
    before = {"arm": "A1", "weights_sha256": judge.weights_sha256(ours)}
    path = tmp_path / "A1-56.json"
    assert judge.with_fine_tuned(path, before, ours) == {**before, "fine_tuned": {"of": "ours"}}
    with pytest.raises(SystemExit, match="is of other weights than"):
        judge.with_fine_tuned(path, before, other)
    with pytest.raises(SystemExit, match="does not exist; judge"):
        judge.with_fine_tuned(path, None, ours)


def test_a_record_without_digest_is_recognized_by_its_cosines(
    judge: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    cosines = generator.integers(0, 100_000, 300)
    again = cosines[:100] + generator.integers(-100, 100, 100)
    monkeypatch.setattr(judge, "fine_tuned", lambda _folder: {})
    folder = model_folder(tmp_path / "ours", b"1")
    path = tmp_path / "A1-56.json"

    monkeypatch.setattr(judge, "first_cosines", lambda _folder: again)
    record = judge.with_fine_tuned(path, {"cosines": cosines.tolist()}, folder)
    assert record["weights_sha256"] == judge.weights_sha256(folder)

    monkeypatch.setattr(judge, "first_cosines", lambda _folder: again[::-1])
    with pytest.raises(SystemExit, match="is of other weights than"):
        judge.with_fine_tuned(path, {"cosines": cosines.tolist()}, folder)


def test_judging_again_drops_part_c_of_other_weights(
    judge: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, part_c = tmp_path / "A1-56.json", {"fine_tuned": {"sentiment": {}}}
    record = {"weights_sha256": "ab", "cosines": [1000] * 100}
    assert judge.fine_tuned_before(path, None, record) == {}
    assert judge.fine_tuned_before(path, {**record, **part_c}, record) == part_c
    without = {"cosines": [1001] * 100, **part_c}
    assert judge.fine_tuned_before(path, without, record) == part_c
    assert capsys.readouterr().out == ""
    others = ({**record, **part_c, "weights_sha256": "cd"}, {**without, "cosines": [9000] * 100})
    for other in others:
        assert judge.fine_tuned_before(path, other, record) == {}
        assert "of other weights; its part (c) is dropped" in capsys.readouterr().out


def test_a_record_is_written_in_a_new_folder(judge: ModuleType, tmp_path: Path) -> None:
    judge.save(tmp_path / "value" / "A1-56.json", {"arm": "A1", "cosines": [1, 2]})
    text = (tmp_path / "value" / "A1-56.json").read_text()
    assert text == '{"arm":"A1","cosines":[1,2]}\n'


def test_bits_survive_packing(judge: ModuleType) -> None:
    draws = [np.arange(13) % 3 == 0, np.arange(13) % 2 == 0]
    assert (judge.unpack(judge.pack(draws)) == np.stack(draws)).all()


def test_ndcg_of_a_rank_is_trec_evals(report: ModuleType) -> None:
    values = report.ndcg_of_ranks([0, 1, 2, 10])
    assert values == pytest.approx([0, 1, 1 / np.log2(3), 1 / np.log2(11)])

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
from numpy.typing import NDArray
from scipy import stats

from tests.report.conftest import distilled

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TEXTS, QUERIES, DRAWS, PAIRS = 400, 300, 4, 20_000


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


@pytest.fixture(scope="module")
def scores(report: ModuleType) -> ModuleType:
    assert report is not None
    return sys.modules["value_scores"]


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


def test_ndcg_of_a_rank_is_trec_evals(scores: ModuleType) -> None:
    values = scores.ndcg_of_ranks([0, 1, 2, 10])
    assert values == pytest.approx([0, 1, 1 / np.log2(3), 1 / np.log2(11)])


# --- noise of the rank correlation ---------------------------------------------------------------


def spearman_with_weights(
    left_P: NDArray[np.int64], right_P: NDArray[np.int64], weights_P: NDArray[np.float64]
) -> float:
    """Spearman's correlation of a weighted sample, from its definition."""
    ranks = []
    for values_P in (left_P, right_P):
        below_PP = values_P[None, :] < values_P[:, None]
        equal_PP = values_P[None, :] == values_P[:, None]
        ranks.append((below_PP + equal_PP / 2) @ weights_P)
    covariance_22 = np.cov(np.stack(ranks), aweights=weights_P)
    return float(covariance_22[0, 1] / np.sqrt(covariance_22[0, 0] * covariance_22[1, 1]))


def test_an_influence_is_the_derivative_of_spearmans_correlation(scores: ModuleType) -> None:
    generator = np.random.default_rng(0)
    # Many of the values are equal.
    left_P = generator.integers(0, 20, 101)
    right_P = left_P + generator.integers(-10, 10, 101)
    correlation, influence_P = scores.spearman(left_P, right_P)
    assert correlation == pytest.approx(stats.spearmanr(left_P, right_P)[0])
    assert influence_P.sum() == pytest.approx(0, abs=1e-9)
    equal_P, step = np.full(101, 1 / 101), 1e-5
    for pair in range(101):
        towards_P = np.eye(101)[pair] - equal_P
        ends = [
            spearman_with_weights(left_P, right_P, equal_P + sign * step * towards_P)
            for sign in (1, -1)
        ]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(influence_P[pair], abs=1e-5)


def test_pairs_without_common_texts_have_the_bootstraps_noise(scores: ModuleType) -> None:
    pairs = 400
    generator = np.random.default_rng(0)
    teacher_P = generator.normal(size=pairs)
    good_P, bad_P = (teacher_P + scale * generator.normal(size=pairs) for scale in (0.5, 2))
    influence_P = scores.spearman(good_P, teacher_P)[1] - scores.spearman(bad_P, teacher_P)[1]
    apart_2P = np.arange(2 * pairs).reshape(2, pairs)
    differences = []
    for _ in range(1000):
        drawn = generator.integers(0, pairs, pairs)
        good, bad = (stats.spearmanr(x[drawn], teacher_P[drawn])[0] for x in (good_P, bad_P))
        differences.append(good - bad)
    error = np.sqrt(scores.dyadic_variance(influence_P, apart_2P))
    assert error == pytest.approx(np.std(differences), rel=0.1)


def test_pairs_with_common_texts_have_the_noise_of_other_texts(scores: ModuleType) -> None:
    """Compared with the spread over many samples of texts."""
    texts, pairs = 200, 600
    generator = np.random.default_rng(0)
    correlations, errors, apart = [], [], []
    for _ in range(200):
        texts_2P = generator.integers(0, texts, (2, pairs))
        of_text_T, error_T = generator.normal(size=(2, texts))
        left_P = of_text_T[texts_2P].sum(axis=0) + generator.normal(size=pairs)
        right_P = (of_text_T + error_T)[texts_2P].sum(axis=0)
        correlation, influence_P = scores.spearman(left_P, right_P)
        correlations.append(correlation)
        errors.append(scores.dyadic_variance(influence_P, texts_2P))
        apart.append((influence_P**2).mean() / pairs)
    spread = np.std(correlations)
    assert np.sqrt(np.mean(errors)) == pytest.approx(spread, rel=0.15)
    assert np.sqrt(np.mean(apart)) < 0.7 * spread


def test_the_same_two_texts_are_one_pair(scores: ModuleType) -> None:
    once = scores.dyadic_variance(np.array([2.0, 2.0]), np.array([[0, 2], [1, 3]]))
    # A pair that is there twice, in either order, moves the score twice as much.
    twice = scores.dyadic_variance(np.ones(4), np.array([[0, 1, 2, 3], [1, 0, 3, 2]]))
    assert (once, twice) == (8 / 4, 8 / 16)


def test_seeds_add_to_the_noise_of_pairs(scores: ModuleType) -> None:
    texts_2P = np.array([[0, 2], [1, 3]])
    influence_SP = np.array([[1.0, -1.0], [1.0, -1.0]])
    control = scores.PairScores(np.array([0.5]), influence_SP[:1] * 3, texts_2P, trained=False)
    ours = scores.PairScores(np.array([0.7, 0.9]), influence_SP, texts_2P)
    noise = scores.difference_noise(ours, control)
    # Influences of 1 − 3 on both pairs; two seeds that differ by 0.2.
    assert noise.of_examples == pytest.approx(2 * 2**2 / 2**2)
    assert noise.of_seeds == ((pytest.approx(0.01), 1),)
    with pytest.raises(TypeError, match="of the same kind"):
        scores.difference_noise(ours, scores.of_seeds_alone(np.array([0.5])))

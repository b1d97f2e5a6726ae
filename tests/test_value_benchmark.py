"""The experiment on the worth of distillation: its rule on records whose outcome is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from edgedistil.core.recipe import load_recipe
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.examples import Example
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


def record(arm: str, seed: int, *, quality: float) -> dict[str, Any]:
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
        "weights_sha256": f"{arm} {seed}",
        "teacher_sha256": "teacher 0",
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
            path.write_text(json.dumps(record(arm, seed, quality=quality)))
    arms = report.read_arms(folder)
    measures = report.all_measures(arms, {})
    differences = dict(report.differences_from_control(arms, measures))
    page: str = report.render(arms, measures, differences)
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
    (tmp_path / "A1-0.json").write_text(json.dumps(record("A1", 0, quality=0.7)))
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


def test_a_record_is_of_one_model(judge: ModuleType, tmp_path: Path) -> None:
    ours, other = model_folder(tmp_path / "ours", b"1"), model_folder(tmp_path / "other", b"2")
    path, sha256 = tmp_path / "A1-56.json", judge.weights_sha256(ours)
    assert judge.record_before(path, sha256) == {}
    judge.save(path, {"arm": "A1", "weights_sha256": sha256})
    assert judge.record_before(path, sha256) == {"arm": "A1", "weights_sha256": sha256}
    with pytest.raises(SystemExit, match="is of other weights; remove it"):
        judge.record_before(path, judge.weights_sha256(other))


def test_the_teacher_is_the_one_without_a_fitted_head(judge: ModuleType, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert judge.MODELS["teacher"](run) == run.teacher
    run.teacher_as_given.mkdir()
    assert judge.MODELS["teacher"](run) == run.teacher_as_given


def test_an_arm_is_judged_on_runs_of_its_recipe(judge: ModuleType) -> None:
    recipe = load_recipe(BENCHMARKS / "value" / "a1.toml")
    judge.check_arm(recipe, "A1", "student")
    judge.check_arm(recipe, "A0", "student-step0")
    with pytest.raises(SystemExit, match="A2 is distilled by recipe value-a2, and this run by"):
        judge.check_arm(recipe, "A2", "student")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"weights_sha256": "A1 0"}, "two records of arm A1 are of the same weights"),
        ({"teacher_sha256": "another"}, "A1, seed 1: of another teacher"),
        ({"tokens": 900}, "students of 900 to 1,000 tokens do not compare"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(
    report: ModuleType, change: dict[str, Any], problem: str
) -> None:
    first, second = ({**record("A1", seed, quality=0.7), "tokens": 1000} for seed in range(2))
    teacher = record("teacher", 0, quality=1.0)
    with pytest.raises(SystemExit, match=problem):
        report.check_records({"teacher": [teacher], "A1": [first, {**second, **change}]})


# --- what is judged ------------------------------------------------------------------------------


def few_texts(data: ModuleType) -> Any:
    """Twelve labelled texts in three folds, of which two are judged."""
    examples = tuple(Example((f"text {i}",), float(i % 2)) for i in range(12))
    return data.FewLabels("sentiment", examples, np.arange(12) % 3, (0, 2))


def test_no_classifier_sees_the_fold_that_it_is_judged_on(
    judge: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = few_texts(sys.modules["value_data"])
    for number in range(20):
        for fold in task.judged_folds:
            drawn = task.draw(number, fold, 5)
            assert len(set(drawn)) == 5 and not (task.fold[drawn] == fold).any()
    monkeypatch.setattr(judge, "FEW_LABELS", 6)
    # Vectors that are the labels are classified without a fault, random ones are not.
    packed = judge.few_labels(task, np.stack([task.labels, 1 - task.labels], axis=1))
    assert (packed["texts"], len(packed["draws"])) == (8, judge.DRAWS)
    assert judge.unpack(packed).all()
    noise = np.random.default_rng(0).normal(size=(12, 2))
    assert 0.2 < judge.unpack(judge.few_labels(task, noise)).mean() < 0.8


def test_ranks_of_verses_put_the_right_one_last_among_equals(
    judge: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"1001{i:03}" for i in range(13)]
    vectors = {name: np.eye(13, dtype=np.float32)[i] for i, name in enumerate(names)}
    # Three verses with equal vectors, of which each is the right one of one query.
    for name in names[3:5]:
        vectors[name] = vectors[names[2]]
    texts = SimpleNamespace(queries={n: n for n in names}, documents={n: n for n in names})
    monkeypatch.setattr(judge, "all_verses", lambda: texts)
    model = SimpleNamespace(embed=lambda texts, *_: np.stack([vectors[text] for text in texts]))
    assert judge.ranks_of_verses(model)[:6] == [1, 1, 3, 3, 3, 1]


def test_texts_of_a_group_are_resampled_together(scores: ModuleType) -> None:
    """20 groups of 50 equal texts have the noise of 20 texts."""
    generator = np.random.default_rng(0)
    of_groups = generator.random(20)
    group_N = np.repeat(np.arange(20), 50)
    together = scores.text_scores(of_groups[group_N][None], group_N)
    alone = scores.text_scores(of_groups[None])
    assert together.resampled_SR == pytest.approx(alone.resampled_SR)
    assert together.resampled_SR.std() == pytest.approx(of_groups.std() / np.sqrt(20), rel=0.1)
    one_by_one = scores.text_scores(of_groups[group_N][None])
    assert one_by_one.resampled_SR.std() < together.resampled_SR.std() / 5


def test_few_draws_are_as_uncertain_as_few_seeds(judge: ModuleType, scores: ModuleType) -> None:
    rights = [np.arange(100) < count for count in (50, 60, 70, 80)]
    control = judge.pack([np.arange(100) < 50] * 4)
    differences = [scores.accuracies([packed]) for packed in (judge.pack(rights), control)]
    noise = scores.difference_noise(*differences)
    expected = np.var([0.0, 0.1, 0.2, 0.3], ddof=1) / 4
    assert noise.of_seeds == ((pytest.approx(expected), 3),)
    # Two tasks with draws of their own.
    both = [scores.mean_of([one, one]) for one in differences]
    assert scores.difference_noise(*both).of_seeds == ((pytest.approx(expected / 4), 3),) * 2
    assert scores.paired_noise(scores.paired(*differences)).of_seeds[-1] == (
        pytest.approx(expected),
        3,
    )


def test_judged_groups_are_modules_books_and_films() -> None:
    data = sys.modules["value_data"]
    groups = data.judged_groups()
    counts = {name: len(set(group_N.tolist())) for name, group_N in groups.items()}
    assert counts == {
        "verses": 66,
        "code": 292,
        "manual": 71,
        "sentiment": 508,
        "topics": len(groups["topics"]),
    }


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

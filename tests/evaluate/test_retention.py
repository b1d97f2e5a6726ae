"""Retention by hand, and intervals that contain the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistil.core.records import NotMeasured
from edgedistil.evaluate import retention as retention_module
from edgedistil.evaluate.retention import (
    Interval,
    Predictions,
    RetentionEstimate,
    SeedScores,
    constant_scores,
    estimate_difference,
    estimate_macro_retention,
    estimate_retention,
    seed_scores,
)

N = 211
LABELS = np.arange(N) % 2.0


def model(accuracy: float, seeds: int = 3, noise: float = 0.0) -> Predictions:
    """A model that is right on the first share of a fixed shuffle of the dev set."""
    by_seed = {}
    for seed in range(1, seeds + 1):
        order = np.random.default_rng(11).permutation(N)
        wrong = order[round((accuracy + noise * (seed - 2)) * N) :]
        predicted = LABELS.copy()
        predicted[wrong] = 1 - predicted[wrong]
        by_seed[seed] = predicted
    return Predictions("accuracy", LABELS, by_seed)


def estimate(teacher: Predictions, student: Predictions) -> RetentionEstimate:
    baseline = constant_scores(teacher, 0.0)
    return estimate_retention(seed_scores(teacher), seed_scores(student), baseline)


def width(interval: Interval) -> float:
    assert isinstance(interval.low, float) and isinstance(interval.high, float)
    return interval.high - interval.low


def test_retention_plain_and_above_the_baseline_by_hand() -> None:
    result = estimate(model(0.9), model(0.8))
    # 190 and 169 of 211 are right; the constant 0 is right on 106.
    assert result.retention == pytest.approx(169 / 190)
    assert result.retention_above_baseline == pytest.approx((169 - 106) / (190 - 106))
    assert result.seeds == 3


def test_interval_holds_the_figure() -> None:
    result = estimate(model(0.9), model(0.8))
    plain, above = result.retention_interval, result.retention_above_baseline_interval
    assert plain.low < result.retention < plain.high
    assert above.low < result.retention_above_baseline < above.high


def test_pairing_makes_equal_models_certain() -> None:
    result = estimate(model(0.8), model(0.8))
    assert (result.retention_interval.low, result.retention_interval.high) == (1.0, 1.0)


def test_seeds_that_differ_widen_the_interval() -> None:
    equal = estimate(model(0.9), model(0.8)).retention_interval
    different = estimate(model(0.9), model(0.8, noise=0.1)).retention_interval
    assert width(different) > 1.5 * width(equal)


def test_one_seed_has_no_interval() -> None:
    one = estimate(model(0.9, seeds=1), model(0.8, seeds=1))
    assert one.retention == pytest.approx(169 / 190)
    for bound in (one.retention_interval.low, one.retention_above_baseline_interval.high):
        assert bound == NotMeasured(not_measured="an interval needs at least 2 seeds, got 1")
    assert one.interval.startswith("no interval: one seed")
    three = estimate(model(0.9), model(0.8))
    assert "3 seeds or more" in three.interval


def test_the_model_with_fewer_seeds_counts() -> None:
    assert estimate(model(0.9, seeds=5), model(0.8, seeds=2)).seeds == 2


def test_teacher_at_the_baseline_leaves_nothing_to_retain() -> None:
    at_baseline = model(0.5)
    constant = constant_scores(at_baseline, 0.0)
    assert seed_scores(at_baseline).mean <= constant.mean
    result = estimate(at_baseline, at_baseline)
    assert isinstance(result.retention_above_baseline, NotMeasured)
    assert isinstance(result.retention_above_baseline_interval.low, NotMeasured)
    assert result.retention == 1.0


def test_a_teacher_hardly_above_the_baseline_has_no_interval_of_the_gain() -> None:
    result = estimate(model(0.56), model(0.55))
    assert isinstance(result.retention_above_baseline, float)
    low = result.retention_above_baseline_interval.low
    assert isinstance(low, NotMeasured) and "by much more than the noise" in low.not_measured


def test_a_random_student_can_be_the_baseline() -> None:
    teacher, student, floor = (seed_scores(model(score)) for score in (0.9, 0.8, 0.6))
    result = estimate_retention(teacher, student, floor)
    assert result.retention_above_baseline == pytest.approx((169 - 127) / (190 - 127))
    absent = NotMeasured(not_measured="student-random was not scored on this task")
    assert estimate_retention(teacher, student, absent).retention_above_baseline == absent


def test_same_interval_each_time() -> None:
    first, second = (estimate(model(0.9), model(0.8)) for _ in range(2))
    assert first == second


def test_spans_are_means_of_questions() -> None:
    scores = np.linspace(0, 1, 101)
    spans = Predictions("f1", scores, {1: scores, 2: scores}, holds_scores=True)
    result = estimate(spans, spans)
    assert result.retention_above_baseline_interval.low == pytest.approx(1.0)


# --- several tasks -------------------------------------------------------------------------------


def test_differences_are_over_tasks_and_signed() -> None:
    before = [seed_scores(model(0.9)), seed_scores(model(0.7))]
    after = [seed_scores(model(0.8)), seed_scores(model(0.7))]
    change, interval, noise = estimate_difference(before, after, [0.5, 0.5])
    assert change == pytest.approx((169 - 190) / 211 / 2)
    assert interval.low < change < interval.high < 0
    # The task that did not change has no weight here, and the interval is the first task's.
    alone = estimate_difference(before[:1], after[:1], [0.5])
    assert (interval, noise.of_examples) == (alone[1], pytest.approx(alone[2].of_examples))


def test_macro_retention_is_the_ratio_of_the_means_over_tasks() -> None:
    teacher = [seed_scores(model(score)) for score in (0.9, 0.7)]
    student = [seed_scores(model(score)) for score in (0.8, 0.7)]
    ratio, interval, noise = estimate_macro_retention(teacher, student)
    assert ratio == pytest.approx((169 + 148) / (190 + 148))
    assert interval.low < ratio < interval.high
    assert noise.fewest_seeds == 3
    # Two tasks average their noise: the interval is narrower than that of the task which differs.
    single = estimate(model(0.9), model(0.8)).retention_interval
    assert width(interval) < width(single)


# --- coverage ------------------------------------------------------------------------------------

WORLDS = 500
EXAMPLES = 200
TEACHER, STUDENT = 0.795, 0.775


def world(random: np.random.Generator, seeds: int, spread: float) -> tuple[SeedScores, SeedScores]:
    """Teacher and student of a world in which their true accuracies are known.

    Examples are hard or easy for both models; seeds move a model's accuracy by `spread`.
    """
    hardness_N = random.standard_normal(EXAMPLES)
    scored = []
    for accuracy in (TEACHER, STUDENT):
        by_seed = {}
        for seed in range(seeds):
            own_N = random.standard_normal(EXAMPLES)
            latent_N = np.sqrt(0.7) * hardness_N + np.sqrt(0.3) * own_N
            share = accuracy + spread * random.standard_normal()
            by_seed[seed] = (latent_N < retention_module.stats.norm.ppf(share)).astype(float)
        labels = np.zeros(EXAMPLES)
        scored.append(seed_scores(Predictions("f1", labels, by_seed, holds_scores=True)))
    return scored[0], scored[1]


def coverage(seeds: int, spread: float, *, shrink: float = 1.0) -> float | None:
    """Share of the intervals that contain the true retention; None without intervals."""
    random = np.random.default_rng(3)
    nothing = NotMeasured(not_measured="not of interest")
    hits = 0
    for _ in range(WORLDS):
        teacher, student = world(random, seeds, spread)
        result = estimate_retention(teacher, student, nothing)
        interval = result.retention_interval
        if isinstance(interval.low, NotMeasured) or isinstance(interval.high, NotMeasured):
            return None
        half = shrink * (interval.high - interval.low) / 2
        hits += abs(float(result.retention) - STUDENT / TEACHER) <= half
    return hits / WORLDS


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "RESAMPLES", 100)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("seeds", "spread"),
    [(1, 0.007), (2, 0.0025), (2, 0.015), (3, 0.0025), (3, 0.015), (5, 0.0025), (5, 0.015)],
)
def test_intervals_contain_the_truth_in_95_percent_of_worlds(seeds: int, spread: float) -> None:
    share = coverage(seeds, spread)
    # Of one seed no interval is printed.
    assert (share is None) == (seeds == 1)
    assert share is None or 0.92 <= share <= 0.98


@pytest.mark.usefixtures("few_resamples")
def test_coverage_of_narrower_intervals_fails() -> None:
    share = coverage(3, 0.007, shrink=0.7)
    assert share is not None and share < 0.92

"""Scores of predictions, defined also where scikit-learn and scipy return NaN.

`score` computes what tables show, `resampled_scores` the same figures for many bootstrap resamples
at once (docs/decisions.md#the-bootstrap-has-its-own-fast-metrics).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Metrics that are the plain mean of two others.
_MEANS = {"accuracy_f1": ("accuracy", "f1"), "pearson_spearman": ("pearson", "spearman")}
CLASS_METRICS = ("accuracy", "f1", "macro_f1", "matthews", "accuracy_f1")
# Metrics that are about class 1 of two.
TWO_CLASS_METRICS = ("f1", "accuracy_f1")
VALUE_METRICS = ("pearson", "spearman", "pearson_spearman")
SPAN_METRICS = ("f1", "em")
# Metrics that a constant prediction has no value of: 0 is a definition there, not a baseline.
CORRELATIONS = ("matthews", *VALUE_METRICS)


# --- one score -----------------------------------------------------------------------------------


def score(metric: str, labels: Floats, predictions: Floats) -> tuple[dict[str, float], list[str]]:
    """Computes a metric and the metrics that it is a mean of.

    Undefined values (correlation or Matthews coefficient of a constant) are 0 by definition.

    Args:
        metric: One of CLASS_METRICS or VALUE_METRICS.
        labels: N classes 0, 1, … or values.
        predictions: N classes 0, 1, … or values.
    Returns:
        Name → value in 0..1 or -1..1, and a warning for each value that is 0 by definition.
    Source: Wang et al. 2019 (GLUE), table 1 and §3: the metrics of each task, and the mean where a
        task has two.
    """
    values: dict[str, float] = {}
    notes: list[str] = []
    # The parts come first: the mean is computed from them.
    for name in (*_MEANS.get(metric, ()), metric):
        if name in _MEANS:
            values[name] = float(np.mean([values[part] for part in _MEANS[name]]))
            continue
        reason = _undefined_reason(name, labels, predictions)
        if reason:
            notes.append(reason)
        values[name] = 0.0 if reason else _METRICS[name](labels, predictions)
    return values, notes


def constant_score(metric: str, constant: float, labels: Floats) -> float:
    """Computes the metric of a constant prediction.

    Args:
        metric: One of CLASS_METRICS or VALUE_METRICS.
        constant: The class or value predicted for every example.
        labels: N classes or values.
    """
    predictions = np.full(len(labels), constant)
    with warnings.catch_warnings():
        # scikit-learn warns that a class is never predicted, which is intended here.
        warnings.simplefilter("ignore")
        return score(metric, labels, predictions)[0][metric]


def _undefined_reason(metric: str, labels: Floats, predictions: Floats) -> str | None:
    if metric == "f1" and not (np.any(labels == 1) or np.any(predictions == 1)):
        return "no label and no prediction is of the positive class: f1 is undefined, counts as 0"
    if metric not in ("pearson", "spearman", "matthews"):
        return None
    # scipy returns NaN for these, and scikit-learn 0 without saying so.
    for side, values in (("prediction", predictions), ("label", labels)):
        if len(values) < 2 or np.ptp(values) == 0:
            return f"every {side} is {values[0]:g}: {metric} is undefined and counts as 0"
    return None


def _accuracy(labels: Floats, predictions: Floats) -> float:
    return float(sk.accuracy_score(labels, predictions))


def _f1(labels: Floats, predictions: Floats) -> float:
    return float(sk.f1_score(labels, predictions, average="binary", pos_label=1, zero_division=0.0))


def _macro_f1(labels: Floats, predictions: Floats) -> float:
    return float(sk.f1_score(labels, predictions, average="macro", zero_division=0.0))


def _matthews(labels: Floats, predictions: Floats) -> float:
    return float(sk.matthews_corrcoef(labels, predictions))


def _pearson(labels: Floats, predictions: Floats) -> float:
    return float(stats.pearsonr(labels, predictions).statistic)


def _spearman(labels: Floats, predictions: Floats) -> float:
    return float(stats.spearmanr(labels, predictions).statistic)


_METRICS: dict[str, Callable[[Floats, Floats], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}


# --- scores of bootstrap resamples ---------------------------------------------------------------


def resampled_scores(metric: str, labels: Floats, predictions: Floats, draws_RN: Ints) -> Floats:
    """Computes the metric on each of R resamples, shape (R,).

    Equal to `score` on each resample, and much faster.

    Args:
        metric: One of CLASS_METRICS or VALUE_METRICS.
        labels: N classes or values.
        predictions: N classes or values.
        draws_RN: Indices of the examples of each resample, shape (R, N).
    """
    if metric in _MEANS:
        parts = [resampled_scores(part, labels, predictions, draws_RN) for part in _MEANS[metric]]
        return np.asarray(np.mean(parts, axis=0))

    # Correlations are computed per resample; Spearman's is Pearson's of the ranks.
    if metric in VALUE_METRICS:
        rank = stats.rankdata if metric == "spearman" else np.asarray
        return np.array(
            [_correlation(rank(labels[draw]), rank(predictions[draw])) for draw in draws_RN]
        )

    # All class metrics follow from the confusion matrix.
    return _FROM_CONFUSION[metric](_confusion_matrices(labels, predictions, draws_RN))


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


# Axes of a confusion matrix: R resamples, K labels, K predictions.


def _confusion_matrices(labels: Floats, predictions: Floats, draws_RN: Ints) -> Floats:
    # At least two: F1 is about class 1, also where it does not occur.
    classes = max(2, int(max(labels.max(), predictions.max())) + 1)
    # One code for each pair of label and prediction, so that a matrix is a single bincount.
    codes = (labels * classes + predictions).astype(np.int64)
    counts = np.stack([np.bincount(codes[draw], minlength=classes * classes) for draw in draws_RN])
    return counts.reshape(-1, classes, classes).astype(np.float64)


def _accuracy_of(confusion_RKK: Floats) -> Floats:
    return np.asarray(np.trace(confusion_RKK, axis1=1, axis2=2) / confusion_RKK.sum(axis=(1, 2)))


def _class_f1_of(confusion_RKK: Floats) -> Floats:
    """Returns the F1 of each class, shape (R, K)."""
    hits_RK = np.diagonal(confusion_RKK, axis1=1, axis2=2)
    counts_RK = confusion_RKK.sum(axis=1) + confusion_RKK.sum(axis=2)
    # A class that occurs nowhere has an F1 of 0, not 0 / 0.
    return np.asarray(
        np.divide(2 * hits_RK, counts_RK, out=np.zeros_like(hits_RK), where=counts_RK > 0)
    )


def _positive_f1_of(confusion_RKK: Floats) -> Floats:
    return _class_f1_of(confusion_RKK)[:, 1]


def _macro_f1_of(confusion_RKK: Floats) -> Floats:
    # As in scikit-learn, the mean is over the classes that occur as a label or as a prediction.
    occurs_RK = (confusion_RKK.sum(axis=1) + confusion_RKK.sum(axis=2)) > 0
    return np.asarray(_class_f1_of(confusion_RKK).sum(axis=1) / occurs_RK.sum(axis=1))


def _matthews_of(confusion_RKK: Floats) -> Floats:
    total_R = confusion_RKK.sum(axis=(1, 2))
    labelled_RK, predicted_RK = confusion_RKK.sum(axis=2), confusion_RKK.sum(axis=1)
    hits_R = np.trace(confusion_RKK, axis1=1, axis2=2)
    covariance_R = hits_R * total_R - (labelled_RK * predicted_RK).sum(axis=1)
    scale_R = np.sqrt(
        (total_R**2 - (predicted_RK**2).sum(axis=1)) * (total_R**2 - (labelled_RK**2).sum(axis=1))
    )
    # Undefined where one class is predicted throughout; 0, as `score` defines it.
    return np.asarray(
        np.divide(covariance_R, scale_R, out=np.zeros_like(covariance_R), where=scale_R > 0)
    )


_FROM_CONFUSION: dict[str, Callable[[Floats], Floats]] = {
    "accuracy": _accuracy_of,
    "f1": _positive_f1_of,
    "macro_f1": _macro_f1_of,
    "matthews": _matthews_of,
}

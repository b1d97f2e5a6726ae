"""Scores of predictions: scikit-learn's and scipy's, defined where those are not (a constant prediction), never NaN.

`score` is what a table shows. `resampled_scores` computes the same figures for many bootstrap resamples at once.
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

_MEANS = {"accuracy_f1": ("accuracy", "f1"), "pearson_spearman": ("pearson", "spearman")}
METRICS_OF = {
    "classification": ("accuracy", "f1", "macro_f1", "matthews", "accuracy_f1"),
    "pair": ("accuracy", "f1", "macro_f1", "matthews", "accuracy_f1"),
    "regression": ("pearson", "spearman", "pearson_spearman"),
    "span": ("f1", "em"),
}


def parts_of(metric: str) -> tuple[str, ...]:
    """The metrics that are computed when `metric` counts: its parts first, if it is a mean, then itself."""
    return (*_MEANS.get(metric, ()), metric)


def score(metric: str, labels: Floats, predictions: Floats) -> tuple[dict[str, float], list[str]]:
    """The metric and its parts, with a warning for each that had to be defined.

    A constant prediction has no correlation and no Matthews coefficient: both are 0 by definition here.

    Args:
        metric: One of METRICS_OF's values; `accuracy_f1` and `pearson_spearman` are plain means of their two parts.
        labels: N classes 0… or values.
        predictions: N classes 0… or values.
    Returns:
        Name → value in 0..1 or -1..1, and the warnings.
    Source: Wang et al. 2019 (GLUE), table 1 and §3: which metric a task has, and the mean where it has two.
    """
    values: dict[str, float] = {}
    notes: list[str] = []
    for name in parts_of(metric):
        if name in _MEANS:
            values[name] = float(np.mean([values[part] for part in _MEANS[name]]))
            continue
        undefined = _why_undefined(name, labels, predictions)
        if undefined:
            notes.append(undefined)
        values[name] = 0.0 if undefined else _DEFINED[name](labels, predictions)
    return values, notes


def _why_undefined(metric: str, labels: Floats, predictions: Floats) -> str | None:
    if metric not in ("pearson", "spearman", "matthews"):
        return None
    for what, values in (("prediction", predictions), ("label", labels)):
        if len(values) < 2 or np.ptp(values) == 0:
            return f"every {what} is {values[0]:g}: {metric} is undefined and counts as 0"
    return None


def _f1(labels: Floats, predictions: Floats) -> float:
    return float(sk.f1_score(labels, predictions, average="binary", pos_label=1, zero_division=0.0))


def _macro_f1(labels: Floats, predictions: Floats) -> float:
    return float(sk.f1_score(labels, predictions, average="macro", zero_division=0.0))


_DEFINED: dict[str, Callable[[Floats, Floats], float]] = {
    "accuracy": lambda y, p: float(sk.accuracy_score(y, p)),
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": lambda y, p: float(sk.matthews_corrcoef(y, p)),
    "pearson": lambda y, p: float(stats.pearsonr(y, p).statistic),
    "spearman": lambda y, p: float(stats.spearmanr(y, p).statistic),
}


def resampled_scores(metric: str, labels: Floats, predictions: Floats, draws_RN: Ints) -> Floats:
    """The metric on each of R resamples, shape (R,); equal to `score` on each, and much faster.

    Args:
        draws_RN: Indices of the examples of each resample, shape (R, N).
    """
    if metric in _MEANS:
        both = [resampled_scores(part, labels, predictions, draws_RN) for part in _MEANS[metric]]
        return np.asarray(np.mean(both, axis=0))
    if metric in ("pearson", "spearman"):
        rank = stats.rankdata if metric == "spearman" else np.asarray
        return np.array(
            [_correlation(rank(labels[draw]), rank(predictions[draw])) for draw in draws_RN]
        )
    classes = int(max(labels.max(), predictions.max())) + 1
    codes = (labels * classes + predictions).astype(np.int64)
    counts = np.stack([np.bincount(codes[draw], minlength=classes * classes) for draw in draws_RN])
    return _CONFUSION[metric](counts.reshape(-1, classes, classes).astype(np.float64))


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


def _accuracy_of(confusion_RKK: Floats) -> Floats:
    return np.asarray(np.trace(confusion_RKK, axis1=1, axis2=2) / confusion_RKK.sum(axis=(1, 2)))


def _class_f1_of(confusion_RKK: Floats) -> Floats:
    hits = np.diagonal(confusion_RKK, axis1=1, axis2=2)
    of_both = confusion_RKK.sum(axis=1) + confusion_RKK.sum(axis=2)
    return np.asarray(np.divide(2 * hits, of_both, out=np.zeros_like(hits), where=of_both > 0))


def _macro_f1_of(confusion_RKK: Floats) -> Floats:
    """Mean over the classes that occur as a label or as a prediction, as scikit-learn takes it."""
    occurs = (confusion_RKK.sum(axis=1) + confusion_RKK.sum(axis=2)) > 0
    return np.asarray(_class_f1_of(confusion_RKK).sum(axis=1) / occurs.sum(axis=1))


def _matthews_of(confusion_RKK: Floats) -> Floats:
    total = confusion_RKK.sum(axis=(1, 2))
    labelled, predicted = confusion_RKK.sum(axis=2), confusion_RKK.sum(axis=1)
    over = np.trace(confusion_RKK, axis1=1, axis2=2) * total - (labelled * predicted).sum(axis=1)
    under = np.sqrt(
        (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (labelled**2).sum(axis=1))
    )
    return np.asarray(np.divide(over, under, out=np.zeros_like(over), where=under > 0))


_CONFUSION: dict[str, Callable[[Floats], Floats]] = {
    "accuracy": _accuracy_of,
    "f1": lambda confusion_RKK: _class_f1_of(confusion_RKK)[:, 1],
    "macro_f1": _macro_f1_of,
    "matthews": _matthews_of,
}


def constant_prediction(kind: str, train_labels: Floats) -> float:
    """What a model that never looks says: the commonest training class (the first of equals), or the mean."""
    if kind == "regression":
        return float(np.mean(train_labels))
    return float(np.argmax(np.bincount(train_labels.astype(np.int64))))


def constant_score(metric: str, kind: str, train_labels: Floats, labels: Floats) -> float:
    """The floor: the metric of the constant prediction."""
    constant = np.full(len(labels), constant_prediction(kind, train_labels))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # scikit-learn says that one class is never predicted: that is the point here
        return score(metric, labels, constant)[0][metric]

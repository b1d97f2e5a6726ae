"""Texts and labels that the experiment in benchmarks/value/README.md judges models on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgedistil.data.reviews import FILM_FOLDS, film_fold
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data

DRAWS = 10
FEW_LABELS = 1000
PAIRS = 20_000
_PAIR_SEED = 56

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FewLabels:
    """A task with draws of few labels.

    Attributes:
        name: Name of the task.
        examples: All examples that are drawn from or judged.
        fold: Fold of each example; a fold is judged by classifiers of the others.
        judged_folds: Folds that are judged.
    """

    name: str
    examples: tuple[Example, ...]
    fold: Ints
    judged_folds: tuple[int, ...]

    @property
    def texts(self) -> list[str]:
        """Text of each example."""
        return [example.texts[0] for example in self.examples]

    @cached_property
    def labels(self) -> Ints:
        """Class of each example."""
        return np.array([int(example.label) for example in self.examples])

    @property
    def judged(self) -> Ints:
        """Indices of the judged examples, in order."""
        return np.flatnonzero(np.isin(self.fold, self.judged_folds))

    def draw(self, number: int, fold: int, size: int) -> Ints:
        """Returns the examples whose labels a classifier of a fold gets, the same for all models.

        Args:
            number: Number of the draw.
            fold: The judged fold.
            size: Labels.
        """
        generator = np.random.default_rng([number, fold])
        return generator.permutation(np.flatnonzero(self.fold != fold))[:size]


def film_sentences() -> FewLabels:
    """All labelled film sentences, in five folds of films; every fold is judged."""
    data = load_data(load_task("sentiment"), None)
    examples = (*data.train, *data.dev)
    fold = np.array([film_fold(example.group) for example in examples])
    return FewLabels("sentiment", examples, fold, tuple(range(FILM_FOLDS)))


def topics() -> FewLabels:
    """All newsgroup postings in their own split, of which the second part is judged."""
    data = load_data(load_task("newsgroups"), None)
    fold = np.repeat([0, 1], [len(data.train), len(data.dev)])
    return FewLabels("topics", (*data.train, *data.dev), fold, (1,))


def random_pairs(texts: int) -> Ints:
    """Returns the pairs of different texts whose similarities are compared, (2, pairs)."""
    generator = np.random.default_rng(_PAIR_SEED)
    first = generator.integers(0, texts, PAIRS)
    distance = generator.integers(1, texts, PAIRS)
    return np.stack([first, (first + distance) % texts])

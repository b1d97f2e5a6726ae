"""Texts and labels that the experiment in benchmarks/value/README.md judges models on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgedistil.data.reviews import FILM_FOLDS, film_fold
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.evaluate.retrieval.packaged import load_packaged, verses
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data

DRAWS = 10
FEW_LABELS = 1000
PAIRS = 20_000
_PAIR_SEED = 56
# Packaged collections of documented functions, next to the verses.
COLLECTIONS = ("code", "manual")
# Digits at the end of a verse's name, which begins with its book.
_CHAPTER_AND_VERSE = 6

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


def judged_groups() -> dict[str, Ints]:
    """Name of what is judged → number of the group of each query or judged example.

    Texts of one module, Bible book or film resemble each other; a posting is a group of its own.
    """
    films = film_sentences()
    return {
        "verses": _numbers([name[:-_CHAPTER_AND_VERSE] for name in all_verses().queries]),
        **{
            name: _numbers([_module(query) for query in load_packaged(name).queries])
            for name in COLLECTIONS
        },
        "sentiment": _numbers([films.examples[index].group for index in films.judged]),
        "topics": np.arange(len(topics().judged)),
    }


def all_verses() -> Collection:
    """Every verse that both Bibles have: those of one are queries, those of the other documents."""
    return verses(first_book=1, per_query=1)


def _module(query: str) -> str:
    """Module of a documented function: `scipy.stats:norm:17` → `scipy.stats`."""
    return query.partition(":")[0]


def _numbers(groups: Sequence[str]) -> Ints:
    numbers: Ints = np.unique(groups, return_inverse=True)[1]
    return numbers


def random_pairs(texts: int) -> Ints:
    """Returns the pairs of different texts whose similarities are compared, (2, pairs)."""
    generator = np.random.default_rng(_PAIR_SEED)
    first = generator.integers(0, texts, PAIRS)
    distance = generator.integers(1, texts, PAIRS)
    return np.stack([first, (first + distance) % texts])

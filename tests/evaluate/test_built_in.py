"""Packaged tasks: real data, and splits that keep tested texts out of the training texts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgedistil.core.assets import fetch_asset
from edgedistil.core.errors import TaskError
from edgedistil.data.reviews import is_dev_movie, read_reviews
from edgedistil.evaluate.examples import Example, TaskData, normalize_text
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data


def texts(examples: Sequence[Example]) -> set[str]:
    return {normalize_text(example.texts[0]) for example in examples}


@pytest.fixture(scope="module")
def sentiment() -> TaskData:
    return load_data(load_task("sentiment"), None)


@pytest.fixture(scope="module")
def intensity() -> TaskData:
    return load_data(load_task("sentiment-intensity"), None)


@pytest.fixture(scope="module")
def newsgroups() -> TaskData:
    return load_data(load_task("newsgroups"), None)


def test_sentiment_is_split_by_film(sentiment: TaskData) -> None:
    reviews = read_reviews(fetch_asset("reviews"))
    dev = {normalize_text(review.text) for review in reviews if is_dev_movie(review.movie)}
    assert texts(sentiment.dev) <= dev
    assert len(sentiment.train) > 10_000
    assert len(sentiment.dev) > 2_500
    assert sentiment.labels == ("rotten", "fresh")


def test_package_without_labelled_data_is_an_error() -> None:
    spec = load_task("sentiment").model_copy(update={"asset": "wikitext"})
    with pytest.raises(TaskError, match="asset 'wikitext' has no labelled data"):
        load_data(spec, None)


@pytest.mark.parametrize("name", ["sentiment", "intensity", "newsgroups"])
def test_no_dev_text_is_a_training_text(name: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name)
    assert not texts(data.train) & texts(data.dev)
    assert not any("training texts too" in warning for warning in data.warnings)


def test_neither_film_task_trains_on_texts_that_the_other_tests(
    sentiment: TaskData, intensity: TaskData
) -> None:
    """They are largely the same sentences, so both have the same split."""
    assert len(texts(sentiment.dev) & texts(intensity.dev)) > 2_000  # the overlap is real
    assert not texts(sentiment.train) & texts(intensity.dev)
    assert not texts(intensity.train) & texts(sentiment.dev)


def test_intensity_is_within_its_range(intensity: TaskData) -> None:
    labels = [example.label for example in intensity.train]
    assert min(labels) < -3 < 3 < max(labels)
    assert len(labels) + len(intensity.dev) <= 10_605


def test_there_are_twenty_topics_with_long_texts(newsgroups: TaskData) -> None:
    assert len(newsgroups.labels) == 20
    lengths = sorted(len(example.texts[0].split()) for example in newsgroups.dev)
    assert lengths[len(lengths) // 2] > 100

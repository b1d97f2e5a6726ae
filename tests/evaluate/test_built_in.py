"""The packaged tasks: real data, and splits that keep what is tested out of what is trained on."""

import pytest

from edgedistil.data.reviews import is_dev_movie, read_reviews
from edgedistil.evaluate.examples import normalised
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data


def texts(examples) -> set[str]:
    return {normalised(example.texts[0]) for example in examples}


@pytest.fixture(scope="module")
def sentiment():
    return load_data(load_task("sentiment"), None)


@pytest.fixture(scope="module")
def intensity():
    return load_data(load_task("sentiment-intensity"), None)


@pytest.fixture(scope="module")
def newsgroups():
    return load_data(load_task("newsgroups"), None)


def test_sentiment_is_split_by_film(sentiment):
    from edgedistil.core.assets import fetch_asset

    dev = {
        normalised(r.text) for r in read_reviews(fetch_asset("reviews")) if is_dev_movie(r.movie)
    }
    assert texts(sentiment.dev) <= dev
    assert (len(sentiment.train) > 10_000, len(sentiment.dev) > 2_500) == (True, True)
    assert sentiment.labels == ("rotten", "fresh")


@pytest.mark.parametrize("name", ["sentiment", "intensity", "newsgroups"])
def test_no_dev_text_is_a_training_text(name, request):
    data = request.getfixturevalue(name)
    assert not texts(data.train) & texts(data.dev)
    assert not any("training texts too" in warning for warning in data.warnings)


def test_neither_film_task_trains_on_what_the_other_tests(sentiment, intensity):
    """They are largely the same sentences, so both are split alike."""
    assert len(texts(sentiment.dev) & texts(intensity.dev)) > 2_000  # the overlap is real
    assert not texts(sentiment.train) & texts(intensity.dev)
    assert not texts(intensity.train) & texts(sentiment.dev)


def test_intensity_is_within_its_range(intensity):
    labels = [example.label for example in intensity.train]
    assert min(labels) < -3 < 3 < max(labels)
    assert len(labels) + len(intensity.dev) <= 10_605


def test_topics_are_twenty_and_long(newsgroups):
    data = newsgroups
    assert len(data.labels) == 20
    assert sorted(len(example.texts[0].split()) for example in data.dev)[len(data.dev) // 2] > 100

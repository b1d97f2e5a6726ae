"""The split by film is stable, about a fifth, and blind to how a name is written."""

from __future__ import annotations

from edgedistil.core.assets import fetch_asset
from edgedistil.data.reviews import is_dev_movie, read_reviews


def test_the_split_never_changes() -> None:
    films = ("frida", "spirited_away", "chicago", "solaris", "insomnia", "signs")
    assert [film for film in films if is_dev_movie(film)] == ["signs"]


def test_the_real_films_are_split_one_to_four() -> None:
    reviews = list(read_reviews(fetch_asset("reviews")))
    sentences = [review for review in reviews if review.category != "plot"]
    assert (len(sentences), len(reviews)) == (12_808, 13_891)
    films = {review.movie for review in reviews}
    assert 0.17 < sum(map(is_dev_movie, films)) / len(films) < 0.23
    assert 0.17 < sum(is_dev_movie(review.movie) for review in sentences) / len(sentences) < 0.23
    assert all(is_dev_movie(film.upper() + " ") == is_dev_movie(film) for film in films)

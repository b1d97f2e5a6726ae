"""The data set of a task: limits select the same examples, unlabelled texts avoid the dev set."""

from __future__ import annotations

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.examples import Example, TaskData, count_shared, normalize_text

TRAIN = tuple(Example((f"train {number}",), number % 2) for number in range(31))
DEV = tuple(Example((f"dev {number}",), number % 2) for number in range(13))
DATA = TaskData(TRAIN, DEV, ("bad", "good"), "nowhere")


def test_limit_selects_the_same_examples() -> None:
    once, again = DATA.limited(11), DATA.limited(11)
    assert once.train == again.train
    assert len(once.train) == 11
    assert once.dev == DATA.dev
    assert DATA.limited(10_000) is DATA


def test_limited_dev_set_adds_a_warning() -> None:
    some = DATA.limited(11, 7)
    assert (len(some.train), len(some.dev)) == (11, 7)
    assert set(some.dev) < set(DEV)
    assert some.warnings == ("7 of its 13 dev examples are scored",)


def test_digest_changes_with_labels_and_order() -> None:
    others = {
        TaskData(TRAIN[::-1], DEV, (), "").sha256,
        TaskData(TRAIN[:-1], DEV, (), "").sha256,
        TaskData((Example(TRAIN[0].texts, 1.0), *TRAIN[1:]), DEV, (), "").sha256,
    }
    assert len(others | {DATA.sha256}) == 4
    assert TaskData(TRAIN, DEV, (), "elsewhere").sha256 == DATA.sha256


def test_unlabelled_texts_of_the_dev_set_are_left_out_with_a_warning() -> None:
    data = DATA.with_unlabelled([("a text",), ("DEV 3!",)], None, origin="more.txt")
    assert [example.texts for example in data.unlabelled] == [("a text",)]
    assert data.warnings == ("1 unlabelled texts that the dev set has too were left out",)
    assert data.sha256 == DATA.sha256
    assert data.unlabelled_sha256 != DATA.unlabelled_sha256


def test_no_unlabelled_text_left_is_an_error() -> None:
    with pytest.raises(TaskError, match=r"more\.txt: no unlabelled texts"):
        DATA.with_unlabelled([("dev 3",)], None, origin="more.txt")


def test_texts_are_compared_without_case_and_punctuation() -> None:
    assert normalize_text("A film,\n GOOD_1 !") == "afilmgood1"
    assert normalize_text("L’Été_2 à…") == "lété2à"
    assert count_shared([Example(("A film.",))], [Example(("a Film",)), Example(("a plot",))]) == 1


@pytest.mark.parametrize(("one", "other"), [("कि", "का"), ("ที่", "ที"), (":-)", ":-("), ("!", "?")])
def test_texts_that_differ_in_marks_alone_are_different(one: str, other: str) -> None:
    """Vowels of Hindi and Thai are marks, and a text may consist of punctuation."""
    assert normalize_text(one) != normalize_text(other)
    assert normalize_text(f" {one}") == normalize_text(f"{one}\n")

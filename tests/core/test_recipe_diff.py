"""Differences of recipes, and which of them may be resumed with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgedistil.core.errors import RunError
from edgedistil.core.recipe import Recipe
from edgedistil.core.recipe_diff import (
    NOT_SET,
    RESUMABLE_KEYS,
    Difference,
    check_resumable,
    differences,
)

Make = Callable[..., Recipe]


def test_differences_have_dotted_keys_and_both_values(small_recipe: Make) -> None:
    changes = differences(small_recipe(), small_recipe(loss={"cosine": 0.0}, train={"steps": 12}))
    assert changes == {"loss.cosine": Difference(1.0, 0.0), "train.steps": Difference(11, 12)}


def test_a_list_of_sections_is_compared_item_by_item(small_recipe: Make) -> None:
    before = small_recipe()
    sources = [source.model_dump(exclude_none=True) for source in before.corpus.sources]
    after = small_recipe(corpus={"sources": [*sources, {"asset": "reviews"}]})
    changes = differences(before, after)
    assert changes["corpus.sources.1.asset"] == Difference(NOT_SET, "reviews")
    assert not any(key.startswith("corpus.sources.0") for key in changes)


def test_a_key_without_a_value_is_not_set(small_recipe: Make) -> None:
    changes = differences(small_recipe(), small_recipe(train={"evaluate_every": 5}))
    assert changes == {"train.evaluate_every": Difference(NOT_SET, 5)}


def test_a_message_lists_at_most_eight_differences(small_recipe: Make) -> None:
    sources = [{"asset": name} for name in ("reviews", "newsgroups", "wikipedia-sample")]
    with pytest.raises(RunError, match=r"and \d+ more\n") as caught:
        check_resumable(small_recipe(), small_recipe(corpus={"sources": sources}), run="small")
    assert caught.value.message.count("→") == 8
    assert "None" not in caught.value.message


def test_another_list_is_one_value(small_recipe: Make) -> None:
    changes = differences(small_recipe(), small_recipe(profile={"lengths": [16, 32]}))
    assert changes == {"profile.lengths": Difference([16, 32, 64, 128, 256], [16, 32])}


def test_changes_that_do_not_affect_the_result_are_printed(
    small_recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    after = small_recipe(train={"checkpoint_minutes": 3.0}, evaluate={"seeds": 5})
    check_resumable(small_recipe(), after, run="small")
    assert "train.checkpoint_minutes 10.0 → 3.0; evaluate.seeds 1 → 5" in capsys.readouterr().err


def test_an_unchanged_recipe_prints_nothing(
    small_recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    check_resumable(small_recipe(), small_recipe(), run="small")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 57},
        {"train": {"learning_rate": 1e-3}},
        {"loss": {"temperature": 3.0}},
        {"student": {"fold_segment": False}},
        {"corpus": {"block_length": 24}},
    ],
)
def test_changes_of_the_result_are_refused(small_recipe: Make, change: dict[str, object]) -> None:
    after = small_recipe(**change, evaluate={"seeds": 5})
    (key,) = (key for key in differences(small_recipe(), after) if not key.startswith("evaluate"))
    with pytest.raises(
        RunError, match=rf"^run 'small' was started with another recipe: {key} \S+ → \S+\n"
    ) as caught:
        check_resumable(small_recipe(), after, run="small")
    assert caught.value.exit_code == 2


def test_resumable_keys_exist(small_recipe: Make) -> None:
    """A renamed key must not silently drop out of the list."""
    recipe = small_recipe().model_dump(mode="json")
    for pattern in RESUMABLE_KEYS:
        section = recipe
        for part in pattern.split("."):
            if part == "*":
                section = section[0] if isinstance(section, list) else section
            else:
                section = section[part]

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgedistil.core.errors import RunError
from edgedistil.core.recipe import Recipe
from edgedistil.core.recipe_diff import differences, refuse_changes

Make = Callable[..., Recipe]


def test_differences_are_dotted_keys(small_recipe: Make) -> None:
    changed = differences(small_recipe(), small_recipe(loss={"cosine": 0.0}, train={"steps": 12}))
    assert changed == {"loss.cosine": "loss.cosine 1.0 → 0.0", "train.steps": "train.steps 11 → 12"}


def test_a_source_more_is_a_difference(small_recipe: Make) -> None:
    before = small_recipe()
    sources = [
        *(s.model_dump(exclude_none=True) for s in before.corpus.sources),
        {"asset": "reviews"},
    ]
    assert "corpus.sources.1.asset" in differences(
        before, small_recipe(corpus={"sources": sources})
    )


def test_harmless_changes_are_told(small_recipe: Make, capsys: pytest.CaptureFixture[str]) -> None:
    after = small_recipe(train={"checkpoint_minutes": 3.0}, evaluate={"seeds": 5})
    refuse_changes(small_recipe(), after, run="small")
    assert "train.checkpoint_minutes 10.0 → 3.0; evaluate.seeds 1 → 5" in capsys.readouterr().err


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
        RunError, match=rf"^run 'small' began with another recipe: {key} \S+ → \S+\n"
    ) as caught:
        refuse_changes(small_recipe(), after, run="small")
    assert caught.value.exit_code == 2

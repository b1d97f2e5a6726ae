"""Recipes: strict, frozen, all problems at once, with advice."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgedistil.core.errors import RecipeError
from edgedistil.core.recipe import dump_recipe, load_recipe, parse_recipe

SMALLEST = """
name = "x"
[teacher]
source = "asset:minilm"
[corpus]
sources = [{ asset = "reviews" }]
[train]
tokens = 7
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert caught.value.exit_code == 2
    return str(caught.value)


def data(**changes: Any) -> dict[str, Any]:
    return {**tomllib.loads(SMALLEST), **changes}


def test_the_smallest_recipe_round_trips_with_every_default(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST))
    dumped = dump_recipe(recipe)
    assert parse_recipe(tomllib.loads(dumped), where="dump") == recipe
    assert "temperature = 2.0" in dumped
    assert parse_recipe(tomllib.loads(dumped), where="dump").sha256 == recipe.sha256


def test_a_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_the_digest_depends_on_every_value(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    digests = {
        load_recipe(path, [s]).sha256
        for s in ("seed=1", "seed=2", "loss.mlm=3.0", "student.init=random")
    }
    assert len(digests) == 4


def test_a_missing_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(
        RecipeError,
        match=r"unknown recipe 'recipes/tinny.toml'; did you mean 'tiny'\?\n  expected .*base",
    ):
        load_recipe("recipes/tinny.toml")


def test_broken_toml_has_line_and_column(tmp_path: Path) -> None:
    assert "line 2, column" in problems(tmp_path, 'name = "x"\n[teacher\n')


def test_invalid_utf8_is_reported_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(RecipeError, match="not UTF-8 text: byte 8"):
        load_recipe(path)


def test_an_unknown_key_gets_a_suggestion(tmp_path: Path) -> None:
    text = SMALLEST.replace("tokens = 7", "tokens = 7\nlerning_rate = 1.0")
    assert "unknown key 'train.lerning_rate'; did you mean 'learning_rate'?" in problems(
        tmp_path, text
    )


def test_an_unknown_key_like_no_other_gets_the_list(tmp_path: Path) -> None:
    text = SMALLEST.replace(
        '[teacher]\nsource = "asset:minilm"', '[teacher]\nsource = "asset:minilm"\nzzz = 1'
    )
    assert "unknown key 'teacher.zzz'; expected one of: source, revision" in problems(
        tmp_path, text
    )


def test_a_wrong_type_is_shown_with_what_was_expected(tmp_path: Path) -> None:
    assert "'seed' is 'many': input should be a valid integer" in problems(
        tmp_path, 'seed = "many"\n' + SMALLEST
    )


def test_all_problems_are_reported(tmp_path: Path) -> None:
    text = (
        SMALLEST.replace("tokens = 7", "tokens = 7\nclip = -1.0\nmicro_bach = 3")
        + '[loss]\ntemperature = "hot"\n'
    )
    message = problems(tmp_path, text)
    assert "3 problems" in message
    for part in ("train.clip", "did you mean 'micro_batch'?", "loss.temperature"):
        assert part in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"soft_target": 0.0, "mlm": 0.0, "cosine": 0.0}}, "all loss weights are 0"),
        (
            {"loss": {"temperature": 0.0}},
            "'loss.temperature' is 0.0: input should be greater than or equal to 0.01",
        ),
        ({"loss": {"temperature": -2.0}}, "input should be greater than or equal to 0.01"),
        ({"loss": {"mlm": 1e-9}}, "loss: mlm is 1e-09: expected 0 or at least 1e-06"),
        (
            {"train": {"tokens": 5, "steps": 5}},
            "expected exactly one of tokens, epochs, steps; got tokens and steps",
        ),
        ({"train": {}}, "got none"),
        (
            {"train": {"steps": 1, "global_batch": 7, "micro_batch": 2}},
            "7 is not a multiple of micro_batch 2",
        ),
        (
            {"corpus": {"sources": [{"asset": "a", "hub": "b"}]}},
            "exactly one of asset, files, hub; got asset and hub",
        ),
        ({"corpus": {"sources": []}}, "'corpus.sources'"),
        ({"teacher": {}}, "'teacher.source' is missing"),
        ({"student": {"layers": [0, -1]}}, "greater than or equal to 0"),
    ],
)
def test_inconsistent_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data(**changes), where="x.toml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "train.betas=[1.0, 1.0]",
        "train.betas=[2.0, 3.0]",
        "train.betas=[-0.1, 0.9]",
        "train.learning_rate=1e300",
        "train.epsilon=1e-300",
        "train.weight_decay=1e300",
        "train.global_batch=1000000000",
        "train.micro_batch=1000000000",
        "train.steps=10000000000",
        "train.epochs=1000000",
        "loss.temperature=1e-300",
        "loss.temperature=1e300",
        "loss.soft_target=1e300",
        "loss.soft_target=1e-300",
        "student.dropout=0.99999999",
        "student.layers=[]",
        "masking.rarity_exponent=1e300",
        "teacher.fit.batch_tokens=1000000000000",
        "evaluate.seeds=1000000000000",
        "evaluate.tasks=[]",
        "profile.lengths=[1000000000]",
        "profile.threads=[]",
        "world_size=1000000000",
        "corpus.sources=[{files=''}]",
    ],
)
def test_values_that_could_only_fail_later_are_refused(tmp_path: Path, override: str) -> None:
    key = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(RecipeError, match=key):
        load_recipe(write(tmp_path, SMALLEST), [override])


def test_an_empty_list_needs_values(tmp_path: Path) -> None:
    message = r"--set evaluate\.tasks=\[\]: expected at least 1 value$"
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, SMALLEST), ["evaluate.tasks=[]"])


def test_extreme_values_that_work_are_accepted(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, SMALLEST),
        ["loss.temperature=0.01", "student.dropout=0.9", "train.betas=[0.0, 0.9999]"],
    )
    assert recipe.train.betas == (0.0, 0.9999)


def test_set_overrides_by_dotted_key(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    recipe = load_recipe(
        path,
        ["loss.mlm=0.5", "name=other", "student.layers=[0, 3]", "train.trackers=['tensorboard']"],
    )
    assert (recipe.loss.mlm, recipe.name, recipe.student.layers) == (0.5, "other", [0, 3])
    assert recipe.train.trackers == ["tensorboard"]


def test_set_of_one_length_replaces_the_other(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST), ["train.steps=11"])
    assert (recipe.train.steps, recipe.train.tokens) == (11, None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.heads=0", "--set student.heads=0: input should be greater than 0"),
        ("student.nothing=1", "--set student.nothing=1: unknown key 'student.nothing'; exp"),
        ("student.vocabulary=5", "--set student.vocabulary=5: expected a section with the keys"),
        (
            "student.vocabulary={sise=5}",
            "--set student.vocabulary={sise=5}: unknown key 'student.vocabulary.sise'; did you",
        ),
        (
            "student.vocabulary.text='x'",
            "(with --set student.vocabulary.text='x')",
        ),
    ],
)
def test_a_problem_of_set_names_the_argument(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, SMALLEST), [override])
    assert message in str(caught.value)
    # The file is not to blame.
    assert caught.value.message.startswith("--set") == message.startswith("--set")


def test_problems_of_the_file_do_not_name_an_argument(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, SMALLEST + "\n[loss]\nmlm = -1.0\n"), ["student.heads=0"])
    first, *lines = caught.value.message.split("\n")
    assert first.endswith(": 2 problems")
    assert sorted(lines) == [
        "  'loss.mlm' is -1.0: input should be greater than or equal to 0",
        "  --set student.heads=0: input should be greater than 0",
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "loss.mlm",
        "=3",
        "name.x=3",
        "seed=1\nname='y'",
        "description=a\x1b[31m",
        "description=\udce9",
        "seed=" + "9" * 5000,
        "seed=99999999999999999999",
        "train.trackers=" + "[" * 5000,
        "a." * 5000 + "b=1",
        "x" * 100_000 + "=1",
    ],
    ids=lambda bad: bad[:20],
)
def test_a_malformed_set_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, SMALLEST), [bad])
    assert len(str(caught.value)) < 1000


def test_a_set_value_that_is_not_toml_is_text(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST), ["teacher.source=my model [1]"])
    assert recipe.teacher.source == "my model [1]"


def test_a_users_recipe_wins_over_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.toml").write_text(SMALLEST.replace('"x"', '"mine"'))
    assert load_recipe("recipes/tiny.toml").name == "mine"
    assert load_recipe("tiny").name == "mine"
    assert load_recipe("base").name == "base"

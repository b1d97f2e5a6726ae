"""The strict TOML loader: suggestions, all problems at once, the caller's class of error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError, model_validator

from edgedistil.core.errors import InputError
from edgedistil.core.toml import StrictSection, did_you_mean, parse_section, read_toml


class MenuError(InputError):
    """Error of the tests."""


class Dish(StrictSection):
    title: str
    price: Annotated[float, Field(gt=0)] = 1.0
    tags: tuple[str, ...] | None = None


class Menu(StrictSection):
    name: str
    dishes: list[Dish] = Field(default=[])
    special: Dish | None = None
    size: int | list[int] = 1

    @model_validator(mode="after")
    def _has_a_dish(self) -> Menu:
        if self.name == "empty":
            raise ValueError("Expected at least one dish")
        return self


def problems(**data: object) -> str:
    with pytest.raises(MenuError) as caught:
        parse_section(Menu, data, where="menu.toml", error=MenuError)
    assert caught.value.message.startswith("menu.toml: ")
    return caught.value.message.removeprefix("menu.toml: ")


def test_a_section_is_frozen() -> None:
    menu = Menu(name="x")
    with pytest.raises(ValidationError, match="frozen"):
        menu.name = "y"  # type: ignore[misc]


def test_an_array_becomes_a_tuple_where_a_tuple_is_declared() -> None:
    data = {"name": "x", "size": [1, 2], "dishes": [{"title": "a", "tags": ["b", "c"]}]}
    menu = parse_section(Menu, data, where="x", error=MenuError)
    assert menu.dishes[0].tags == ("b", "c")
    assert menu.size == [1, 2]


def test_a_single_problem_is_one_line() -> None:
    assert problems() == "'name' is missing"


def test_all_problems_are_reported_at_once() -> None:
    message = problems(name=3, dishes=[{"title": "a", "price": -1.0, "prize": 2}])
    assert message.startswith("3 problems\n")
    for part in (
        "'name' is 3: input should be a valid string",
        "'dishes.0.price' is -1.0: input should be greater than 0",
        "unknown key 'dishes.0.prize'; did you mean 'price'?",
    ):
        assert f"\n  {part}" in message


def test_unknown_keys_of_an_optional_section_are_compared_with_its_own() -> None:
    assert problems(name="x", special={"title": "a", "tag": 1}) == (
        "unknown key 'special.tag'; did you mean 'tags'?"
    )


def test_an_unknown_key_without_a_similar_one_gets_the_list() -> None:
    assert problems(name="x", zzz=1) == (
        "unknown key 'zzz'; expected one of: name, dishes, special, size"
    )


def test_the_branches_of_a_union_are_not_part_of_the_key() -> None:
    assert "'size' is 'large': input should be a valid integer" in problems(name="x", size="large")


def test_a_validators_message_is_used_as_it_is() -> None:
    assert problems(name="empty") == "expected at least one dish"


def test_did_you_mean() -> None:
    assert did_you_mean("rpi44", ["rpi4", "zero2w"]) == "; did you mean 'rpi4'?"
    assert did_you_mean("graviton", ["rpi4", "zero2w"]) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'name = "x"\n[menu\n', r"x\.toml is not valid TOML: .*line 2, column 6"),
        (b'name = "\xff"', r"x\.toml is not UTF-8 text: byte 8"),
    ],
)
def test_unreadable_files_are_reported_with_the_place(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(MenuError, match=message):
        read_toml(path, error=MenuError)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MenuError, match="the menu does not exist"):
        read_toml(tmp_path / "x.toml", error=MenuError, name="the menu")

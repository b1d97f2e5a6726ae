"""The strict TOML loader: suggestions, all problems at once, the caller's class of error."""

from __future__ import annotations

import os
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
    notes: dict[str, str] = Field(default={})

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
        "unknown key 'zzz'; expected one of: name, dishes, special, size, notes"
    )


def test_the_branches_of_a_union_are_not_part_of_the_key() -> None:
    assert "'size' is 'large': input should be a valid integer" in problems(name="x", size="large")


@pytest.mark.parametrize("key", ["int", "bool", "list[int]", "function-after[x]", "[", ""])
def test_an_unknown_key_may_be_spelled_like_a_branch(key: str) -> None:
    message = problems(**{"name": "x", key: 1})
    assert message.startswith(f"unknown key '{key}'")
    nested = problems(name="x", dishes=[{"title": "a", key: 1}])
    assert nested.startswith(f"unknown key 'dishes.0.{key}'")


def test_a_section_that_is_not_a_table() -> None:
    assert problems(name="x", special=3) == (
        "'special' is 3: expected a section with the keys title, price, tags"
    )


def test_keys_of_a_table_are_part_of_the_key() -> None:
    assert problems(name="x", notes={"int": 3}) == (
        "'notes.int' is 3: input should be a valid string"
    )


def test_many_problems_are_counted() -> None:
    message = problems(name="x", **{f"key_{number}": 1 for number in range(50)})
    assert message.startswith("50 problems\n")
    assert message.endswith("\n  and 30 more")
    assert len(message.splitlines()) == 22


def test_long_keys_and_values_are_cut() -> None:
    (line,) = problems(name="x", **{"k" * 5000: 1}).splitlines()
    assert line.startswith("unknown key '" + "k" * 200 + "… (5,000 characters)'")
    (line,) = problems(name="x", special={"title": ["a"] * 5000}).splitlines()
    assert len(line) < 400


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
        (b"n = " + b"9" * 5000, r"x\.toml is not valid TOML: an integer has too many digits"),
        (b"n = " + b"[" * 5000, r"x\.toml is not valid TOML: it is too deeply nested"),
        (b"n = " + b"{a = " * 5000, r"x\.toml is not valid TOML: it is too deeply nested"),
        (b"a." * 500 + b"b = 1", r"x\.toml: 'a\.a\..*' is nested more than 20 levels deep"),
        (b"[" + b"a." * 5000 + b"b]", r"x\.toml: line 1 has more than 1,000 dots"),
        (b"n = 9223372036854775808", r"x\.toml: 'n' is an integer outside of the 64-bit range"),
        (b"[s]\nn = 0x" + b"f" * 5000, r"x\.toml: 's\.n' is an integer outside"),
        (b'[s]\nn = ["a\\u0000"]', r"x\.toml: 's\.n' contains a NUL character"),
        (b"#" * (1 << 20) + b"#", r"cannot read .*x\.toml: it has more than 1 MiB"),
    ],
)
def test_unreadable_files_are_reported_with_the_place(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(MenuError, match=message):
        read_toml(path, error=MenuError)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 1\r\n")
    assert read_toml(path, error=MenuError) == {"name": 1}


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "x.toml"
    os.mkfifo(pipe)
    with pytest.raises(MenuError, match=r"cannot read .*x\.toml: it is a named pipe"):
        read_toml(pipe, error=MenuError)
    with pytest.raises(MenuError, match="it is a folder"):
        read_toml(tmp_path, error=MenuError)


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_a_name_that_the_system_refuses(name: str, tmp_path: Path) -> None:
    with pytest.raises(MenuError, match="cannot read"):
        read_toml(tmp_path / name, error=MenuError)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MenuError, match="the menu does not exist"):
        read_toml(tmp_path / "x.toml", error=MenuError, name="the menu")

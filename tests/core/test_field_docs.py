"""Descriptions of recipe and device keys: complete, one sentence each, found by key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from edgedistil.core.device import DeviceSpec, Figure
from edgedistil.core.errors import InputError
from edgedistil.core.field_docs import FieldDoc, describe_fields, matching_fields, show_fields
from edgedistil.core.recipe import Recipe
from edgedistil.core.toml import StrictSection

RECIPE_FIELDS = describe_fields(Recipe)


class Inner(StrictSection):
    size: Annotated[int, Field(gt=0)] | None = Field(None, description="A size.")
    pair: tuple[float, float] = Field((1.0, 2.5), description="Two numbers.")


class Outer(StrictSection):
    name: str = Field(min_length=1, description="A name.")
    kind: Literal["a", "b"] = Field("a", description="A kind.")
    share: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="A share.")
    flags: list[str] = Field([], description="Flags.")
    layers: Literal["all"] | list[Annotated[int, Field(ge=0)]] = Field("all", description="Layers.")
    inner: Inner = Field(Inner(), description="A section.")
    more: list[Inner] = Field(min_length=1, description="Sections.")
    reasons: dict[str, str] = Field({}, description="Reasons.")
    figure: Figure = Field(description="A figure.")


def test_every_part_of_a_field_is_described() -> None:
    by_key = {field.key: field for field in describe_fields(Outer)}
    expected = [
        FieldDoc("name", "text", "required", "length >= 1", "A name."),
        FieldDoc("kind", "one of a, b", '"a"', "", "A kind."),
        FieldDoc("share", "number", "0.1", ">= 0, < 1", "A share."),
        FieldDoc("flags", "list of texts", "[]", "", "Flags."),
        FieldDoc("layers", "one of all or list of integers", '"all"', ">= 0", "Layers."),
        FieldDoc("inner", "section", "", "", "A section."),
        FieldDoc("inner.size", "integer", "not set", "> 0", "A size."),
        FieldDoc("inner.pair", "list of 2 numbers", "[1.0, 2.5]", "", "Two numbers."),
        FieldDoc("more", "list of sections", "required", "length >= 1", "Sections."),
        FieldDoc("reasons", "table of texts", "{}", "", "Reasons."),
        FieldDoc("figure", "{ value, source or assumed }", "required", "", "A figure."),
    ]
    for field in expected:
        assert by_key.pop(field.key) == field
    assert set(by_key) == {"more.size", "more.pair"}, "a figure's own keys are not listed"


def nested_sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section class and all section classes in its annotations."""
    yield model
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from nested_sections(part)


def undescribed(model: type[BaseModel]) -> list[str]:
    """Fields whose description is not one sentence of at most 100 characters."""
    names = []
    for section in nested_sections(model):
        for name, field in section.model_fields.items():
            text = field.description or ""
            if not (text.endswith(".") and len(text) <= 100):
                names.append(f"{section.__name__}.{name}")
    return names


@pytest.mark.parametrize("model", [Recipe, DeviceSpec])
def test_every_field_has_a_description_of_one_sentence(model: type[BaseModel]) -> None:
    assert undescribed(model) == []


def test_the_check_of_descriptions_can_fail() -> None:
    class Bad(StrictSection):
        missing: int
        unfinished: int = Field(description="no full stop")
        inner: Inner = Field(description="A section.")

    assert undescribed(Bad) == ["Bad.missing", "Bad.unfinished"]


def test_a_key_matches_itself_its_section_or_its_last_part() -> None:
    (rate,) = matching_fields(RECIPE_FIELDS, "train.learning_rate")
    assert rate.default == "0.0005" and rate.bounds == "> 0, <= 1"
    section = matching_fields(RECIPE_FIELDS, "teacher.fit")
    assert section[0].key == "teacher.fit" and len(section) == 6
    both = matching_fields(RECIPE_FIELDS, "learning_rate")
    assert [field.key for field in both] == ["teacher.fit.learning_rate", "train.learning_rate"]


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("train.lerning_rate", "train.learning_rate"),
        ("lerning_rate", "learning_rate"),
        ("trian", "train"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(key: str, suggestion: str) -> None:
    with pytest.raises(InputError, match=f"unknown key '{key}'; did you mean '{suggestion}'"):
        matching_fields(RECIPE_FIELDS, key)


def test_an_unknown_key_without_a_similar_one_gets_the_sections() -> None:
    with pytest.raises(InputError, match=r"unknown key 'zzzzzz'\n.* a section: name, .*, profile"):
        matching_fields(RECIPE_FIELDS, "zzzzzz")


def test_fields_are_printed_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    show_fields("Keys of a recipe", matching_fields(RECIPE_FIELDS, "train.clip"))
    printed = capsys.readouterr().out
    for part in ("Keys of a recipe", "train.clip", "number > 0", "5.0", "Largest gradient norm"):
        assert part in printed


def test_large_bounds_have_groups_of_digits_and_are_not_repeated() -> None:
    (steps,) = matching_fields(RECIPE_FIELDS, "train.steps")
    assert steps.bounds == "> 0, <= 1_000_000_000"
    (betas,) = matching_fields(RECIPE_FIELDS, "train.betas")
    assert betas.bounds == ">= 0, < 1"

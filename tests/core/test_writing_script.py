"""Scripts of characters, and the texts of byte-level tokens."""

from __future__ import annotations

import pytest

from edgedistil.core.writing_script import (
    NO_SCRIPT,
    byte_level_text,
    count_letters,
    script_of,
    script_of_text,
)


@pytest.mark.parametrize(
    ("character", "script"),
    [("a", "LATIN"), ("ß", "LATIN"), ("д", "CYRILLIC"), ("中", "CJK"), ("7", None), (".", None)],
)
def test_the_script_of_a_letter(character: str, script: str | None) -> None:
    assert script_of(character) == script


def test_a_text_has_the_script_of_its_first_letter() -> None:
    assert script_of_text("12 день") == "CYRILLIC"
    assert script_of_text("1:2!") == NO_SCRIPT


def test_letters_are_counted_by_script() -> None:
    assert count_letters(["ab д", "c9"]) == {"LATIN": 3, "CYRILLIC": 1}


def test_byte_level_tokens_are_bytes_of_text() -> None:
    from tokenizers import pre_tokenizers

    text = " Straße 中\n"
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ((token, _),) = split.pre_tokenize_str(text)
    assert token != text
    assert byte_level_text(token) == text

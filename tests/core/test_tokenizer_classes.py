"""Tokenizers of every kind give transformers' ids for hostile text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_classes import TOKENIZER_CLASSES
from tests.fixtures.tokenizer_folders import LAYOUTS, our_text

# Text that tokenizers treat differently: special tokens, marks of vocabularies, blanks of all
# kinds, marks that combine, scripts without blanks, directions, controls.
FRAGMENTS = (
    *("[CLS]", "[MASK]", "[UNK]", "[PAD]", "<s>", "</s>", "<mask>", "<unk>", "<pad>", "<|mask|>"),
    *("[mask]", "<S>", " <mask> ", "▁", "▁▁", "Ġ", "##s", "##", "Ċ", "``", "''", "<s>NOTUSED"),
    *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\u2028", "\ufeff", "\x00"),
    *("e\u0301", "ﬁ", "Å", "İ", "ß", "ǅ", "½", "①", "ﷺ", "क्षि", "ไทย", "图书馆", "日本語", "각"),
    *(
        "👍🏽",
        "👨‍👩‍👧‍👦",
        "🇫🇷",
        "\u202e",
        "שלום",
        "مرحبا",
        "0x8007",
        "12,345.6",
        "don't",
        "we'll",
        "'S",
    ),
    *("|||EMAIL|||", "a" * 120, "\ufffd", "\U000e0001", "\x1b[0m", "…", "“x”", "-–—", "x²"),
)
hostile_text = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from(our_text()), st.text(max_size=12)),
    max_size=8,
).map("".join)


@cache
def both(folder: Path) -> tuple[Any, TextTokenizer]:
    return AutoTokenizer.from_pretrained(folder), read_tokenizer(folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_are_those_of_transformers(name: str, tokenizer_folders: dict[str, Path]) -> None:
    theirs, ours = both(tokenizer_folders[name])

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(hostile_text, hostile_text)
    def compare(first: str, second: str) -> None:
        single = theirs(first, padding=False, return_offsets_mapping=True)
        encoding = ours.backend.encode(first)
        assert encoding.ids == single["input_ids"]
        assert encoding.offsets == single["offset_mapping"]
        plain = theirs(first, add_special_tokens=False)["input_ids"]
        assert ours.encode_texts([first]) == [plain]
        # In a list: alone, transformers takes an empty second text for none.
        pair = theirs([first], [second], return_token_type_ids=True)
        both_texts = ours.backend.encode(first, second)
        assert both_texts.ids == pair["input_ids"][0]
        assert both_texts.type_ids == pair["token_type_ids"][0]
        if plain:
            assert ours.frame(plain)[0] == single["input_ids"]

    compare()


@pytest.mark.parametrize("name", LAYOUTS)
def test_special_tokens_and_inputs(name: str, tokenizer_folders: dict[str, Path]) -> None:
    theirs, ours = both(tokenizer_folders[name])
    for kind in ("cls", "sep", "pad", "mask", "unk", "bos", "eos"):
        expected = getattr(theirs, f"{kind}_token_id")
        declared = f"{kind}_token" in ours.special
        assert (ours.token_id(kind) if declared else None) == expected, kind
    assert ours.size == max(theirs.get_vocab().values()) + 1
    assert ours.padding_side == theirs.padding_side
    # A tokenizer.json may have a template with types that differ; then the template decides.
    if ours.class_name is not None:
        assert ours.gives_token_types == ("token_type_ids" in theirs.model_input_names)


def test_every_class_of_the_table_is_tried(tokenizer_folders: dict[str, Path]) -> None:
    """Classes of the same row are one: transformers has them as other names of one class."""
    tried = [TOKENIZER_CLASSES.get(both(f)[1].class_name or "") for f in tokenizer_folders.values()]
    assert all(row in tried for row in TOKENIZER_CLASSES.values())
    # … and some are read from tokenizer.json as it is.
    assert None in tried

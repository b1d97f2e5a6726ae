"""Trimmed tokenizers of every layout, and the tokens that have to stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_save import save_tokenizer
from edgedistil.core.tokenizer_trim import (
    Vocabulary,
    read_vocabulary,
    renumbered,
    required_ids,
    trim_tokenizer,
)
from tests.fixtures.tokenizer_folders import LAYOUTS, our_text

# Our text has so many characters that this vocabulary has nothing else.
TRIMMABLE = [name for name in LAYOUTS if name != "bert cased"]
Trimmed = tuple[TextTokenizer, TextTokenizer, dict[int, int]]


def trimmed(folder: Path, *, more: int = 150) -> Trimmed:
    """The tokenizer, the same with the required tokens and `more` others, and the new ids."""
    before = read_tokenizer(folder)
    vocabulary = read_vocabulary(before)
    remaining = required_ids(before, vocabulary)
    # Long tokens last: in every kind of vocabulary they are joined from others.
    optional = sorted(set(vocabulary.ids.values()) - remaining)
    for number in optional[::3][:more]:
        remaining |= vocabulary.with_parts([number])
    new_ids = renumbered(vocabulary, remaining)
    return before, trim_tokenizer(before, vocabulary, new_ids), new_ids


@pytest.fixture(params=TRIMMABLE)
def case(request: pytest.FixtureRequest, tokenizer_folders: dict[str, Path]) -> Trimmed:
    return trimmed(tokenizer_folders[request.param])


def test_ids_map_one_to_one_without_gaps_and_tokens_stay_the_same(case: Trimmed) -> None:
    before, after, new_ids = case
    assert sorted(new_ids.values()) == list(range(len(new_ids)))
    assert after.size == len(new_ids) < before.size
    for old, new in new_ids.items():
        assert before.backend.id_to_token(old) == after.backend.id_to_token(new)


def test_a_text_of_tokens_that_stay_has_the_same_tokens(case: Trimmed) -> None:
    before, after, new_ids = case
    # Lines nearly always have a token that goes; some of their words have none.
    texts = [word for text in our_text() for word in text.split()]
    old, new = before.encode_framed(texts, 10**6), after.encode_framed(texts, 10**6)
    changed = same = 0
    for (old_ids, old_types), (ids, types) in zip(old, new, strict=True):
        if all(number in new_ids for number in old_ids):
            assert ([new_ids[number] for number in old_ids], old_types) == (ids, types)
            same += 1
        else:
            changed += 1
    # Otherwise the test would compare nothing.
    assert same > 5
    assert changed > 20


def test_nothing_becomes_unknown(case: Trimmed) -> None:
    before, after, _ = case
    unknown = [tokenizer.token_id("unk") for tokenizer in (before, after)]
    for text, old, new in zip(
        our_text(), before.encode_texts(our_text()), after.encode_texts(our_text()), strict=True
    ):
        assert new.count(unknown[1]) <= old.count(unknown[0]), text


def test_the_saved_tokenizer_gives_the_same_ids(
    case: Trimmed, tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    before, after, new_ids = case
    config = json.loads((before.folder / "config.json").read_text())
    config["vocab_size"] = len(new_ids)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_tokenizer(
        after,
        tmp_path,
        class_name=before.class_name or "PreTrainedTokenizerFast",
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        max_length=512,
    )
    again = read_tokenizer(tmp_path)
    texts = our_text()
    assert again.encode_framed(texts, 64) == after.encode_framed(texts, 64)
    assert again.frame([7], [8]) == after.frame([7], [8])
    assert not list(tmp_path.glob("*remap*"))


def test_single_characters_and_special_tokens_have_to_stay(
    tokenizer_folders: dict[str, Path],
) -> None:
    before = read_tokenizer(tokenizer_folders["bert"])
    vocabulary = read_vocabulary(before)
    required = required_ids(before, vocabulary)
    tokens = {vocabulary_token(vocabulary, number) for number in required}
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "."} <= tokens
    assert "the" in vocabulary.ids
    assert "the" not in tokens


def vocabulary_token(vocabulary: Vocabulary, number: int) -> str:
    return next(token for token, owner in vocabulary.ids.items() if owner == number)


def test_a_byte_level_vocabulary_keeps_all_bytes(tokenizer_folders: dict[str, Path]) -> None:
    before = read_tokenizer(tokenizer_folders["roberta"])
    vocabulary = read_vocabulary(before)
    required = required_ids(before, vocabulary)
    single = [token for token in vocabulary.ids if len(token) == 1]
    assert len(single) == 256
    assert {vocabulary.ids[token] for token in single} <= required


def word_piece_folder(folder: Path, tokens: list[str]) -> Path:
    backend = Tokenizer(models.WordPiece({t: n for n, t in enumerate(tokens)}, unk_token="[UNK]"))
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_token_with_a_character_that_has_no_token_has_to_stay(tmp_path: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]"]
    folder = word_piece_folder(tmp_path, [*special, "a", "##b", "ab", "az"])
    tokenizer = read_tokenizer(folder)
    required = required_ids(tokenizer, read_vocabulary(tokenizer))
    names = {tokenizer.backend.id_to_token(number) for number in required}
    # Without "az" the word would be unknown: there is no "##z". Reserved rows are of no use.
    assert names == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "az"}


def test_the_parts_of_a_joined_token_stay_with_it(tokenizer_folders: dict[str, Path]) -> None:
    before = read_tokenizer(tokenizer_folders["roberta"])
    vocabulary = read_vocabulary(before)
    longest = max(vocabulary.parts, key=lambda number: len(before.backend.id_to_token(number)))
    closed = vocabulary.with_parts([longest])
    assert len(closed) > 3
    assert all(part in closed for number in closed for part in vocabulary.parts.get(number, ()))
    only = renumbered(vocabulary, required_ids(before, vocabulary) | closed)
    after = trim_tokenizer(before, vocabulary, only)
    text = before.backend.decode([longest])
    assert after.encode_texts([text]) == [[only[n] for n in before.encode_texts([text])[0]]]


def test_positions_that_count_from_the_padding_do_not_move(
    tokenizer_folders: dict[str, Path],
) -> None:
    before, after, new_ids = trimmed(tokenizer_folders["roberta"])
    assert new_ids[before.pad_id] == before.pad_id == after.pad_id == 1


def test_a_vocabulary_of_words_is_refused(tmp_path: Path) -> None:
    words = {"<pad>": 0, "<unk>": 1, "word": 2}
    Tokenizer(models.WordLevel(words, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="is a WordLevel; vocabularies that can be trimmed: Word"):
        read_vocabulary(read_tokenizer(tmp_path))

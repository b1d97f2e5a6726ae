"""The reader of tokenizers gives transformers' ids, whichever files a folder has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import read_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "The", "cafe", "café", "read", "##er", "##s", "你", "好", "a", "b", ".", ",", "!"]
TEXTS = [
    "The reader reads the café.",
    "THE CAFÉ, a b!",
    "你好 the",
    "a [MASK] b <new> [SEP] x",
    "",
    "  unknown\tꙮ words \n",
]

Change = Callable[[Path], None]


def vocabulary(words: list[str] = SPECIAL + WORDS) -> dict[str, int]:
    return {word: index for index, word in enumerate(words)}


def make_folder(path: Path, *, rows: int = len(SPECIAL + WORDS), model_type: str = "bert") -> Path:
    """A folder with config.json and the files that transformers' BertTokenizer saves."""
    path.mkdir()
    BertTokenizer(vocab=vocabulary()).save_pretrained(path)
    write(path, "config.json", {"model_type": model_type, "vocab_size": rows})
    return path


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write(folder, name, {**known, **values})


def _vocab_txt_only(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")


def _vocab_txt_of_a_cased_model(folder: Path) -> None:
    _vocab_txt_only(folder)
    write(folder, "tokenizer_config.json", {"do_lower_case": False})


def _vocab_txt_with_windows_line_ends(folder: Path) -> None:
    _vocab_txt_only(folder)
    (folder / "vocab.txt").write_bytes("\r\n".join(SPECIAL + WORDS).encode())


def _vocab_txt_with_a_repeated_line(folder: Path) -> None:
    _vocab_txt_only(folder)
    lines = [*SPECIAL, "the", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    change(folder, "config.json", vocab_size=len(lines))


def _tokenizer_json_only(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def _no_post_processor(folder: Path) -> None:
    change(folder, "tokenizer.json", post_processor=None)


def _cased_tokenizer_json_without_settings(folder: Path) -> None:
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": False,
    }
    change(folder, "tokenizer.json", normalizer=normalizer)
    (folder / "tokenizer_config.json").unlink()


def _baked_in_truncation_and_padding(folder: Path) -> None:
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    backend.save(str(folder / "tokenizer.json"))


def _settings(**values: Any) -> Change:
    return lambda folder: change(folder, "tokenizer_config.json", **values)


def _added_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<new>", lstrip=True), "X"])
    tokenizer.save_pretrained(folder)
    change(folder, "config.json", vocab_size=len(tokenizer))


def _added_tokens_of_transformers_4(folder: Path) -> None:
    _vocab_txt_only(folder)
    write(folder, "added_tokens.json", {"<new>": 19, "X": 20})
    write(folder, "special_tokens_map.json", {"mask_token": {"content": "<new>", "lstrip": True}})
    change(folder, "config.json", vocab_size=21)


def _other_special_tokens(folder: Path) -> None:
    names = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[UNK]": "<unk>"}
    lines = [names.get(word, word) for word in SPECIAL + WORDS]
    _vocab_txt_only(folder)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write(folder, "special_tokens_map.json", special)


def _extra_special_tokens(folder: Path) -> None:
    change(folder, "tokenizer_config.json", additional_special_tokens=["café", "<new>"])
    change(folder, "config.json", vocab_size=20)


def _padded_rows_without_a_mask_token(folder: Path) -> None:
    _vocab_txt_only(folder)
    lines = [word for word in SPECIAL + WORDS if word != "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    change(folder, "config.json", vocab_size=24)


def _unigram(folder: Path, **settings: Any) -> None:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁The", "▁read", "er", "s", "▁", "a", "b"]
    pieces += [".", "é", "caf", "▁caf", "<mask>"]
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **names).save_pretrained(
        folder
    )
    change(folder, "tokenizer_config.json", **settings)
    change(folder, "config.json", vocab_size=len(pieces))


def _xlm_roberta(folder: Path) -> None:
    _unigram(folder, tokenizer_class="XLMRobertaTokenizer")


def _byte_level(folder: Path) -> None:
    backend = Tokenizer(models.BPE({**vocabulary(SPECIAL), "Ġ": 5, "a": 6, "Ġa": 7}, [("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


CHANGES: list[Change] = [
    lambda _folder: None,
    _vocab_txt_only,
    _vocab_txt_of_a_cased_model,
    _vocab_txt_with_windows_line_ends,
    _vocab_txt_with_a_repeated_line,
    _tokenizer_json_only,
    _no_post_processor,
    _cased_tokenizer_json_without_settings,
    _baked_in_truncation_and_padding,
    _settings(do_lower_case=False),
    _settings(strip_accents=False),
    _settings(tokenize_chinese_chars=False),
    _settings(split_special_tokens=True),
    _settings(mask_token=None),
    _settings(tokenizer_class="BertTokenizerFast"),
    _settings(tokenizer_class="DistilBertTokenizer"),
    _settings(tokenizer_class="PreTrainedTokenizerFast"),
    _settings(tokenizer_class="NoSuchTokenizer"),
    _added_tokens,
    _added_tokens_of_transformers_4,
    _other_special_tokens,
    _extra_special_tokens,
    _padded_rows_without_a_mask_token,
    _unigram,
    _xlm_roberta,
    _byte_level,
]


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
@pytest.mark.parametrize("apply", CHANGES)
def test_ids_are_those_of_transformers(tmp_path: Path, apply: Change, model_type: str) -> None:
    folder = make_folder(tmp_path / "model", model_type=model_type)
    apply(folder)
    theirs, ours = AutoTokenizer.from_pretrained(folder), read_tokenizer(folder)
    for text in TEXTS:
        assert ours.backend.encode(text).ids == theirs(text, padding=False)["input_ids"], text
        plain = theirs(text, add_special_tokens=False, padding=False)["input_ids"]
        assert ours.encode_texts([text]) == [plain], text
        pair = theirs(text, "the a", padding=False, return_token_type_ids=True)
        encoded = ours.backend.encode(text, "the a")
        assert encoded.ids == pair["input_ids"], text
        assert encoded.type_ids == pair["token_type_ids"], text
    for kind in ("cls", "sep", "pad", "mask", "unk"):
        expected = getattr(theirs, f"{kind}_token_id")
        # Where transformers knows no token, ours may be one that only the vocabulary has.
        if expected is None:
            assert f"{kind}_token" not in ours.special, kind
        elif expected < len(theirs.get_vocab()):
            assert ours.token_id(kind) == expected, kind


@pytest.mark.parametrize("apply", [_vocab_txt_only, _unigram, _byte_level])
def test_framed_ids_are_those_of_an_encoded_text(tmp_path: Path, apply: Change) -> None:
    folder = make_folder(tmp_path / "model")
    apply(folder)
    ours = read_tokenizer(folder)
    first, second = ours.encode_texts(["the reader a", "a a a"])
    single, pair = ours.backend.encode("the reader a"), ours.backend.encode("the reader a", "a a a")
    assert ours.frame(first) == (single.ids, single.type_ids)
    assert ours.frame(first, second) == (pair.ids, pair.type_ids)
    assert ours.special_count(pair=True) == len(pair.ids) - len(first) - len(second)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [(128, 128), (1e30, None), (int(1e30), None), (None, None), (0, None), (-5, None), (64.0, 64)],
)
def test_the_declared_length(tmp_path: Path, declared: Any, expected: int | None) -> None:
    folder = make_folder(tmp_path / "model")
    change(folder, "tokenizer_config.json", model_max_length=declared)
    assert read_tokenizer(folder).max_length == expected


def test_a_vocabulary_with_holes_is_as_large_as_its_last_id(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", rows=40)
    described = json.loads((folder / "tokenizer.json").read_text())
    described["model"]["vocab"]["last"] = 39
    write(folder, "tokenizer.json", described)
    tokenizer = read_tokenizer(folder)
    assert tokenizer.size == 40
    assert tokenizer.encode_texts(["last"]) == [[39]]


def test_a_mask_token_that_only_the_class_names_is_left_out(tmp_path: Path) -> None:
    """transformers adds it behind the last row, where the model has no vector for it."""
    folder = make_folder(tmp_path / "model")
    _padded_rows_without_a_mask_token(folder)
    change(folder, "config.json", vocab_size=18)
    tokenizer = read_tokenizer(folder)
    assert (tokenizer.token_id("mask"), tokenizer.size) == (None, 18)
    assert max(tokenizer.backend.encode("the [MASK]").ids) < 18
    with pytest.raises(ModelError, match="has no mask_token"):
        tokenizer.require("mask")


def _broken(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (
            lambda f: (f / "tokenizer.json").unlink(),
            "has no tokenizer: expected tokenizer.json or vocab.txt",
        ),
        (lambda f: _broken(f, "tokenizer.json", "[]"), "contains a JSON list; expected an object"),
        (lambda f: _broken(f, "tokenizer.json", '{"model'), "is not valid JSON"),
        (lambda f: _broken(f, "tokenizer.json", "[" * 100_000), "is not valid JSON"),
        (
            lambda f: _broken(f, "tokenizer.json", '{"version": "1.0"}'),
            "is not a tokenizer: it has",
        ),
        (lambda f: _broken(f, "tokenizer_config.json", "[1]"), "contains a JSON list"),
        (_settings(model_max_length="512"), "model_max_length = '512'; expected a number"),
        (_settings(tokenizer_class=3), "tokenizer_class = 3; expected a name"),
        (_settings(cls_token=5), "has cls_token = 5 in its tokenizer; expected a token"),
        (_settings(cls_token=None), "has no cls_token; expected a token"),
        (_settings(padding_side="up"), "padding_side = 'up'; expected right or left"),
        (_settings(added_tokens_decoder=[1]), "cannot read the tokenizer in"),
        (_settings(do_lower_case=[1]), "cannot read the tokenizer in"),
        (
            lambda f: change(f, "config.json", vocab_size=7),
            r"ids up to 18 \(19 tokens\).* of 7 rows",
        ),
        (lambda f: change(f, "tokenizer.json", added_tokens=3), "cannot read the tokenizer in"),
    ],
)
def test_a_damaged_tokenizer(tmp_path: Path, apply: Change, message: str) -> None:
    folder = make_folder(tmp_path / "model")
    apply(folder)
    with pytest.raises(ModelError, match=message):
        read_tokenizer(folder)


def test_a_token_around_texts_that_the_model_has_no_row_for(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    described = json.loads((folder / "tokenizer.json").read_text())
    described["post_processor"] = {
        "type": "BertProcessing",
        "sep": ["[SEP]", 900],
        "cls": ["x", 1],
    }
    write(folder, "tokenizer.json", described)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(ModelError, match=r"a token with id 900 around texts, .* of 19 rows"):
        read_tokenizer(folder)


def test_a_vocabulary_in_which_two_tokens_have_one_id(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    described = json.loads((folder / "tokenizer.json").read_text())
    described["model"]["vocab"]["twin"] = described["model"]["vocab"]["the"]
    write(folder, "tokenizer.json", described)
    with pytest.raises(ModelError, match=r"tokens 'the' and 'twin' of .* have one id, 5"):
        read_tokenizer(folder)


def test_a_vocabulary_without_a_token_for_unknown_words(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    described = json.loads((folder / "tokenizer.json").read_text())
    described["added_tokens"] = []
    del described["model"]["vocab"]["[UNK]"]
    write(folder, "tokenizer.json", described)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(ModelError, match=r"no token for unknown words: .* lacks '\[UNK\]'"):
        read_tokenizer(folder)


@pytest.mark.parametrize("model_type", ["roberta", "bert"])
def test_a_padding_that_positions_are_not_counted_from(
    tmp_path: Path, tokenizer_folders: dict[str, Path], model_type: str
) -> None:
    """A WordPiece tokenizer pads with 0; RoBERTa counts positions from its padding, 1."""
    shutil.copytree(tokenizer_folders["bert"], tmp_path / "m")
    config = {"model_type": model_type, "vocab_size": 50_000, "pad_token_id": 1}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    if model_type == "bert":
        # Its positions do not depend on the padding.
        assert read_tokenizer(tmp_path / "m").pad_id == 0
        return
    with pytest.raises(ModelError, match="pads with id 0, and the roberta counts positions") as e:
        read_tokenizer(tmp_path / "m")
    assert e.value.hint == "take tokenizer and model from the same source"

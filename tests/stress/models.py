"""Model folders: configs, tokenizers and weights that are wrong, damaged or unsafe."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from tests.stress.case import CHECK, DONE, INPUT, Case, Prepare
from tests.stress.files import (
    DAMAGES,
    both,
    copies,
    damages,
    edits_json,
    removes,
    sets_json,
    writes,
)
from tests.stress.values import ESCAPE, LONG, WRONG_JSON
from tests.stress.world import World

GROUP = "models"
_EXPORT = ("export", "--model", "teacher", "--text", "text.txt", "--quantize", "fp32")
_DISTILL = ("distill", "recipe.toml")
_INSPECT = ("inspect", "teacher")
# Share of the folders that `inspect` gets, too.
_INSPECTED = 0.4
# Keys that decide shapes: a wrong type or a value that does not fit is refused.
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# Keys whose values transformers may also ignore.
_OTHERS = (
    "architectures",
    "model_type",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
    "initializer_range",
    "hidden_dropout_prob",
    "tie_word_embeddings",
    "is_decoder",
    "id2label",
    "return_dict",
    "dtype",
    "auto_map",
    "quantization_config",
    "position_embedding_type",
    "problem_type",
)
_NOT_OBJECTS: dict[str, str | bytes] = {
    "list": b"[]",
    "null": b"null",
    "number": b"1",
    "text": b'"bert"',
    "empty": b"",
    "empty object": b"{}",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "not UTF-8": b'{"model_type": "b\xffrt"}',
    "utf-16": '{"model_type": "bert"}'.encode("utf-16"),
    "endless integer": b'{"model_type": "bert", "vocab_size": ' + b"9" * 5000 + b"}",
    "long text": b'{"model_type": "' + b"A" * 1_000_000 + b'"}',
}
_ARCHITECTURES: dict[str, Any] = {
    "numbers": [1],
    "unknown": ["NopeForMaskedLM"],
    "decoder": ["BertLMHeadModel"],
    "long": [LONG],
    "escape": [ESCAPE],
    "nested": [["BertForMaskedLM"]],
    "other head": ["BertForQuestionAnswering"],
}


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    for case in _exported_and_distilled(world, random):
        yield case
        if case.arguments == _EXPORT and random.random() < _INSPECTED:
            # What cannot be exported may have facts to show all the same.
            codes = (DONE, INPUT)
            yield replace(case, name=f"inspect: {case.name}", arguments=_INSPECT, codes=codes)


def _exported_and_distilled(world: World, random: Random) -> Iterator[Case]:
    sound = copies(world, "teacher", "text.txt")
    distil = copies(world, "teacher", "corpus.txt", "recipe.toml")

    def export(name: str, *steps: Prepare, codes: tuple[int, ...] = (INPUT,)) -> Case:
        return Case(GROUP, name, _EXPORT, codes, both(sound, *steps))

    def teacher(name: str, *steps: Prepare, codes: tuple[int, ...] = (INPUT,)) -> Case:
        return Case(GROUP, f"teacher: {name}", _DISTILL, codes, both(distil, *steps))

    # config.json
    config = "teacher/config.json"
    for key in _SIZES:
        for name, value in WRONG_JSON.items():
            # `null` and values that the weights do not depend on may mean the default.
            codes = (DONE, INPUT) if name == "null" else (INPUT,)
            make = export if random.random() < 0.7 else teacher
            yield make(f"{key}: {name}", sets_json(config, key, value), codes=codes)
    for key in _OTHERS:
        for name in random.sample(sorted(WRONG_JSON), 4):
            step = sets_json(config, key, WRONG_JSON[name])
            make = export if random.random() < 0.7 else teacher
            yield make(f"{key}: {name}", step, codes=(DONE, INPUT))
    for name, value in _ARCHITECTURES.items():
        codes = (DONE, INPUT) if name == "other head" else (INPUT,)
        yield export(
            f"architectures {name}", sets_json(config, "architectures", value), codes=codes
        )
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        for name, content in _NOT_OBJECTS.items():
            # Nothing of these is a setting of the tokenizer, which is allowed.
            is_optional = file == "tokenizer_config.json" and name in ("empty object", "long text")
            codes = (DONE, INPUT) if is_optional else (INPUT,)
            make = export if random.random() < 0.7 else teacher
            yield make(f"{file} {name}", writes({f"teacher/{file}": content}), codes=codes)
        for name, damage in DAMAGES.items():
            if name in ("bits", "cut", "noise"):
                step = damages(f"teacher/{file}", damage)
                codes = (DONE, INPUT, CHECK)
                yield export(f"{file} {name}", step, codes=codes)
                yield teacher(f"{file} {name}", step, codes=codes)
    yield from _tokenizers(export, teacher)
    yield from _weights(export, teacher)
    yield from _folders(world, sound)


# --- tokenizers ----------------------------------------------------------------------------------


def _tokenizers(export: Any, teacher: Any) -> Iterator[Case]:
    file = "teacher/tokenizer.json"

    def all_alike(document: Any) -> Any:
        document["model"]["vocab"] = dict.fromkeys(document["model"]["vocab"], 7)
        return document

    def beyond(document: Any) -> Any:
        vocabulary = document["model"]["vocab"]
        last = max(vocabulary, key=vocabulary.get)
        vocabulary[last] = 10**6
        return document

    def without(key: str) -> Any:
        def edit(document: Any) -> Any:
            document["model"]["vocab"].pop(key)
            document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != key]
            return document

        return edit

    edits: dict[str, Prepare] = {
        "all ids alike": edits_json(file, all_alike),
        "an id beyond the model": edits_json(file, beyond),
        "no model": edits_json(file, lambda d: {k: v for k, v in d.items() if k != "model"}),
        "no [UNK]": edits_json(file, without("[UNK]")),
        "no [PAD]": edits_json(file, without("[PAD]")),
        "no [CLS]": edits_json(file, without("[CLS]")),
        "empty vocabulary": sets_json(file, "model.vocab", {}),
        "vocabulary is a list": sets_json(file, "model.vocab", []),
        "negative id": sets_json(file, "model.vocab.[UNK]", -1),
        "huge id": sets_json(file, "model.vocab.[UNK]", 2**40),
        "id is text": sets_json(file, "model.vocab.[UNK]", "1"),
        "unknown type": sets_json(file, "model.type", "Nope"),
        "added token beyond the model": sets_json(file, "added_tokens.0.id", 10**6),
        "added tokens is null": sets_json(file, "added_tokens", None),
        "unknown normalizer": sets_json(file, "normalizer", {"type": "Nope"}),
        "unknown processor": sets_json(file, "post_processor", {"type": "Nope"}),
        "endless pattern": sets_json(
            file, "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}}
        ),
        "processor with other ids": sets_json(file, "post_processor.sep", ["[SEP]", 10**6]),
    }
    lenient = {"added tokens is null", "no [PAD]", "no [UNK]", "endless pattern"}
    # The vocabulary decides the id of a token that it has, for transformers too.
    lenient.add("added token beyond the model")
    for name, step in edits.items():
        codes = (DONE, INPUT) if name in lenient else (INPUT,)
        yield export(f"tokenizer: {name}", step, codes=codes)
        if name not in lenient:
            yield teacher(f"tokenizer: {name}", step)
    for key, value in (
        ("pad_token", 1),
        ("pad_token", []),
        ("tokenizer_class", "Nope"),
        ("tokenizer_class", 1),
        ("model_max_length", -1),
        ("model_max_length", "x"),
        ("auto_map", {"AutoTokenizer": ["evil.Evil", None]}),
    ):
        step = sets_json("teacher/tokenizer_config.json", key, value)
        name = f"tokenizer_config: {key} {type(value).__name__} {value!r:.12}"
        yield export(name, both(step, _python_file), codes=(DONE, INPUT))
    yield export("no tokenizer", removes(file, "teacher/tokenizer_config.json"))
    yield export("tokenizer is a folder", both(removes(file), _folder(file)))


# --- weights -------------------------------------------------------------------------------------


def _weights(export: Any, teacher: Any) -> Iterator[Case]:
    file = "teacher/model.safetensors"
    header_edits: dict[str, Any] = {
        "offsets beyond the file": ("data_offsets", [0, 10**12]),
        "negative offsets": ("data_offsets", [-8, 8]),
        "overlapping offsets": ("data_offsets", [64, 192]),
        "offsets are text": ("data_offsets", "0"),
        "unknown type": ("dtype", "F99"),
        "type is a number": ("dtype", 1),
        "huge shape": ("shape", [2**40, 2**40]),
        "negative shape": ("shape", [-1, 32]),
        "shape is null": ("shape", None),
        "other shape": ("shape", [5]),
    }
    for name, (key, value) in header_edits.items():
        step = damages(file, _edit_header(key, value))
        yield export(f"header: {name}", step)
        yield teacher(f"header: {name}", step)
    headers: dict[str, bytes] = {
        "size of 2^60": struct.pack("<Q", 2**60),
        "size beyond the file": struct.pack("<Q", 10**6) + b"{}",
        "a list": struct.pack("<Q", 2) + b"[]",
        "no tensors": struct.pack("<Q", 2) + b"{}",
        "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "not UTF-8": struct.pack("<Q", 4) + b'"\xff"}',
    }
    for name, content in headers.items():
        yield export(f"file: {name}", writes({file: content}))
        yield teacher(f"file: {name}", writes({file: content}))
    for name, damage in DAMAGES.items():
        codes = (DONE, 1, INPUT, CHECK) if name in ("bits", "noise") else (INPUT,)
        if name == "cut":
            codes = (INPUT,)
        yield export(f"weights {name}", damages(file, damage), codes=codes)
        yield teacher(f"weights {name}", damages(file, damage), codes=codes)
    for name, value in (("NaN", float("nan")), ("infinite", float("inf")), ("huge", 3e38)):
        yield export(f"weights are {name}", damages(file, _fill(value)))
        yield teacher(f"weights are {name}", damages(file, _fill(value)))
    index = "teacher/model.safetensors.index.json"
    for name, value in {
        "a list": [],
        "no map": {},
        "map is a list": {"weight_map": []},
        "outside": {"weight_map": {"bert.pooler.dense.bias": "../../x.safetensors"}},
        "absolute": {"weight_map": {"bert.pooler.dense.bias": "/etc/passwd"}},
        "missing shard": {"weight_map": {"bert.pooler.dense.bias": "nope.safetensors"}},
        "numbers": {"weight_map": {"a": 1}},
    }.items():
        steps = both(_rename(file, "teacher/x.safetensors"), writes({index: json.dumps(value)}))
        yield export(f"index: {name}", steps)
    pickled = pickle.dumps(_Evil())
    yield export("only a pickle", removes(file), writes({"teacher/pytorch_model.bin": pickled}))
    both_kinds = writes({"teacher/pytorch_model.bin": pickled, "teacher/x.pt": pickled})
    yield export("a pickle too", both_kinds, codes=(DONE, INPUT))
    yield export("weights are a folder", removes(file), _folder(file))
    yield export("weights are missing", removes(file))


def _edit_header(key: str, value: Any) -> Any:
    """Returns a damage that sets a key of the first tensor in a safetensors header."""

    def damage(data: bytes, _random: Random) -> bytes:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        name = next(name for name in sorted(header) if name != "__metadata__")
        header[name][key] = value
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return damage


def _fill(value: float) -> Any:
    """Returns a damage that replaces every weight."""

    def damage(data: bytes, _random: Random) -> bytes:
        (size,) = struct.unpack("<Q", data[:8])
        weights = (len(data) - 8 - size) // 4
        return data[: 8 + size] + struct.pack("<f", value) * weights

    return damage


class _Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/edgedistil-stress-unpickled",)


# --- folders -------------------------------------------------------------------------------------


def _folders(world: World, sound: Prepare) -> Iterator[Case]:
    for name, argument in {
        "missing": "./nope",
        "a file": "text.txt",
        "empty": "",
        "blank": " ",
        "long": LONG,
        "escape": ESCAPE,
        "parent": "../../..",
        "hub id": "no-such-user/no-such-model",
        "three parts": "a/b/c",
        "device": "/dev/zero",
        "home": "~no-user/model",
        "url": "http://[::1/x",
        "lines": "a\nb",
    }.items():
        arguments = ("export", "--model", argument, "--text", "text.txt")
        yield Case(GROUP, f"folder {name}", arguments, (INPUT,), sound)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        pipe = both(sound, removes(f"teacher/{name}"), _pipe(f"teacher/{name}"))
        yield Case(GROUP, f"{name} is a pipe", _EXPORT, (INPUT,), pipe)
        loop = both(sound, removes(f"teacher/{name}"), _loop(f"teacher/{name}"))
        yield Case(GROUP, f"{name} is a loop", _EXPORT, (INPUT,), loop)
    for name, folder in {
        "a shell command": "it's; $(touch pwned) `touch pwned`",
        "markup": "[red]x[/nope]",
        "escape in its name": "x\x1b[31my",
        "latest": "latest",
        "dots": "..x..",
        "240 letters": "m" * 240,
    }.items():
        arguments = ("export", "--model", folder, "--text", "text.txt", "--quantize", "fp32")
        prepare = both(sound, _rename("teacher", folder))
        yield Case(GROUP, f"folder named {name}", arguments, (DONE, INPUT), prepare)
    encoder = ("export", "--model", "encoder", "--text", "text.txt", "--quantize", "fp32")
    for task in ("fill-mask", "text-classification", "nope", "", LONG, ESCAPE):
        prepare = copies(world, "encoder", "text.txt")
        yield Case(GROUP, f"--task {task[:20]!r}", (*encoder, "--task", task), (INPUT,), prepare)
    small_limit = sets_json("teacher/tokenizer_config.json", "model_max_length", 4)
    yield Case(GROUP, "4 positions", _EXPORT, (DONE, INPUT), both(sound, small_limit))


def _python_file(work: Path, _random: Random) -> None:
    code = "from pathlib import Path\nPath('pwned').write_text('')\nclass Evil:\n    pass\n"
    (work / "teacher" / "evil.py").write_text(code)


def _rename(old: str, new: str) -> Prepare:
    return lambda work, _random: shutil.move(work / old, work / new) and None


def _folder(name: str) -> Prepare:
    return lambda work, _random: (work / name).mkdir()


def _pipe(name: str) -> Prepare:
    return lambda work, _random: os.mkfifo(work / name)


def _loop(name: str) -> Prepare:
    return lambda work, _random: (work / name).symlink_to(Path(name).name)

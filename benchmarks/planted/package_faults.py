"""Faults that are planted in the files around the graphs of a package."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Change = Callable[[Any], bool]


@dataclass(frozen=True)
class PackageFault:
    """One fault.

    Attributes:
        name: What is wrong.
        file: The file that is changed.
        change: Changes its content; False where it has no such place.
    """

    name: str
    file: str
    change: Change

    def apply(self, folder: Path) -> bool:
        """Plants the fault in a copy of a package."""
        path = folder / self.file
        content = json.loads(path.read_text(encoding="utf-8"))
        if not self.change(content):
            return False
        path.write_text(json.dumps(content), encoding="utf-8")
        return True


def _config(key: str, value: Callable[[Any], Any]) -> Change:
    def change(config: Any) -> bool:
        if key not in config:
            return False
        config[key] = value(config[key])
        return True

    return change


def _set_config(key: str, value: Any) -> Change:
    def change(config: Any) -> bool:
        config[key] = value
        return True

    return change


def _turn_labels(labels: dict[str, str]) -> dict[str, str]:
    names = list(labels.values())
    return dict(zip(labels, [*names[1:], names[0]], strict=True))


def _swap_words(tokenizer: Any) -> bool:
    words = tokenizer["model"]["vocab"]
    first, second = sorted(words)[-2:]
    words[first], words[second] = words[second], words[first]
    return True


def _shift_words(tokenizer: Any) -> bool:
    words = tokenizer["model"]["vocab"]
    names = [name for name in sorted(words, key=lambda name: words[name]) if name[0] != "["]
    ids = [words[name] for name in names]
    words.update(zip(names, [*ids[1:], ids[0]], strict=True))
    return True


def _other_case(tokenizer: Any) -> bool:
    tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]
    return True


def _other_accents(tokenizer: Any) -> bool:
    tokenizer["normalizer"]["strip_accents"] = not tokenizer["normalizer"]["strip_accents"]
    return True


def _no_separator(tokenizer: Any) -> bool:
    tokenizer["post_processor"]["single"].pop()
    return True


def _one_segment(tokenizer: Any) -> bool:
    for part in tokenizer["post_processor"]["pair"]:
        next(iter(part.values()))["type_id"] = 0
    return True


def _other_prefix(tokenizer: Any) -> bool:
    tokenizer["model"]["continuing_subword_prefix"] = "@@"
    return True


def _other_graph(session: Any) -> bool:
    session["artefacts"] = {"onnx/other.onnx": next(iter(session["artefacts"].values()))}
    return True


PACKAGE_FAULTS = [
    PackageFault("labels turned", "config.json", _config("id2label", _turn_labels)),
    PackageFault(
        "another problem type",
        "config.json",
        _set_config("problem_type", "regression"),
    ),
    PackageFault("another epsilon", "config.json", _set_config("layer_norm_eps", 1e-3)),
    PackageFault("another padding id", "config.json", _set_config("pad_token_id", 3)),
    PackageFault("another activation", "config.json", _set_config("hidden_act", "relu")),
    PackageFault("more heads", "config.json", _config("num_attention_heads", lambda n: 2 * n)),
    PackageFault("two words exchanged", "tokenizer.json", _swap_words),
    PackageFault("all words shifted", "tokenizer.json", _shift_words),
    PackageFault("capitals not lowered", "tokenizer.json", _other_case),
    PackageFault("accents kept or dropped", "tokenizer.json", _other_accents),
    PackageFault("no separator at the end", "tokenizer.json", _no_separator),
    PackageFault("pairs of one segment", "tokenizer.json", _one_segment),
    PackageFault("another prefix of word parts", "tokenizer.json", _other_prefix),
    PackageFault("session options of another graph", "session.json", _other_graph),
]

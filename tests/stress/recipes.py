"""Recipes: wrong types, values at the bounds, texts, and files that are not recipes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from random import Random
from typing import Any

from edgedistil.core.recipe import Recipe
from tests.stress.case import DONE, INPUT, Case, Prepare
from tests.stress.files import TEXT_DAMAGES, both, copies, damages, writes
from tests.stress.values import (
    ESCAPE,
    LONG,
    NUMBERS,
    TEXTS,
    WRONG_TOML,
    Raw,
    dotted,
    is_number,
    is_text,
    keys,
    toml,
    with_value,
)
from tests.stress.world import RECIPE, World

GROUP = "recipes"
SOUND: dict[str, Any] = tomllib.loads(RECIPE)
# Values that the types allow, and that cannot work or mean nothing.
_REFUSED = {
    "betas of 1": (("train", "betas"), [1.0, 1.0]),
    "betas of 2 and 3": (("train", "betas"), [2.0, 3.0]),
    "betas below 0": (("train", "betas"), [-0.1, 0.5]),
    "tiny temperature": (("loss", "temperature"), 1e-300),
    "huge temperature": (("loss", "temperature"), 1e300),
    "dropout of almost 1": (("student", "dropout"), 0.99999999),
    "huge batch": (("train",), {"steps": 1, "global_batch": 10**9, "micro_batch": 1}),
    "batches that do not divide": (("train",), {"steps": 1, "global_batch": 5, "micro_batch": 2}),
    "three lengths": (("train",), {"steps": 1, "tokens": 5, "epochs": 2}),
    "layer beyond the teacher": (("student", "layers"), [0, 99]),
    "no layers": (("student", "layers"), []),
    "all losses 0": (("loss",), {"soft_target": 0, "mlm": 0, "cosine": 0}),
    "block beyond the positions": (("corpus", "block_length"), 4096),
    "no sources": (("corpus", "sources"), []),
    "two origins": (("corpus", "sources"), [{"files": "corpus.txt", "hub": "a/b"}]),
    "unknown asset": (("corpus", "sources"), [{"asset": "nope"}]),
    "missing text": (("corpus", "sources"), [{"files": "nope.txt"}]),
    "glob without files": (("corpus", "sources"), [{"files": "nope/*.txt"}]),
    "hub without network": (("corpus", "sources"), [{"hub": "no/such-data-set"}]),
    "unknown tracker": (("train", "trackers"), ["nope"]),
    "unknown precision": (("train", "precision"), "float8"),
    "unknown key int": (("int",), 1),
    "unknown key bool": (("train", "bool"), 1),
    "unknown key with brackets": (("list[int]",), 1),
    "unknown section": (("trian",), {"steps": 1}),
    "teacher is a file": (("teacher", "source"), "corpus.txt"),
    "teacher is missing": (("teacher", "source"), "./nope"),
    "teacher asset unknown": (("teacher", "source"), "asset:nope"),
    "unknown init": (("student", "init"), "nope"),
    "float seed": (("seed",), 1.5),
    "huge seed": (("seed",), 2**40),
}
_FILES: dict[str, str | bytes] = {
    "empty": b"",
    "one byte": b"\xff",
    "utf-16": RECIPE.encode("utf-16"),
    "latin-1": RECIPE.replace("small", "sm\xe4ll").encode("latin-1"),
    "nul": RECIPE.encode() + b"\0",
    "json": b'{"name": "small"}',
    "deep arrays": "x = " + "[" * 5000 + "]" * 5000,
    "deep tables": "x = " + "{a = " * 3000 + "1" + "}" * 3000,
    "deep keys": ".".join(["a"] * 5000) + " = 1",
    "a long line": "x = '" + LONG * 20 + "'",
    "a long key": f"{LONG} = 1\n" + RECIPE,
    "a key with escapes": f'"{chr(92)}u001b[31mred" = 1\n' + RECIPE,
    "an endless integer": "seed = " + "9" * 5000 + "\n" + RECIPE,
    "same key twice": RECIPE + "\n[teacher]\nsource = 'teacher'\n",
    "byte order mark": b"\xef\xbb\xbf" + RECIPE.encode(),
    "random bytes": bytes(range(256)) * 8,
    "100,000 keys": "\n".join(f"k{i} = {i}" for i in range(100_000)),
}
_INPUTS = ("teacher", "corpus.txt", "task.toml", "train.csv", "dev.csv")


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    inputs = copies(world, *_INPUTS)

    def case(
        name: str,
        recipe: str | bytes,
        *more: str,
        codes: tuple[int, ...] = (INPUT,),
        expected: tuple[str, ...] = (),
    ) -> Case:
        prepare = both(inputs, writes({"recipe.toml": recipe}))
        arguments = ("distill", "recipe.toml", *more)
        return Case(GROUP, name, arguments, codes, prepare, expected)

    # Every key with a value of a wrong type.
    for path, _field in keys(Recipe, SOUND):
        for kind in random.sample(sorted(WRONG_TOML), 1):
            data = with_value(SOUND, path, Raw(WRONG_TOML[kind]))
            expected = (str(path[-1]),)
            yield case(f"{dotted(path)}: {kind}", toml(data), expected=expected)

    # Numbers at the bounds: a plan has to end, whatever is planned.
    for path, field in keys(Recipe, SOUND):
        if is_number(field):
            kind = random.choice(sorted(NUMBERS))
            data = with_value(SOUND, path, Raw(NUMBERS[kind]))
            yield case(f"{dotted(path)}: {kind}", toml(data), "--plan", codes=(DONE, INPUT))

    # Texts in keys that take any text.
    for path, field in keys(Recipe, SOUND):
        if is_text(field):
            kind = random.choice(sorted(TEXTS))
            data = with_value(SOUND, path, TEXTS[kind])
            yield case(f"{dotted(path)}: text {kind}", toml(data), codes=(DONE, INPUT))

    for name, (path, value) in _REFUSED.items():
        yield case(name, toml(with_value(SOUND, path, value)))
    for name, content in _FILES.items():
        codes = (DONE, INPUT) if name == "byte order mark" else (INPUT,)
        yield case(f"file: {name}", content, codes=codes)
    for name, damage in TEXT_DAMAGES.items():
        for number in range(3):
            prepare = both(inputs, copies(world, "recipe.toml"), damages("recipe.toml", damage))
            arguments = ("distill", "recipe.toml", "--plan")
            yield Case(GROUP, f"{name} {number}", arguments, (DONE, INPUT), prepare)
    yield from _other_paths(inputs)


def _other_paths(inputs: Prepare) -> Iterator[Case]:
    """Yields cases whose recipe is not a file, or has an unusual name."""

    def folder(work: Any, _random: Random) -> None:
        (work / "recipe.toml").mkdir()

    def pipe(work: Any, _random: Random) -> None:
        import os

        os.mkfifo(work / "recipe.toml")

    for name, prepare in (("a folder", folder), ("a named pipe", pipe)):
        yield Case(GROUP, name, ("distill", "recipe.toml"), (INPUT,), both(inputs, prepare))
    for name, argument in {
        "missing": "nope.toml",
        "device": "/dev/zero",
        "empty argument": "",
        "long argument": LONG,
        "escape argument": ESCAPE,
        "argument with lines": "a\nb.toml",
        "a folder of ours": "teacher",
        "almost a shipped one": "tinny",
    }.items():
        for command in ("distill", "run"):
            yield Case(GROUP, f"{name} ({command})", (command, argument), (INPUT,), inputs)

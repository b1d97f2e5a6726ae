"""`--set KEY=VALUE`: keys and values of any shape."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from edgedistil.core.recipe import Recipe
from tests.stress.case import DONE, INPUT, Case
from tests.stress.files import copies
from tests.stress.recipes import SOUND
from tests.stress.values import ESCAPE, LONG, NUMBERS, TEXTS, WRONG_TOML, dotted, is_number, keys
from tests.stress.world import World

GROUP = "overrides"
_REFUSED = {
    "no equals sign": "train.steps",
    "no key": "=1",
    "blank key": " =1",
    "only dots": "...=1",
    "ends with a dot": "train.=1",
    "starts with a dot": ".train=1",
    "two dots": "train..steps=1",
    "below a value": "name.x=1",
    "below a list": "corpus.sources.files=1",
    "index of a list": "corpus.sources.0.files=x",
    "unknown key": "train.stepps=3",
    "unknown section": "trian.steps=3",
    "key int": "int=1",
    "key with brackets": "list[int]=1",
    "key bool in a section": "train.bool=1",
    "long key": f"{LONG}=1",
    "key with escapes": f"{ESCAPE}=1",
    "key with lines": "a\nb=1",
    "deep key": ".".join(["a"] * 3000) + "=1",
    "deep value": "seed=" + "[" * 5000 + "]" * 5000,
    "deep table": "seed=" + "{a=" * 3000 + "1" + "}" * 3000,
    "endless integer": "seed=" + "9" * 5000,
    "long text": f"seed={LONG}",
    "megabyte": "seed=" + "B" * 100_000,
    "text with escapes": f"seed={ESCAPE}",
    "second line adds a key": "seed=1\nname='x'",
    "section becomes a number": "train=1",
    "unclosed list": "train.betas=[1.0",
    "unclosed text": 'seed="abc',
    "date": "seed=1979-05-27",
    "betas of 1": "train.betas=[1.0, 1.0]",
    "tiny temperature": "loss.temperature=1e-300",
    "huge batch": "train.global_batch=1000000000",
    "dropout of almost 1": "student.dropout=0.99999999",
    "control characters": "seed=\x07\x08\x7f",
    "direction": "seed=a\u202eb",
}


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    inputs = copies(
        world, "recipe.toml", "teacher", "corpus.txt", "task.toml", "train.csv", "dev.csv"
    )
    command = ("distill", "recipe.toml", "--set")
    for name, override in _REFUSED.items():
        yield Case(GROUP, name, (*command, override), (INPUT,), inputs)
    paths = [(path, field) for path, field in keys(Recipe, SOUND) if 0 not in path]
    for path, _field in random.sample(paths, 24):
        kind = random.choice(sorted(WRONG_TOML))
        override = f"{dotted(path)}={WRONG_TOML[kind]}"
        name = f"{dotted(path)}: {kind}"
        yield Case(GROUP, name, (*command, override), (INPUT,), inputs, (str(path[-1]),))
    for path, field in random.sample(paths, 30):
        values = NUMBERS if is_number(field) else TEXTS
        # A NUL cannot be part of a command line.
        kind = random.choice(sorted(set(values) - {"nul"}))
        override = f"{dotted(path)}={values[kind]}"
        name = f"{dotted(path)}: value {kind}"
        arguments = ("distill", "recipe.toml", "--plan", "--set", override)
        yield Case(GROUP, name, arguments, (DONE, INPUT), inputs)

"""Device files: wrong types, values at the bounds, texts, and files that are not device files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from random import Random

from edgedistil.core.device import DeviceSpec
from tests.stress.case import DONE, INPUT, Case
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
from tests.stress.world import ROOT, World

GROUP = "devices"
_PREDICT = ("profile", "--device", "board.toml", "--run", "small")


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    text = (ROOT / "devices" / "rpi4.toml").read_text()
    sound = {**tomllib.loads(text), "name": "board"}
    show = ("devices", "show", "board.toml")
    for path, _field in keys(DeviceSpec, sound):
        kind = random.choice(sorted(WRONG_TOML))
        data = toml(with_value(sound, path, Raw(WRONG_TOML[kind])))
        prepare = writes({"board.toml": data})
        yield Case(GROUP, f"{dotted(path)}: {kind}", show, (INPUT,), prepare, (str(path[-1]),))

    # Figures and texts: a prediction uses them all.
    paths = list(keys(DeviceSpec, sound))
    numbers = [path for path, field in paths if is_number(field)]
    texts = [path for path, field in paths if is_text(field)]
    for index, path in enumerate(numbers):
        kind = random.choice(sorted(NUMBERS))
        prepare = both(
            copies(world, "runs"),
            writes({"board.toml": toml(with_value(sound, path, Raw(NUMBERS[kind])))}),
        )
        command = _PREDICT if index % 2 else show
        yield Case(GROUP, f"{dotted(path)}: {kind}", command, (DONE, INPUT), prepare)
    for path in random.sample(texts, min(len(texts), 16)):
        kind = random.choice(sorted(TEXTS))
        prepare = writes({"board.toml": toml(with_value(sound, path, TEXTS[kind]))})
        yield Case(GROUP, f"{dotted(path)}: text {kind}", show, (DONE, INPUT), prepare)
    for kind in ("escape", "markup", "html", "long", "lines"):
        prepare = writes({"devices/board.toml": toml({**sound, "title": TEXTS[kind]})})
        yield Case(GROUP, f"title {kind} in the list", ("devices", "list"), (DONE, INPUT), prepare)

    for name, damage in TEXT_DAMAGES.items():
        for number in range(2):
            prepare = both(copies(world, "board.toml"), damages("board.toml", damage))
            yield Case(GROUP, f"{name} {number}", show, (DONE, INPUT), prepare)
            prepare = both(
                writes({"devices/board.toml": text}), damages("devices/board.toml", damage)
            )
            arguments = ("devices", "list")
            yield Case(GROUP, f"{name} {number} in the list", arguments, (DONE, INPUT), prepare)
    for name, argument in {
        "unknown": "rpi44",
        "empty": "",
        "parent": "../../etc/passwd",
        "long": LONG,
        "escape": ESCAPE,
        "zeros": "/dev/zero",
        "folder": "/etc",
        "blank": " ",
    }.items():
        for command in (("devices", "show", argument), ("profile", "--device", argument)):
            yield Case(GROUP, f"{command[0]} {name}", command, (INPUT,), copies(world, "runs"))
        # An empty target is an unset variable of a shell.
        arguments = ("export", "--target", argument, "--quantize", "int8")
        yield Case(GROUP, f"target {name}", arguments, (INPUT,), copies(world, "runs"))

"""Prepares the working folder of a case: copies sound inputs, writes and damages files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from tests.stress.case import Prepare
from tests.stress.world import World

Damage = Callable[[bytes, Random], bytes]


def both(*steps: Prepare) -> Prepare:
    """Returns the steps, one after the other."""

    def prepare(work: Path, random: Random) -> None:
        for step in steps:
            step(work, random)

    return prepare


def copies(world: World, *names: str) -> Prepare:
    """Copies sound inputs."""
    return lambda work, _random: world.copy(work, *names)


def writes(files: Mapping[str, str | bytes]) -> Prepare:
    """Writes files; text as UTF-8, with lone surrogates as they are."""

    def prepare(work: Path, _random: Random) -> None:
        for name, content in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            )

    return prepare


def damages(name: str, damage: Damage) -> Prepare:
    """Replaces a file by what `damage` makes of it."""

    def prepare(work: Path, random: Random) -> None:
        path = work / name
        path.write_bytes(damage(path.read_bytes(), random))

    return prepare


def edits_json(name: str, edit: Callable[[Any], Any]) -> Prepare:
    """Replaces a JSON file by what `edit` returns for its value; NaN is written as NaN."""

    def prepare(work: Path, _random: Random) -> None:
        path = work / name
        path.write_text(json.dumps(edit(json.loads(path.read_text()))))

    return prepare


def sets_json(name: str, key: str, value: Any) -> Prepare:
    """Sets a key of the object in a JSON file; dots lead into objects and lists."""

    def edit(document: Any) -> Any:
        *parents, last = key.split(".")
        place = document
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[int(last) if last.isdigit() else last] = value
        return document

    return edits_json(name, edit)


def removes(*names: str) -> Prepare:
    """Removes files."""

    def prepare(work: Path, _random: Random) -> None:
        for name in names:
            (work / name).unlink()

    return prepare


# --- damage of bytes -----------------------------------------------------------------------------


def flip_bits(count: int = 3, *, within: float = 1.0) -> Damage:
    """Flips some bits in the first part of a file."""

    def damage(data: bytes, random: Random) -> bytes:
        changed = bytearray(data)
        for _ in range(count):
            changed[random.randrange(max(1, int(len(data) * within)))] ^= 1 << random.randrange(8)
        return bytes(changed)

    return damage


def cut(data: bytes, random: Random) -> bytes:
    """Cuts a file at a random place."""
    return data[: random.randrange(1, max(2, len(data)))]


def empty(_data: bytes, _random: Random) -> bytes:
    """Leaves nothing."""
    return b""


def zeros(data: bytes, _random: Random) -> bytes:
    """Replaces all bytes by zeros."""
    return bytes(len(data))


def swap_lines(data: bytes, random: Random) -> bytes:
    """Exchanges two lines."""
    lines = data.split(b"\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def double_line(data: bytes, random: Random) -> bytes:
    """Repeats a line."""
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    return b"\n".join([*lines[:place], lines[place], *lines[place:]])


def insert_noise(data: bytes, random: Random) -> bytes:
    """Inserts 40 random bytes."""
    place = random.randrange(len(data) + 1)
    return data[:place] + random.randbytes(40) + data[place:]


DAMAGES: dict[str, Damage] = {
    "bits": flip_bits(),
    "cut": cut,
    "empty": empty,
    "zeros": zeros,
    "noise": insert_noise,
}
TEXT_DAMAGES: dict[str, Damage] = {**DAMAGES, "swapped": swap_lines, "doubled": double_line}

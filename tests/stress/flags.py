"""Options of the commands: values at the bounds, and options that exclude each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.stress.case import CHECK, DEVICE, DONE, INPUT, Case, Prepare
from tests.stress.files import both, copies, writes
from tests.stress.values import ESCAPE, LONG
from tests.stress.world import RUN, STUDENT_GRAPH, World

GROUP = "flags"
# Values of options with a number; every one has to be refused.
_NUMBERS = ("0", "-1", "1.5", "x", "", "1e3", "9" * 30, "9" * 5000, "nan")
_MEMORY = ("", "0", "-1M", "M", "12Q", "1e999M", "nan", "inf", "9" * 400 + "G", "1.5.5M", ESCAPE)
_CLAIMS = (
    "",
    "speedup",
    "speedup>",
    "speedup>=",
    "speedup>=x",
    "speedup>=nan",
    "speedup>=inf",
    ">=1",
    "nope>=1",
    "speedup=>1",
    "speedup>=1; touch pwned",
    "speedup>=" + "9" * 5000,
    LONG,
    ESCAPE,
)
_DROPS = ("-1", "2", "inf", "nan", "x", "", "-0.0001", "1e400")
_CELLS = (
    "",
    ":",
    "::",
    "task",
    "task.toml:student",
    "task.toml:student:x",
    "task.toml:student:-1",
    f"task.toml:student:{10**12}",
    "task.toml:nope:1",
    "nope:student:1",
    "task.toml:../student:1",
    LONG,
    ESCAPE,
)
_ADDRESSES = {
    "nonsense": "nonsense",
    "empty": "",
    "three parts": "a/b/c",
    "blank": "user/na me",
    "parent": "../x",
    "escape": ESCAPE,
    "long": LONG,
    "http": "http://127.0.0.1/x",
    "relative": "file:relative",
    "another host": "file://host/x",
    "nul": "file:///x%00y",
    "a used folder": "file://{work}/used",
    "below a file": "file://{work}/text.txt/x",
    "not absolute": "file://./x",
    "without network": "user/name",
}


def cases(world: World, _random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    run = _copies_run(world)
    yield from _numbers(run)
    for value in _MEMORY:
        arguments = ("profile", "--run", RUN, "--memory-limit", value)
        yield Case(GROUP, f"--memory-limit {value[:20]!r}", arguments, (INPUT,), run)
    for value in _CLAIMS:
        arguments = ("profile", "--run", RUN, "--device", "rpi4", "--require", value)
        yield Case(GROUP, f"--require {value[:24]!r}", arguments, (INPUT,), run)
    yield from _checks(run)
    model = copies(world, "teacher", "text.txt")
    export = ("export", "--model", "teacher", "--text", "text.txt", "--quantize")
    for value in _DROPS:
        arguments = (*export, "auto", f"--max-drop={value}")
        yield Case(GROUP, f"--max-drop {value!r}", arguments, (INPUT,), model)
    for value in _CELLS:
        arguments = ("evaluate", "--run", RUN, f"--cell={value}")
        yield Case(GROUP, f"--cell {value[:40]!r}", arguments, (INPUT,), run)
    yield from _pushes(model, export)
    yield from _combinations(run, model, export)
    yield from _words(run)


def _copies_run(world: World) -> Prepare:
    def prepare(work: Path, _random: Random) -> None:
        world.copy_run(work)

    return both(prepare, copies(world, "text.txt"))


def _numbers(run: Prepare) -> Iterator[Case]:
    task = ("evaluate", "--run", RUN, "--task", "task.toml", "--model", "student")
    measure = ("profile", "--model", STUDENT_GRAPH)
    for value in _NUMBERS:
        shown = f"{value[:12]!r} {len(value)}"
        for flag, command in (
            ("--seeds", task),
            ("--jobs", task),
            ("--threads", (*measure, "--length", "8")),
            ("--length", (*measure, "--threads", "1")),
        ):
            yield Case(GROUP, f"{flag} {shown}", (*command, f"{flag}={value}"), (INPUT,), run)
    for flag, value in (
        ("--threads", "1000"),
        ("--threads", "100000"),
        ("--length", "1"),
        ("--length", "1000"),
        ("--length", "1000000000"),
    ):
        arguments = (*measure, f"{flag}={value}")
        yield Case(GROUP, f"{flag} {value}", arguments, (INPUT,), run)
    arguments = (*task, f"--seeds={10**12}")
    yield Case(GROUP, "--seeds of a trillion", arguments, (INPUT,), run)
    arguments = ("distill", "recipe.toml", "--plan", "--set", f"evaluate.seeds={10**12}")
    yield Case(GROUP, "evaluate.seeds of a trillion", arguments, (INPUT,), run)


def _checks(run: Prepare) -> Iterator[Case]:
    """Yields claims that are understood; 3 says that one does not hold."""
    predict = ("profile", "--run", RUN, "--device", "rpi4", "--require")
    for value in ("peak_mib<=1", "speedup>=1000", "speedup>=0.0001", "peak_mib<=100000"):
        yield Case(GROUP, f"--require {value}", (*predict, value), (DONE, INPUT, CHECK), run)
    limit = ("profile", "--model", STUDENT_GRAPH, "--length", "8", "--memory-limit")
    for value in ("1", "1K", "64M"):
        codes = (DONE, INPUT, CHECK, DEVICE)
        yield Case(GROUP, f"--memory-limit {value}", (*limit, value), codes, run)


def _pushes(model: Prepare, export: tuple[str, ...]) -> Iterator[Case]:
    used = writes({"used/mine.txt": "my own file"})
    for name, address in _ADDRESSES.items():
        prepare = both(model, used)
        environment = {}
        argument = address
        if "{work}" in address:
            # The shell is not involved; the address has the folder's name only when it runs.
            argument = address.replace("file://{work}", "file:///proc/self/cwd")
        arguments = (*export, "fp32", f"--push={argument}")
        yield Case(GROUP, f"--push {name}", arguments, (INPUT,), prepare, environment=environment)
    arguments = (*export, "fp32", "--push=file:///proc/self/cwd/pushed")
    yield Case(GROUP, "--push to a new folder", arguments, (DONE,), model, check=_is_pushed)


def _is_pushed(work: Path) -> list[str]:
    is_complete = (work / "pushed" / "config.json").is_file()
    return [] if is_complete else ["pushed/config.json is missing"]


def _combinations(run: Prepare, model: Prepare, export: tuple[str, ...]) -> Iterator[Case]:
    profile = ("profile", "--run", RUN)
    for flags in (
        ("--emulate",),
        ("--emulate", "--ssh", "host"),
        ("--bootstrap",),
        ("--memory-limit", "64M", "--ssh", "host"),
        ("--memory-limit", "64M", "--device", "rpi4"),
        ("--tune", "--device", "rpi4"),
        ("--calibrate", "--device", "rpi4"),
        ("--device", "nope"),
        ("--model", "nope.onnx"),
        ("--text", "nope.txt"),
    ):
        yield Case(GROUP, f"profile {' '.join(flags)}", (*profile, *flags), (INPUT,), run)
    for flags in (
        ("--quantize", "fp8"),
        ("--quantize", ""),
        ("--format", "tflite"),
        ("--target", "nope"),
        ("--target", ""),
        ("--task", "nope"),
        ("--text", "nope.txt"),
        ("--run", "other"),
    ):
        # `--run` with `--model` may be honoured; nothing else here can be.
        codes = (DONE, INPUT) if flags[0] == "--run" else (INPUT,)
        name = f"export {' '.join(flags)}"
        yield Case(GROUP, name, (*export, "fp32", *flags), codes, model)
    for flags in (
        ("--model", "nope"),
        ("--model", ""),
        ("--task", "nope.toml"),
        ("--data", "nope"),
        ("--artefact", "fp8"),
        ("--model", "../../x"),
    ):
        arguments = ("evaluate", "--run", RUN, *flags)
        yield Case(GROUP, f"evaluate {' '.join(flags)}", arguments, (INPUT,), run)


def _words(run: Prepare) -> Iterator[Case]:
    """Yields command lines that are not ours at all."""
    for name, arguments in {
        "unknown command": ("distil",),
        "unknown flag": ("report", "--nope"),
        "flag without a value": ("report", "--run"),
        "too many arguments": ("report", "a", "b", "c"),
        "missing argument": ("distill",),
        "long command": (LONG,),
        "escape command": (ESCAPE,),
        "long flag": (f"--{LONG}",),
        "escape flag": (f"--{ESCAPE}",),
        "lines": ("report", "--run", "a\nb\nc"),
        "unknown key": ("recipe", "explain", "nope"),
        "long key": ("recipe", "explain", LONG),
        "escape key": ("recipe", "explain", ESCAPE),
        "unknown kind": ("recipe", "explain", "--of", "nope"),
        "unknown group command": ("devices", "nope"),
        "empty word": ("",),
        "not UTF-8": (os.fsdecode(b"\xff\xfe"),),
        "10,000 words": ("report", *["x"] * 10_000),
        "ablate nothing": ("ablate", "nope"),
        "ablate a file": ("ablate", "text.txt"),
        "ablate an empty folder": ("ablate", "runs"),
    }.items():
        yield Case(GROUP, name, arguments, (INPUT,), run)

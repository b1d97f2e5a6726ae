"""Files of a run: records with hostile texts, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.stress.case import DONE, INPUT, UNEXPECTED, Case, Prepare
from tests.stress.files import DAMAGES, both, copies, damages, writes
from tests.stress.values import LONG
from tests.stress.world import RUN, VECTORS, World

GROUP = "records"
_BASE = f"runs/{RUN}"
# Texts that a page, a terminal or a markdown renderer may take for more than text.
MARKS = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "link": "[x](javascript:alert(1))",
    "heading": "x\n# heading\n\n| a | b |\n|---|---|",
    "escape": "\x1b[31mred\x07",
    "markup": "[red]x[/nope]",
    "entity": "&lt;script&gt; \" ' `code`",
    "long": LONG,
    "direction": "a\u202eb",
}
# What would be active in a page, and what in rendered Markdown.
_ACTIVE = {
    ".html": ("<script>alert", "<img src=x", "\x1b"),
    ".md": ("<script>alert", "<img src=x", "](javascript:", "\n# heading", "\x1b"),
}
_TRAINED = ("distill", "recipe.toml", "--resume", "--run", RUN)
# Which command reads which file, and whether a cache is behind it.
_READERS: dict[str, tuple[str, ...]] = {
    "distill.json": ("report",),
    "corpus.json": ("report",),
    "evaluation.json": ("report",),
    "metrics.jsonl": ("report",),
    "stages.json": ("run", "recipe.toml"),
    "recipe.toml": ("export", "--quantize", "fp32"),
    "evaluate/task/student-1.json": ("evaluate",),
    "profile/rpi4.predicted.json": ("report",),
    "parity/student-fill-mask.int8.json": ("report",),
    "parity/student-fill-mask.probes.npz": ("profile", "--device", "rpi4"),
    "export/student-fill-mask/export.int8.json": ("profile", "--device", "rpi4"),
    "export/student-fill-mask/provenance.json": ("report",),
    "export/student-fill-mask/session.json": ("profile", "--device", "rpi4"),
    "export/student-fill-mask/config.json": ("profile", "--device", "rpi4"),
    "export/student-feature-extraction/tokenizer.json": ("profile", "--device", "rpi4"),
    "export/student-feature-extraction/onnx/model.onnx_data": ("profile", "--device", "rpi4"),
    "export/student-feature-extraction/onnx/model_int8.onnx": ("profile", "--device", "rpi4"),
    "student/config.json": ("evaluate", "--seeds", "2"),
    "student/model.safetensors": ("evaluate", "--seeds", "2"),
    "student/tokenizer.json": ("export", "--quantize", "fp32"),
    "teacher/model.safetensors": ("export", "--quantize", "fp32"),
    "checkpoints/step-00000002/state.json": _TRAINED,
    "checkpoints/step-00000002/student.safetensors": _TRAINED,
    "heldout.txt": ("export", "--quantize", "fp32"),
}
# Files of an export that `embed` reads, and no other command.
_PACKAGED = (
    "config.json",
    "contract.json",
    "modules.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "session.json",
    "onnx/model.onnx",
)
_SHAPES = {"list": b"[]", "null": b"null", "object": b"{}", "deep": b"[" * 100_000}


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""

    def run(work: Path, _random: Random) -> None:
        world.copy_run(work)
        world.copy(work, "recipe.toml", "text.txt")

    for name, mark in MARKS.items():
        poisoned = both(run, _poison(mark))
        arguments = ("report",)
        # A record may refuse a text where only certain words are possible.
        codes = (DONE, UNEXPECTED, INPUT)
        yield Case(GROUP, f"report {name}", arguments, codes, poisoned, check=_is_inert)
        arguments = ("profile", "--device", "rpi4")
        yield Case(GROUP, f"profile {name}", arguments, codes, poisoned)
        title = both(run, _title(mark))
        arguments = ("evaluate", "--run", RUN, "--task", "task.toml")
        yield Case(GROUP, f"task title {name}", arguments, (DONE, INPUT), title)
        free = both(run, _poison(mark, only=_is_free_text))
        yield Case(GROUP, f"report free {name}", ("report",), (DONE,), free, check=_is_inert)
    for file, command in _READERS.items():
        for name, damage in DAMAGES.items():
            step = both(run, damages(f"{_BASE}/{file}", damage))
            codes = (DONE, UNEXPECTED, INPUT, 3)
            yield Case(GROUP, f"{file}: {name}", command, codes, step)
        if file.endswith((".json", ".jsonl")):
            for name, content in _SHAPES.items():
                step = both(run, writes({f"{_BASE}/{file}": content}))
                codes = (DONE, UNEXPECTED, INPUT)
                # Of an object without the keys, or of another type, nothing can be read.
                expected = (Path(file).name,)
                yield Case(GROUP, f"{file}: {name}", command, codes, step, expected)
    yield from _packages(world)


def _packages(world: World) -> Iterator[Case]:
    """Yields an export with damaged files, as a user of the package has it."""
    arguments = ("embed", "--model", VECTORS, "the boat")
    for file in _PACKAGED:
        for name, damage in DAMAGES.items():
            step = both(copies(world, VECTORS), damages(f"{VECTORS}/{file}", damage))
            codes = (DONE, UNEXPECTED, INPUT)
            yield Case(GROUP, f"package {file}: {name}", arguments, codes, step)
        shapes = _SHAPES if file.endswith(".json") else {}
        for name, content in shapes.items():
            step = both(copies(world, VECTORS), writes({f"{VECTORS}/{file}": content}))
            yield Case(GROUP, f"package {file}: {name}", arguments, codes, step)


def _poison(mark: str, *, only: Callable[[str, str], bool] | None = None) -> Prepare:
    """Returns a step that replaces the strings in all records of the run."""

    def change(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: change(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [change(item, key) for item in value]
        if isinstance(value, str) and (only is None or only(key, value)):
            return mark
        return value

    def prepare(work: Path, _random: Random) -> None:
        folder = work / _BASE
        for path in sorted(folder.rglob("*.json")):
            if path.parts[-2] in ("teacher", "student", "student-step0", "checkpoints"):
                continue
            path.write_text(json.dumps(change(json.loads(path.read_text()), "")))

    return prepare


def _is_free_text(key: str, value: str) -> bool:
    """Whether a string of a record is prose: a source, a reason, a note, a licence."""
    words = ("source", "reason", "note", "licence", "description", "warning", "title")
    return any(word in key for word in words) and "sha256" not in key and " " in value


def _title(mark: str) -> Prepare:
    def prepare(work: Path, _random: Random) -> None:
        from tests.stress.values import quoted

        path = work / "task.toml"
        path.write_text(f"title = {quoted(mark)}\nlicence = {quoted(mark)}\n" + path.read_text())

    return prepare


def _is_inert(work: Path) -> list[str]:
    """Returns marks that are active in what `report` wrote."""
    problems = []
    folder = work / _BASE
    for path in (folder / "report.html", folder / "report.md", *folder.glob("report/cards/*/*")):
        if path.exists():
            text = path.read_text()
            problems += [
                f"{path.name} has {mark!r}" for mark in _ACTIVE[path.suffix] if mark in text
            ]
    return problems

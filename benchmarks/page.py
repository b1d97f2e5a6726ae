"""Parts that the benchmarks and their result pages share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgedistil.core.records import this_host

RESULTS = Path(__file__).resolve().parent / "results"
# Packages whose versions change figures.
_PACKAGES = ("edgedistil", "numpy", "onnxruntime", "tokenizers", "torch", "transformers")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help shows a module's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def today() -> str:
    """Today's date in UTC, as in the names of result files."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def host_line(*, cores: int | None = None) -> str:
    """Describes this machine.

    Args:
        cores: Cores that the benchmark uses, if they are fewer than the machine has.
    """
    host = this_host()
    used = f"{host.cores} cores"
    if cores is not None:
        used = f"{cores} of {host.cores} cores"
    return f"{host.cpu}, {used}"


def system_line() -> str:
    """Operating system and Python version."""
    host = this_host()
    return f"{host.system}, Python {host.python}"


def version_list(versions: Mapping[str, str]) -> str:
    """Package versions on one line, sorted by name."""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def measured_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Machines and versions that records were measured with, each once."""
    measured = [record["measured"] for record in records]
    lines = [
        f"{one['machine']}, {one['cores']} cores · {version_list(one['versions'])}"
        for one in measured
    ]
    return "\n\n".join(dict.fromkeys(lines))


def load_averages() -> str:
    """Load of the machine over 1, 5 and 15 minutes: other work falsifies times."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def write_page(folder: Path, stem: str, text: str) -> Path:
    """Writes `stem`-DATE.md into a folder and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{today()}.md"
    path.write_text(text, encoding="utf-8")
    return path


def write_raw(folder: Path, stem: str, content: Mapping[str, Any]) -> Path:
    """Writes `stem`-DATE.json, what the figures of a page are computed from; returns its path.

    Args:
        folder: Where to.
        stem: Beginning of the file's name, the same as the page's.
        content: Figures before any rounding; dataclasses and records are written as objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{today()}.json"
    record = {"measured": measured_on(), **content}
    # Without spaces: predictions are most of the file.
    text = json.dumps(record, separators=(",", ":"), default=_as_object)
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


def measured_on() -> dict[str, Any]:
    """Machine, date, load and command of a record."""
    host = this_host()
    program, *arguments = sys.argv
    # Paths by their names only: the record is published.
    command = [f"benchmarks/{Path(program).name}", *(Path(part).name for part in arguments)]
    return {
        "date": today(),
        "machine": host.cpu,
        "cores": host.cores,
        "system": system_line(),
        "load": load_averages(),
        "command": " ".join(["python", *command]),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _short(command: str) -> str:
    """A command line with the names of its paths only: records are published."""
    return " ".join(Path(part).name for part in command.split())


def _with_short_commands(value: Any) -> Any:
    """A record's content with short commands in its provenances."""
    if isinstance(value, list):
        return [_with_short_commands(part) for part in value]
    if not isinstance(value, dict):
        return value
    short = {key: _with_short_commands(part) for key, part in value.items()}
    if isinstance(short.get("command"), str):
        short["command"] = _short(short["command"])
    return short


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _as_object(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, BaseModel):
        return _with_short_commands(value.model_dump(mode="json"))
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"a raw record cannot hold {type(value).__name__}")

"""Start and end of a program that runs commands in forks: its folder, its log, its terminal."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tests.stress.engine import Engine, end_with_terminal


@contextmanager
def open_session(world: Path | None, *, keep: bool) -> Iterator[tuple[Engine, TextIO]]:
    """Yields an engine with its sound inputs, and the terminal.

    Everything else that is printed, here or by an import, goes to a log in the engine's folder.

    Args:
        world: Folder with sound inputs of an earlier session, or where to leave them.
        keep: Whether to keep the engine's folder.
    """
    terminal = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    root = Path(tempfile.mkdtemp(prefix="edgedistil-stress-"))
    log = os.open(root / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        engine = Engine(root)
        end_with_terminal(None if keep else root)
        _provide_world(engine, world)
        yield engine, terminal
    except Exception:
        terminal.write((root / "log").read_text(errors="replace")[-3000:])
        terminal.write(traceback.format_exc())
        raise SystemExit(1) from None
    finally:
        if keep:
            terminal.write(f"the folders are in {root}\n")
        else:
            shutil.rmtree(root, ignore_errors=True)


def _provide_world(engine: Engine, world: Path | None) -> None:
    if world is not None and world.exists():
        shutil.copytree(world, engine.world.path)
        return
    engine.build_world()
    if world is not None:
        shutil.copytree(engine.world.path, world)

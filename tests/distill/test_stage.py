from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgedistil.distill.stage import distill
from edgedistil.recipe import Recipe


def test_thin(tiny_recipe: Callable[..., Recipe], runs: Path) -> None:
    run, record = distill(tiny_recipe(), run_name=None, resume=False)
    print(run.metrics.read_text())
    print(record)

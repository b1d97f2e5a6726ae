"""Fixtures of the core tests: a small recipe that names no file that has to exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgedistil.core.recipe import Recipe, parse_recipe


@pytest.fixture
def small_recipe() -> Callable[..., Recipe]:
    """`small_recipe(train={"steps": 5})`: a valid recipe with some sections changed."""

    def make(**sections: Any) -> Recipe:
        data: dict[str, Any] = {
            "name": "small",
            "teacher": {"source": "a-teacher"},
            "corpus": {"sources": [{"files": "text.txt"}], "block_length": 23},
            "loss": {},
            "train": {"steps": 11, "global_batch": 6, "micro_batch": 3},
        }
        for name, values in sections.items():
            old = data.get(name)
            merge = isinstance(values, dict) and isinstance(old, dict)
            data[name] = {**old, **values} if merge else values
        return parse_recipe(data, where="test")

    return make

"""Distillations have a cache of their own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_cache(own_cache: None) -> None:
    """For every test of this package."""

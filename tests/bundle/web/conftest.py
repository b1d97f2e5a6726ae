"""A web bundle of the small classifier, and a server and a page for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgedistil.bundle.stage import make_bundle
from edgedistil.core.options import BundleOptions
from edgedistil.runtime.browser.chromium import Page, chromium, find_chromium


@pytest.fixture(scope="module")
def bundle(small_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A web bundle of the int8 artefact."""
    folder = tmp_path_factory.mktemp("bundle") / "made"
    result = make_bundle(small_export, BundleOptions(language="web", precision="int8", out=folder))
    assert sum(result.sizes.values()) == sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file()
    )
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page in one browser for all tests of a module."""
    with chromium(find_chromium()) as opened:
        yield opened


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Runs serve.py of a bundle; yields its address."""
    command = [sys.executable, str(folder / "serve.py"), "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@pytest.fixture
def check_page(page: Page) -> Callable[[str], tuple[str, str]]:
    """Opens check.html and returns its result and what it says."""

    def run(address: str) -> tuple[str, str]:
        page.open(f"{address}check.html")
        page.evaluate(WAIT, timeout_s=200)
        text = page.evaluate("document.getElementById('state').textContent", timeout_s=10)
        return page.evaluate("document.body.dataset.result", timeout_s=10), text

    return run


WAIT = """new Promise((resolve) => {
  const look = () => ['passed', 'failed'].includes(document.body.dataset.result)
    ? resolve() : setTimeout(look, 50);
  look();
})"""

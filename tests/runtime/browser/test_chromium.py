"""A real Chromium: starts, evaluates, and leaves no process and no profile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistil.core.errors import TargetError
from edgedistil.runtime.browser.chromium import (
    chromium,
    chromium_version,
    find_chromium,
    group_processes,
)


def test_a_machine_without_a_browser_gets_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TargetError, match="no browser is installed: looked for chromium") as raised:
        find_chromium()
    assert raised.value.exit_code == 4
    assert "apt-get install" in str(raised.value.hint)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for the browser's socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.needs("chromium")
def test_a_long_path_of_temporary_files_is_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with chromium(find_chromium()) as page:
        page.open("data:text/html,<title>b</title>")
        assert page.evaluate("document.title", timeout_s=60) == "b"


@pytest.mark.needs("chromium")
def test_a_page_evaluates_and_the_browser_ends(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_folder))
    program = find_chromium()
    assert chromium_version(program)[0].isdigit()
    with chromium(program) as page:
        assert group_processes(page.group)
        page.open("data:text/html,<title>a</title>")
        assert page.evaluate("Promise.resolve(document.title)", timeout_s=60) == "a"
        with pytest.raises(TargetError, match="the page failed: Error: no such luck"):
            page.evaluate("(() => { throw new Error('no such luck') })()", timeout_s=60)
        with pytest.raises(TargetError, match=r"did not answer Runtime\.evaluate in time"):
            page.evaluate("new Promise(() => {})", timeout_s=0.2)
        with pytest.raises(TargetError, match=r"cannot open http://127\.0\.0\.1:1/: net::ERR_"):
            page.open("http://127.0.0.1:1/")
        with pytest.raises(TargetError, match="the page crashed"):
            page._command("Page.crash", {}, 60)
    assert group_processes(page.group) == []
    assert list(short_folder.iterdir()) == []


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_browser_ends_with_its_program(number: signal.Signals, short_folder: Path) -> None:
    script = (
        "import signal, time\n"
        # Ignored where the tests run in the background of a shell.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from edgedistil.runtime.browser.chromium import *\n"
        "with chromium(find_chromium()) as page:\n"
        "    page.open('data:text/html,a')\n"
        "    print(page.group, flush=True)\n"
        "    time.sleep(300)\n"
    )
    environment = {**os.environ, "TMPDIR": str(short_folder)}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        group = int(process.stdout.readline())
        assert group_processes(group)
        process.send_signal(number)
        process.wait(100)
    deadline = time.monotonic() + 60
    while group_processes(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_processes(group) == []
    # A killed program leaves its folder to the next one.
    assert (list(short_folder.iterdir()) == []) == (number == signal.SIGINT)

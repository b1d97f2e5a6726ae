"""The page in a real browser: plots are drawn, and no window scrolls sideways."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgedistil.core.rundir import RunDir
from edgedistil.report.stage import report

pytestmark = pytest.mark.needs("chromium")

# The page itself has no script; this one is added to a copy and measures it.
MEASURE = """<script>
const root = document.documentElement, body = document.body;
body.dataset.page = root.scrollWidth; body.dataset.window = root.clientWidth;
const pictures = [...document.querySelectorAll('figure svg')];
const drawn = pictures.filter(svg => svg.getBoundingClientRect().height > 50);
body.dataset.pictures = drawn.length;
body.dataset.background = getComputedStyle(body).backgroundColor;
</script></body>"""


def measure(page: Path, folder: Path, *, width: int) -> dict[str, str]:
    """Opens a copy of the page and returns what the script measured in it."""
    copy = folder / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", MEASURE), encoding="utf-8")
    program = shutil.which("chromium")
    assert program is not None
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    body = re.search(r"<body[^>]*>", done.stdout)
    assert body is not None
    return dict(re.findall(r'data-(\w+)="([^"]*)"', body.group()))


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_fits_its_window(full_run: RunDir, tmp_path: Path, width: int) -> None:
    report(full_run)
    page = measure(full_run.report, tmp_path, width=width)
    assert int(page["window"]) <= width
    assert int(page["page"]) <= int(page["window"]), "the page scrolls sideways"
    assert int(page["pictures"]) == 8
    assert page["background"] in {"rgb(251, 250, 248)", "rgb(20, 22, 26)"}


def test_the_check_can_fail(full_run: RunDir, tmp_path: Path) -> None:
    report(full_run)
    wide = full_run.report.read_text(encoding="utf-8").replace(
        "<main>", '<main><div style="width: 3000px">x</div>'
    )
    full_run.report.write_text(wide, encoding="utf-8")
    page = measure(full_run.report, tmp_path, width=1280)
    assert int(page["page"]) > int(page["window"])

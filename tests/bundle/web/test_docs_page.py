"""Every command of docs/web.md, run in the order of the page."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer
from typer.testing import CliRunner

from edgedistil.cli import app
from edgedistil.core.options import ExportOptions
from edgedistil.core.rundir import create_run, mark_latest, write_text
from edgedistil.core.session import WEB_SESSION_FILE
from edgedistil.export import probe_inputs, publish
from edgedistil.export.source import read_source
from edgedistil.export.vector_options import VectorOptions
from edgedistil.profiling import browser_stage, browser_tune
from edgedistil.profiling.browser import measure_in_browser
from edgedistil.profiling.measured import MeasurementBudget
from edgedistil.runtime.browser.chromium import Page
from edgedistil.runtime.browser.target import BrowserTarget, PageFacts
from tests.bundle.web.conftest import WAIT
from tests.fixtures.tokenizer_folders import BERT_SPECIAL, our_text, our_word_pieces
from tests.interop.environments import ENVIRONMENTS, build

pytestmark = [pytest.mark.needs("node", "npm", "chromium"), pytest.mark.slow]
DOCS = Path(__file__).resolve().parents[3] / "docs"
SHORT = MeasurementBudget(
    steady_seconds=0.1, max_seconds=1, processes=1, energy_seconds=0.1, pass_seconds=0.2
)


def commands() -> list[str]:
    """The lines of the page's `sh` blocks, and of the block with `node`."""
    text = (DOCS / "web.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    programs = ("edgedistil ", "python3 ", "npm ", "node ")
    return [line for line in lines if line.startswith(programs)]


@pytest.fixture
def run_folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The latest run, with the export of a small sentence encoder."""
    vocabulary = our_word_pieces(BERT_SPECIAL)
    source = tmp_path / "source"
    BertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(source)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(source)
    run = create_run("page")
    write_text(run.heldout_text, "\n".join(our_text()))
    monkeypatch.setattr(probe_inputs, "CALLS", {512: (2,)})
    monkeypatch.setattr(publish, "_reject_failed", lambda *_: None)
    model = replace(
        read_source(source, name="student", role="student", task="feature-extraction"),
        vector_options=VectorOptions(pooling="mean", normalize=True),
    )
    publish.export_model(
        run,
        model,
        ExportOptions(precisions=["int8"]),
        text=our_text(),
    )
    mark_latest(run)
    return run.path


def test_every_command_of_the_page_runs(
    run_folder: Path, tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEDISTIL_RUNS", str(run_folder.parent))
    shorten(monkeypatch)
    export = run_folder / "export" / "student-feature-extraction"
    ran = []
    for line in commands():
        program, *arguments = shlex.split(line)
        ran.append(program)
        if program == "edgedistil":
            result = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert result.exit_code == 0, result.output
        elif program == "python3":
            embed_on_page(page, arguments)
        elif program == "npm":
            packages = build(ENVIRONMENTS["transformers.js"]) / "node_modules"
            assert all((packages / name.rpartition("@")[0]).is_dir() for name in arguments[2:])
            assert (packages / arguments[1]).is_dir()
            (export / "node_modules").symlink_to(packages)
        else:
            done = subprocess.run([program, *arguments], cwd=export, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
            shutil.rmtree(export / "node_modules", ignore_errors=True)
    assert set(ran) == {"edgedistil", "python3", "npm", "node"}
    assert (run_folder / "profile" / "chromium.measured.json").is_file()
    assert (run_folder / "profile" / WEB_SESSION_FILE).is_file()
    assert (tmp_path / "encoder-web-tuned" / "bundle.json").is_file()


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few calls and browsers; WebGPU and threads have tests of their own."""
    short = functools.partial(measure_in_browser, budget=SHORT)
    monkeypatch.setattr(browser_stage, "measure_in_browser", short)
    monkeypatch.setattr(browser_stage, "run_probes", lambda _run: lambda _artefact: None)
    monkeypatch.setattr(browser_tune, "PROCESSES", 1)
    monkeypatch.setattr(BrowserTarget, "describe_page", lambda _: PageFacts(True, 1, "x"))
    monkeypatch.setattr(BrowserTarget, "webgpu_absence", lambda _: "left out")


def embed_on_page(page: Page, arguments: list[str]) -> None:
    """Starts the server on a free port, and calls the module as the page shows it."""
    command = [sys.executable, arguments[0], "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            page.open(f"{address}check.html")
            page.evaluate(WAIT, timeout_s=200)
            assert page.evaluate("document.body.dataset.result", timeout_s=10) == "passed"
            script = (
                "import('./edgedistil.mjs').then(async ({ load }) => Array.from((await "
                "(await load()).embed(['old harbour towns'], { side: 'query' }))[0]))"
            )
            vector = page.evaluate(script, timeout_s=100)
        finally:
            server.terminate()
    assert len(vector) == 32
    assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)

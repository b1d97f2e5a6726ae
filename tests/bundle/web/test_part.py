"""Web bundles: made, served, and run in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistil.bundle.stage import make_bundle
from edgedistil.bundle.web import part
from edgedistil.core.contract import CONFORMANCE_FILE, read_contract
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.options import BundleOptions
from edgedistil.inference.exported_model import open_exported
from edgedistil.runtime.browser.chromium import Page
from tests.bundle.web.conftest import served

needs_browser = pytest.mark.needs("node", "npm", "chromium")
pytestmark = pytest.mark.needs("node", "npm")
CheckPage = Callable[[str], tuple[str, str]]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@needs_browser
def test_a_bundle_passes_its_check_with_threads(bundle: Path, check_page: CheckPage) -> None:
    strings = len((bundle / "model" / CONFORMANCE_FILE).read_text().splitlines()) - 1
    with served(bundle) as address:
        result, text = check_page(address)
    assert re.fullmatch(rf"int8: {strings} strings are as expected \(threads: \d+\)", text)
    assert result == "passed"


@needs_browser
def test_a_page_gives_the_scores_of_the_graph(bundle: Path, page: Page) -> None:
    texts = ("The boat left the harbour.", "Bread is cheap 𠀀.")
    with served(bundle) as address:
        page.open(f"{address}check.html")
        classify = "import('./edgedistil.mjs').then(({load}) => load({threads: 1}))"
        script = f"{classify}.then((model) => model.classify(...{json.dumps(texts)}))"
        scores = page.evaluate(script, timeout_s=100)
    model = open_exported(bundle / "model", precision="int8")
    encoding = model.tokenizer.backend.encode(*texts)
    ids, types = (np.array([row], np.int64) for row in (encoding.ids, encoding.type_ids))
    [logits] = model.run(ids, np.ones_like(ids), types, outputs=["logits"])["logits"]
    powers = np.exp(logits - logits.max())
    expected = dict(zip(model.contract.labels, powers / powers.sum(), strict=True))
    got = {item["label"]: item["score"] for item in scores}
    assert list(got.values()) == sorted(got.values(), reverse=True)
    assert got == pytest.approx(expected, abs=1e-3)


@needs_browser
def test_a_changed_graph_is_refused_by_the_page(copy: Path, check_page: CheckPage) -> None:
    graph = copy / "model" / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with served(copy) as address:
        result, text = check_page(address)
    expected = "model/onnx/model_int8.onnx was changed after the export was checked"
    assert (result, text) == ("failed", expected)


@needs_browser
def test_a_bundle_without_its_tokenizer_is_refused_by_the_page(
    copy: Path, check_page: CheckPage
) -> None:
    (copy / "model" / "tokenizer.json").unlink()
    with served(copy) as address:
        result, text = check_page(address)
    expected = "model/tokenizer.json is missing (404): copy the bundle with all its files"
    assert (result, text) == ("failed", expected)


@needs_browser
def test_a_different_output_is_named(copy: Path, check_page: CheckPage) -> None:
    path = copy / "model" / CONFORMANCE_FILE
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[9]["outputs"]["int8"]["logits"][1] += 2.1 * rows[0]["tolerances"]["int8"]["logits"]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    with served(copy) as address:
        result, text = check_page(address)
    # JavaScript writes no blank after a comma.
    first = json.dumps(rows[9]["texts"], ensure_ascii=False, separators=(",", ":"))
    assert result == "failed"
    assert text.startswith(f"{first}: logits in int8 differs by")


@needs_browser
@pytest.mark.parametrize("name", ["index.html", "check.html"])
def test_a_page_from_a_file_says_what_to_do(bundle: Path, page: Page, name: str) -> None:
    page.open((bundle / name).as_uri())
    text = page.evaluate("document.getElementById('state').textContent", timeout_s=10)
    assert "python3 serve.py" in text


@needs_browser
def test_the_demo_page_shows_scores(bundle: Path, page: Page) -> None:
    with served(bundle) as address:
        page.open(f"{address}index.html")
        waiting = "new Promise((done) => setInterval(() => %s && done(), 50))"
        page.evaluate(waiting % "!document.querySelector('form').hidden", timeout_s=100)
        page.evaluate("document.querySelector('form button').click()", timeout_s=10)
        shown = "document.getElementById('result').textContent"
        page.evaluate(waiting % f"{shown}.endsWith(' ms')", timeout_s=100)
        answer = page.evaluate(shown, timeout_s=10)
    labels = read_contract(bundle / "model").labels
    assert {item["label"] for item in json.loads(answer.rpartition("]")[0] + "]")} == set(labels)


def test_the_readme_has_the_sizes(bundle: Path) -> None:
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| onnxruntime-web \| 1\d,\d{3},\d{3} \|$", text, re.MULTILINE)
    names = re.findall(r"^\| ([a-z -]+) \| [\d,]+ \|$", text, re.MULTILINE)
    assert {"graph", "tokenizer", "onnxruntime-web", "scripts", "other files"} <= set(names)


# --- what no bundle is made of --------------------------------------------------------------------


@pytest.fixture
def export(small_export: Path, tmp_path: Path) -> Path:
    """A copy of the export that a test may change."""
    return Path(shutil.copytree(small_export, tmp_path / "export"))


def options(tmp_path: Path) -> BundleOptions:
    return BundleOptions(language="web", precision="int8", out=tmp_path / "x")


def edit_tokenizer(export: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = export / "tokenizer.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    edit(described)
    path.write_text(json.dumps(described), encoding="utf-8")


def test_a_changed_export_is_refused(export: Path, tmp_path: Path) -> None:
    graph = export / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"model_int8.onnx was changed: expected sha256"):
        make_bundle(export, options(tmp_path))
    assert not (tmp_path / "x").exists()


def test_an_unknown_part_is_named(export: Path) -> None:
    edit_tokenizer(export, lambda described: described.update(normalizer={"type": "Nmt"}))
    with pytest.raises(InputError, match="parts that JavaScript cannot do: normalizer Nmt"):
        part.require_supported(export, read_contract(export))


def test_other_tokens_are_refused_with_the_text(copy: Path) -> None:
    edit_tokenizer(copy / "model", lambda text: text["normalizer"].update(lowercase=False))
    with pytest.raises(InputError, match=r'cannot do this model.s: other tokens of \["A"\]'):
        part._verify_tokens(copy, read_contract(copy / "model"))


def test_a_task_that_needs_places_is_refused_without_them(copy: Path) -> None:
    added = {"id": 3, "content": "qzqzq", "special": False, "normalized": True}
    edit_tokenizer(copy / "model", lambda text: text["added_tokens"].append(added))
    contract = replace(read_contract(copy / "model"), task="question-answering")
    with pytest.raises(InputError, match="does not give with added tokens that are normalized"):
        part._verify_tokens(copy, contract)


def test_a_machine_without_node_gets_advice(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"Node\.js is not installed") as raised:
        part._verify_tokens(bundle, read_contract(bundle / "model"))
    assert raised.value.hint == "install it: Debian: apt-get install nodejs"

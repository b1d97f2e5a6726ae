"""check.mjs of an export folder, on a real Node with onnxruntime-node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.contract import CONFORMANCE_FILE
from tests.interop.environments import ENVIRONMENTS, build

pytestmark = pytest.mark.needs("node", "npm")


@pytest.fixture(scope="module")
def packages() -> Path:
    """node_modules with onnxruntime-node and @huggingface/tokenizers."""
    return build(ENVIRONMENTS["transformers.js"]) / "node_modules"


@pytest.fixture
def package(small_export: Path, packages: Path, tmp_path: Path) -> Path:
    """A copy of the export that a test may change."""
    folder = Path(shutil.copytree(small_export, tmp_path / "package"))
    (folder / "node_modules").symlink_to(packages)
    return folder


def check(package: Path, *arguments: str) -> tuple[int, str]:
    command = ["node", "check.mjs", *arguments]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def change(package: Path, edit: Any) -> list[dict[str, Any]]:
    path = package / CONFORMANCE_FILE
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    edit(rows)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return rows


def test_an_export_passes(package: Path) -> None:
    strings = len((package / CONFORMANCE_FILE).read_text(encoding="utf-8").splitlines()) - 1
    assert check(package) == (0, f"{strings} strings are as expected\n")
    assert len((package / "check.mjs").read_text().splitlines()) <= 80


def test_the_first_different_string_is_named(package: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[7]["tokens"][0][1] += 1
        rows[8]["tokens"][0][1] += 1

    rows = change(package, edit)
    code, printed = check(package, "int8")
    texts = json.dumps(rows[7]["texts"], ensure_ascii=False, separators=(",", ":"))
    assert code == 3
    assert printed.startswith(f"{texts}: ids, types, offsets are ")


def test_another_offset_is_reported(package: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[9]["tokens"][2][1][1] += 1

    change(package, edit)
    assert check(package, "int8")[0] == 3


def test_another_output_is_reported(package: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        bound = rows[0]["tolerances"]["int8"]["logits"]
        rows[9]["outputs"]["int8"]["logits"][0] += 2.1 * bound

    change(package, edit)
    code, printed = check(package, "int8")
    assert code == 3
    assert "logits in int8 differs by" in printed


def test_a_changed_graph_is_refused(package: Path) -> None:
    graph = package / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    message = "onnx/model_int8.onnx was changed after the export: its sha256 differs\n"
    assert check(package) == (3, message)


def test_a_folder_without_its_tokenizer_is_refused(package: Path) -> None:
    (package / "tokenizer.json").unlink()
    message = "tokenizer.json is missing: copy the folder with all its files\n"
    assert check(package) == (2, message)


def test_a_missing_package_is_named(package: Path) -> None:
    (package / "node_modules").unlink()
    code, printed = check(package)
    assert (code, "npm install @huggingface/tokenizers" in printed) == (2, True)

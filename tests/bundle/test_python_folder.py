"""Bundles in Python: installed in an environment of their own, and run there."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import edgedistil
from edgedistil.bundle.runtime_wheel import REQUIREMENTS
from edgedistil.bundle.stage import make_bundle
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.options import BundleOptions
from edgedistil.core.rundir import sha256_file
from tests.bundle.conftest import bare_environment


@pytest.fixture(scope="module")
def bundle(small_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "made"
    options = BundleOptions(language="python", precision="int8", out=folder)
    bundle = make_bundle(small_export, options)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(bundle.sizes.values()) == sum(path.stat().st_size for path in files)
    assert set(bundle.sizes) >= {"graph", "tokenizer", "conformance check", "runtime's wheel"}
    return folder


@pytest.fixture(scope="module")
def python(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter into which requirements.txt of the bundle was installed."""
    interpreter = bare_environment(tmp_path_factory.mktemp("environment"), list(REQUIREMENTS))
    # The packages are there in the versions of the file, so pip needs no index.
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet"),
            *("--no-index", "--no-deps", "--disable-pip-version-check"),
            *("-r", "requirements.txt"),
        ],
        check=True,
        capture_output=True,
        cwd=bundle,
    )
    return interpreter


def run(python: Path, folder: Path, *command: str) -> tuple[int, str]:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_the_check_passes_where_the_bundle_is_installed(bundle: Path, python: Path) -> None:
    lines = (bundle / "model" / "conformance.jsonl").read_text(encoding="utf-8").splitlines()
    assert run(python, bundle, "model/check.py") == (
        0,
        f"{len(lines) - 1} strings are as expected\n",
    )


def test_the_example_prints_the_labels(bundle: Path, python: Path, small_export: Path) -> None:
    code, printed = run(python, bundle, "example.py", "The boat left.")
    classifier = edgedistil.Classifier(small_export, precision="int8")
    [labels] = classifier.classify(["The boat left."])
    assert (code, printed) == (0, "".join(f"{x.score:.4f} {x.name}\n" for x in labels))


def test_the_readme_has_versions_and_sizes(bundle: Path) -> None:
    readme = (bundle / "README.md").read_text(encoding="utf-8")
    requirements = (bundle / "requirements.txt").read_text(encoding="utf-8")
    for name in REQUIREMENTS:
        assert f"| {name} {version(name)} | " in readme
        assert f"{name}=={version(name)}\n" in requirements
    tokenizer = (bundle / "model" / "tokenizer.json").stat().st_size
    assert f"| tokenizer | {tokenizer:,} |" in readme
    for command in ("env/bin/python model/check.py", 'env/bin/python example.py "a text"'):
        assert command in readme


def test_versions_for_a_board_are_those_that_are_pinned(small_export: Path, tmp_path: Path) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("the board's processor is this one")
    options = BundleOptions(language="python", precision="int8", target="rpi4", out=tmp_path / "x")
    make_bundle(small_export, options)
    requirements = (tmp_path / "x" / "requirements.txt").read_text(encoding="utf-8")
    assert "onnxruntime==1.32.0\n" in requirements
    readme = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    assert "| package | bytes of the download |" in readme
    assert "| onnxruntime 1.32.0 | 23,195,070 |" in readme
    assert "| tokenizers 0.23.3 | 3,519,944 |" in readme


# --- what no bundle runs with ---------------------------------------------------------------------


@pytest.fixture
def moved(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "moved"))


def test_a_bundle_without_its_tokenizer_says_so(moved: Path, python: Path) -> None:
    (moved / "model" / "tokenizer.json").unlink()
    code, printed = run(python, moved, "model/check.py")
    assert (code, printed) == (2, "tokenizer.json is missing: copy the folder with all its files\n")
    # transformers' vocab.txt alone decides the same ids; without it there is nothing to read.
    (moved / "model" / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"model has no tokenizer"):
        edgedistil.load(moved / "model", precision="int8")


def test_a_graph_that_was_edited_is_found(moved: Path, python: Path) -> None:
    graph = moved / "model" / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    code, printed = run(python, moved, "model/check.py")
    assert code == 3
    assert printed == "onnx/model_int8.onnx was changed after the export: its sha256 differs\n"


def test_a_wrong_vector_is_found(moved: Path, python: Path) -> None:
    path = moved / "model" / "conformance.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[9]["outputs"]["int8"]["logits"][1] += 2.1 * rows[0]["tolerances"]["int8"]["logits"]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    code, printed = run(python, moved, "model/check.py")
    assert code == 3
    assert "logits in int8 differs by" in printed


def test_a_tokenizer_that_cpp_lacks_runs_in_python(small_export: Path, tmp_path: Path) -> None:
    export = Path(shutil.copytree(small_export, tmp_path / "export"))
    tokenizer = export / "tokenizer.json"
    described = json.loads(tokenizer.read_text(encoding="utf-8"))
    replacement = {"type": "Replace", "pattern": {"Regex": r"\d{3}"}, "content": "x"}
    steps = [described["normalizer"], replacement]
    described["normalizer"] = {"type": "Sequence", "normalizers": steps}
    tokenizer.write_text(json.dumps(described), encoding="utf-8")
    conformance = export / "conformance.jsonl"
    head, *rows = conformance.read_text(encoding="utf-8").splitlines()
    changed = json.loads(head)
    changed["files"]["tokenizer.json"] = sha256_file(tokenizer)
    conformance.write_text("\n".join([json.dumps(changed), *rows, ""]), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"C\+\+ library cannot do: regular expression \\d"
    ) as caught:
        make_bundle(export, BundleOptions(precision="int8", out=tmp_path / "cpp"))
    assert "edgedistil bundle --for python has them" in str(caught.value)
    assert not (tmp_path / "cpp").exists()
    options = BundleOptions(language="python", precision="int8", out=tmp_path / "python")
    assert make_bundle(export, options).folder.is_dir()


def test_a_device_without_pinned_versions_is_refused(small_export: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown device"):
        make_bundle(
            small_export, BundleOptions(language="python", target="toaster", out=tmp_path / "x")
        )

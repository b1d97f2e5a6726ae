"""The runtime's wheel: installed with numpy, onnxruntime and tokenizers only, it runs exports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

import edgedistil
from edgedistil.bundle.runtime_wheel import REQUIREMENTS, runtime_modules, write_runtime_wheel
from tests.bundle.conftest import bare_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runtime_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel and what it requires, and nothing else."""
    interpreter = bare_environment(tmp_path_factory.mktemp("environment"), list(REQUIREMENTS))
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet"]
    flags = ["--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, *flags, str(wheel)], check=True, capture_output=True)
    return interpreter


def run(python: Path, code: str, *arguments: str) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-P", "-c", code, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_classifies_as_the_entire_package_does(python: Path, small_export: Path) -> None:
    code = (
        "import json, sys, edgedistil\n"
        "model = edgedistil.load(sys.argv[1], precision='int8')\n"
        "print(json.dumps(model.scores(json.loads(sys.argv[2])).tolist()))\n"
        "print(edgedistil.__file__)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    texts = ["The boat left.", "", "naïve 東京"]
    scores, file, loaded = run(python, code, str(small_export), json.dumps(texts)).splitlines()
    expected = edgedistil.Classifier(small_export, precision="int8").scores(texts)
    np.testing.assert_allclose(json.loads(scores), expected, atol=1e-6)
    assert str(python.parent.parent) in file
    assert "'edgedistil'" in loaded
    for package in ("torch", "transformers", "pydantic", "rich", "huggingface_hub"):
        assert f"'{package}'" not in loaded


def test_every_class_is_there(python: Path) -> None:
    names = list(edgedistil._RUNTIME)
    code = f"import edgedistil; print([getattr(edgedistil, name).__name__ for name in {names}])"
    assert run(python, code).strip() == str(names)
    assert len(names) == 6


def test_a_package_that_is_missing_is_noticed(tmp_path: Path, wheel: Path) -> None:
    """The check can fail: without tokenizers the classes do not load."""
    interpreter = bare_environment(tmp_path, ["numpy", "onnxruntime"])
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import edgedistil; edgedistil.Encoder"
    done = subprocess.run([str(interpreter), "-c", code], capture_output=True, text=True)
    assert "No module named 'tokenizers'" in done.stderr


def test_it_says_what_it_requires(wheel: Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith("METADATA")]
        text = archive.read(metadata).decode()
    for name, version in REQUIREMENTS.items():
        assert f"Requires-Dist: {name}>={version}\n" in text
        assert f"{name}>={version}" in declared["dependencies"]
    assert f"Requires-Python: {declared['requires-python']}\n" in text
    assert text.count("Requires-Dist") == 3
    assert len(runtime_modules()) == len([name for name in names if name.endswith(".py")]) > 30


def test_the_same_modules_give_the_same_file(wheel: Path, tmp_path: Path) -> None:
    assert write_runtime_wheel(tmp_path).read_bytes() == wheel.read_bytes()

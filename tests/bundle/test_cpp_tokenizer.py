"""The C++ tokenizer, compared with `tokenizers` on the tokenizers of all families."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgedistil.core.tokenizer import read_tokenizer
from tests.bundle.conftest import CppBuild
from tests.fixtures.tokenizer_folders import LAYOUTS, write_json

pytestmark = pytest.mark.needs("g++", "cmake")
ROOT = Path(__file__).resolve().parents[2]
STRINGS = 1500


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts" / "fuzz_tokenizer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_tokenizer(name: str, folder: Path, models: dict[str, Path]) -> Path:
    """Writes the tokenizer.json of a layout as an export has it."""
    layout = LAYOUTS[name]
    layout.write(folder, models)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", {"model_type": layout.model_type})
    path = folder / "as_exported.json"
    path.write_text(read_tokenizer(folder).backend.to_str(), encoding="utf-8")
    return path


def strings_for(path: Path, fuzz: ModuleType, count: int = STRINGS) -> list[Any]:
    described = json.loads(path.read_text(encoding="utf-8"))
    special = [token["content"] for token in described["added_tokens"]]
    return list(fuzz.random_strings(count, seed=7, special=special))


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "eurobert"])
def test_ids_types_and_offsets_are_those_of_tokenizers(
    name: str, tmp_path: Path, sentencepiece_models: dict[str, Path], cpp_build: CppBuild, fuzz
) -> None:
    path = write_tokenizer(name, tmp_path, sentencepiece_models)
    program = [cpp_build.program("encode_lines")]
    assert fuzz.compare(program, path, strings_for(path, fuzz)) is None


def test_the_comparison_finds_a_wrong_rule(
    tmp_path: Path, sentencepiece_models: dict[str, Path], cpp_build: CppBuild, fuzz, monkeypatch
) -> None:
    path = write_tokenizer("bert", tmp_path, sentencepiece_models)
    changed = json.loads(path.read_text(encoding="utf-8"))
    changed["normalizer"]["strip_accents"] = False
    other = tmp_path / "other.json"
    other.write_text(json.dumps(changed), encoding="utf-8")
    run = subprocess.run
    # The program reads another file than the library does.
    monkeypatch.setattr(
        fuzz.subprocess, "run", lambda command, **more: run([command[0], str(other)], **more)
    )
    difference = fuzz.compare([cpp_build.program("encode_lines")], path, strings_for(path, fuzz))
    assert difference is not None and "expected" in difference


@pytest.mark.parametrize("control", ["\U000e00a7", "\U00013430", "\U0001d173", "\U000e0001"])
def test_controls_of_four_bytes_end_a_cluster(
    control: str,
    tmp_path: Path,
    sentencepiece_models: dict[str, Path],
    cpp_build: CppBuild,
    fuzz: ModuleType,
) -> None:
    """Two marks after one are a cluster, which tables of SentencePiece replace as one."""
    path = write_tokenizer("xlm-roberta", tmp_path, sentencepiece_models)
    strings = [f"{control}\u0340\u032e", f"a{control}\u0343\u0354b"]
    assert fuzz.compare([cpp_build.program("encode_lines")], path, strings) is None


UNKNOWN_PARTS: dict[str, tuple[Mapping[str, Any], str]] = {
    "normalizer": ({"type": "Uppercase"}, "normalizer Uppercase"),
    "pre_tokenizer": ({"type": "UnicodeScripts"}, "pre-tokenizer UnicodeScripts"),
    "post_processor": ({"type": "Other"}, "post-processor Other"),
}


@pytest.mark.parametrize("section", UNKNOWN_PARTS)
def test_unknown_parts_are_named(
    section: str, tmp_path: Path, sentencepiece_models: dict[str, Path], cpp_build: CppBuild
) -> None:
    path = write_tokenizer("bert", tmp_path, sentencepiece_models)
    described = json.loads(path.read_text(encoding="utf-8"))
    described[section], part = UNKNOWN_PARTS[section]
    path.write_text(json.dumps(described), encoding="utf-8")
    result = subprocess.run(
        [cpp_build.program("encode_lines"), str(path)], input="", capture_output=True, text=True
    )
    expected = f"error: the tokenizer has a part that this library cannot do: {part}\n"
    assert (result.returncode, result.stderr) == (2, expected)


def test_an_unknown_regular_expression_is_named(
    tmp_path: Path, sentencepiece_models: dict[str, Path], cpp_build: CppBuild
) -> None:
    path = write_tokenizer("eurobert", tmp_path, sentencepiece_models)
    result = subprocess.run(
        [cpp_build.program("encode_lines"), str(path)], input="", capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "cannot do: regular expression (?i:'s|'t)" in result.stderr


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "unexpected end"),
        ("[1,", "unexpected end"),
        ('{"model": {"type": "WordPiece"}}', "expected a JSON value of the kind string"),
        ('{"a": "\\ud800"}', "expected \\u"),
        ("[" * 100, "nested too deeply"),
    ],
)
def test_corrupt_files_are_refused(
    content: str, problem: str, tmp_path: Path, cpp_build: CppBuild
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    result = subprocess.run(
        [cpp_build.program("encode_lines"), str(path)], input="", capture_output=True, text=True
    )
    assert result.returncode == 2
    assert problem in result.stderr

"""The JavaScript tokenizer of an export, compared with `tokenizers` on the conformance strings."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.export import conformance
from edgedistil.export.conformance_text import conformance_pairs, conformance_texts
from edgedistil.export.contract import tokenizer_contract
from edgedistil.runtime.npm import TOKENIZERS, package_files
from tests.fixtures.tokenizer_folders import LAYOUTS

pytestmark = pytest.mark.needs("node", "npm")
MODULE = Path(conformance.__file__).with_name("tokenizer.mjs")


def library() -> Path:
    name = "dist/tokenizers.min.mjs"
    return package_files(TOKENIZERS, [name])[name]


def differences(
    folder: Path,
    strings: list[Any],
    max_length: int = 100_000,
    description: dict[str, Any] | None = None,
) -> list[Any]:
    """Returns the texts whose ids, token types or offsets differ.

    Args:
        folder: Holds the tokenizer.
        strings: Texts and pairs.
        max_length: Tokens of an input at most.
        description: What JavaScript reads in place of the tokenizer.json.
    """
    tokenizer = read_tokenizer(folder)
    backend = tokenizer.backend
    rules = tokenizer_contract(tokenizer, max_length)
    backend.enable_truncation(max_length, direction=rules.truncation_side)
    path = folder / "as_exported" / "tokenizer.json"
    path.parent.mkdir(exist_ok=True)
    described = backend.to_str() if description is None else json.dumps(description)
    path.write_text(described, encoding="utf-8")
    (path.parent / "rules.json").write_text(json.dumps(asdict(rules)), encoding="utf-8")
    lines = "".join(f"{json.dumps(text)}\n" for text in strings)
    command = ["node", str(Path(__file__).with_name("encode_lines.mjs")), str(library())]
    done = subprocess.run(
        [*command, str(MODULE), str(path.parent)], input=lines, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    different = []
    for text, encoding, row in zip(strings, backend.encode_batch(strings), rows, strict=True):
        expected = [encoding.ids, encoding.type_ids, [list(span) for span in encoding.offsets]]
        if row[2] is None:
            expected[2] = None
        if row != expected:
            different.append((text, row, expected))
    return different


def conformance_strings(folder: Path) -> list[Any]:
    texts = conformance_texts(list(read_tokenizer(folder).roles.values()))
    return [*texts, *conformance_pairs(texts)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_tokens_are_those_of_tokenizers(tokenizer_folders: dict[str, Path], name: str) -> None:
    folder = tokenizer_folders[name]
    different = differences(folder, conformance_strings(folder))
    assert not different, f"{len(different)}: {different[:3]!a}"


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize("max_length", [9, 16])
def test_texts_and_pairs_are_cut_alike(
    tokenizer_folders: dict[str, Path], name: str, max_length: int
) -> None:
    folder = tokenizer_folders[name]
    assert differences(folder, conformance_strings(folder), max_length) == []


def test_the_comparison_finds_another_rule(tokenizer_folders: dict[str, Path]) -> None:
    folder = tokenizer_folders["bert"]
    differences(folder, ["Boat"])
    path = folder / "as_exported" / "tokenizer.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    text["normalizer"]["lowercase"] = False
    different = differences(folder, ["Boat"], description=text)
    assert [item[0] for item in different] == ["Boat"]

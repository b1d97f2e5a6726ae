"""The table of precisions, and the proof that a new precision needs two files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import edgedistil
from edgedistil.core.errors import InputError
from edgedistil.core.precision import (
    AUTO,
    EXAMPLE_PRECISIONS,
    PRECISION_REQUESTS,
    PRECISIONS,
    Precision,
    graph_name,
    min_runtime,
)
from edgedistil.export.precisions import MAKERS
from edgedistil.export.stage import checked_precisions
from edgedistil.parity.tolerances import TOLERANCES, tolerances_for

PACKAGE = Path(edgedistil.__file__).parent
SPECIALS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"} | {
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
WORDS = ["boat", "left", "harbour", "before", "sunrise", "river", "road", "bread"]

# A new precision: insertions into exactly two files, each before the given line.
NEW_PRECISION = {
    "core/precision.py": [
        ('Precision = Literal["fp32", ', 'Precision = Literal["fp32", "toy8", '),
        (
            '        PrecisionInfo(\n            name="fp16",\n',
            """        PrecisionInfo(
            name="toy8",
            description="A copy of int8 under another name.",
            suffix="_toy8",
            weight_bits=8,
            tolerances="int8",
            integer_matmul=True,
        ),
        PrecisionInfo(
            name="fp16",
""",
        ),
    ],
    "export/precisions.py": [
        (
            '    "fp16": make_fp16,\n',
            '    "toy8": lambda shop: replace(make_int8(shop), precision="toy8"),\n'
            '    "fp16": make_fp16,\n',
        ),
    ],
}


def test_every_precision_has_a_row_a_maker_and_tolerances() -> None:
    assert tuple(PRECISIONS) == get_args(Precision)
    assert set(MAKERS) == set(PRECISION_REQUESTS)
    assert {row.tolerances for row in PRECISIONS.values()} == set(TOLERANCES)
    for name in PRECISIONS:
        assert tolerances_for(name, "fill-mask")
        assert tolerances_for(name, "feature-extraction")


def test_file_names_are_distinct_and_those_that_transformers_js_opens() -> None:
    names = [graph_name(name) for name in PRECISIONS]
    assert len(set(names)) == len(names)
    assert graph_name("fp32") == "model.onnx"
    assert graph_name("int4") == "model_q4.onnx"
    assert all(PRECISIONS[name].js_dtype for name in EXAMPLE_PRECISIONS)


def test_descriptions_are_one_sentence_for_help_texts() -> None:
    for row in (*PRECISIONS.values(), AUTO):
        assert row.description.endswith(".")
        assert len(row.description) <= 90


@pytest.mark.parametrize(("request_", "oldest"), [("fp32", (1, 14)), ("int4", (1, 17))])
def test_minimum_runtime(request_: Precision, oldest: tuple[int, int]) -> None:
    assert min_runtime(request_) == oldest
    assert min_runtime("auto") == (1, 17)


def test_a_new_precision_needs_two_files(tmp_path: Path) -> None:
    """A copy of the package with insertions in two files exports and proves the new precision."""
    package = tmp_path / "changed" / "edgedistil"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, insertions in NEW_PRECISION.items():
        insert(package / file, insertions)

    source, text = small_bert(tmp_path / "small-bert"), tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[i % 5 :]) for i in range(40)), encoding="utf-8")
    command = ["export", "--model", str(source), "--text", str(text), "--quantize", "toy8"]
    printed = run_command(package.parent, command, runs=tmp_path / "runs")

    run = tmp_path / "runs" / "small-bert"
    folder = run / "export" / "small-bert-feature-extraction"
    assert (folder / "onnx" / "model_toy8.onnx").is_file()
    assert json.loads((folder / "export.toy8.json").read_text())["precision"] == "toy8"
    parity = json.loads((run / "parity" / "small-bert-feature-extraction.toy8.json").read_text())
    assert parity["passed"], parity
    assert parity["results"], "int8's tolerances were applied"
    assert "model_toy8.onnx" in (folder / "README.md").read_text(encoding="utf-8")
    assert "toy8" in printed


def test_the_unchanged_package_does_not_know_that_precision() -> None:
    with pytest.raises(InputError, match="no precision 'toy8'"):
        checked_precisions(["toy8"])


def insert(file: Path, insertions: list[tuple[str, str]]) -> None:
    """Replaces each old text, which must occur exactly once, by the new text."""
    text = file.read_text(encoding="utf-8")
    for old, new in insertions:
        assert text.count(old) == 1, f"{file.name}: {old!r}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def small_bert(folder: Path) -> Path:
    """Saves a random encoder whose weights are large enough for int8 to be compared."""
    vocabulary = {word: i for i, word in enumerate([*SPECIALS.values(), *WORDS])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **SPECIALS)
    fast.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=44,
        intermediate_size=68,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(11)
    BertModel(config).save_pretrained(folder)
    return folder


def run_command(path: Path, arguments: list[str], *, runs: Path) -> str:
    """Runs the command line of the package in `path`; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "edgedistil", *arguments],
        env={**os.environ, "PYTHONPATH": str(path), "EDGEDISTIL_RUNS": str(runs)},
        cwd=runs.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from edgedistil.export.tokenizer_files import write_tokenizer


@pytest.mark.parametrize(
    ("declared", "longest", "expected"),
    [
        (17, None, 17),
        (10**30, None, 521),
        (None, None, 521),
        (17, 9, 9),
        (17, 40, 17),
        (None, 900, 521),
    ],
)
def test_texts_are_cut_at_the_declared_lengths_and_at_the_positions(
    folder: Callable[[str], Path],
    tmp_path: Path,
    declared: int | None,
    longest: int | None,
    expected: int,
) -> None:
    source, package = folder("BertModel"), tmp_path / "package"
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings["model_max_length"] = declared
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    package.mkdir()
    config = json.loads((source / "config.json").read_text())
    (package / "config.json").write_text(json.dumps(config))
    names = ["input_ids"]
    length = write_tokenizer(package, source, config, input_names=names, longest=longest)
    assert length == expected
    assert AutoTokenizer.from_pretrained(package).model_max_length == expected

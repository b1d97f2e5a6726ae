"""Models as folders that transformers loads: the teacher linked from the cache, the student with its tokenizer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers import DistilBertForMaskedLM, PreTrainedTokenizerFast

from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.models.quiet import quiet

_FILES = {".json", ".txt", ".safetensors"}


def link_folder(source: Path, target: Path) -> None:
    """A model folder under another name: hard links where the disk can, else copies. Weights take no space twice."""
    if target.exists():
        return
    with replacing(target) as aside, storage_errors(target):
        aside.mkdir()
        for file in sorted(source.iterdir()):
            if file.suffix in _FILES:
                _link(file.resolve(), aside / file.name)  # the hub's cache holds symbolic links


def save_student(
    student: DistilBertForMaskedLM, tokenizer: PreTrainedTokenizerFast, target: Path
) -> None:
    """The student and its tokenizer, whole or not at all. The tokenizer gives no token types: a DistilBERT has none."""
    names = tokenizer.model_input_names
    tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    try:
        with replacing(target) as aside, storage_errors(target), quiet():
            student.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    finally:
        tokenizer.model_input_names = names


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

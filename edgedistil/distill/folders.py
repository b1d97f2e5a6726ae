"""Model folders of a run that transformers loads: the teacher, linked, and the student."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers import PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_save import save_tokenizer
from edgedistil.models.quiet import quiet

# Configuration, tokenizer and weights. Pickles (.bin) are left behind: nothing of ours reads them.
_SUFFIXES = {".json", ".txt", ".safetensors"}


def link_folder(source: Path, target: Path) -> None:
    """Links a model folder's files into `target`, or copies them where hard links are impossible.

    An existing `target` is left as it is.
    """
    if target.exists():
        return
    with replacing(target) as unfinished, storage_errors(target):
        unfinished.mkdir()
        for file in sorted(source.iterdir()):
            if file.suffix in _SUFFIXES:
                # The hub's cache holds symbolic links; a link to one would depend on that cache.
                _link(file.resolve(), unfinished / file.name)


def save_student(student: PreTrainedModel, tokenizer: TextTokenizer, target: Path) -> None:
    """Writes the student and its tokenizer, completely or not at all."""
    family = FAMILIES[student.config.model_type]
    positions = family.positions_limit(student.config.to_dict())
    with replacing(target) as unfinished, storage_errors(target), quiet():
        student.save_pretrained(unfinished)
        save_tokenizer(
            tokenizer,
            unfinished,
            class_name=family.tokenizer_class,
            input_names=_input_names(student, tokenizer),
            max_length=min(tokenizer.max_length or positions, positions),
        )


def _input_names(student: PreTrainedModel, tokenizer: TextTokenizer) -> tuple[str, ...]:
    """Inputs that clients feed: a student without token types must not get any."""
    segments = FAMILIES[student.config.model_type].segments(student.config.to_dict())
    if segments > 1 and tokenizer.gives_token_types:
        return "input_ids", "attention_mask", "token_type_ids"
    return "input_ids", "attention_mask"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

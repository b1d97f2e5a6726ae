"""Model folders of a run that transformers loads: the teacher, linked, and the student."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers import PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.core.sentence_modules import read_modules
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_save import save_tokenizer
from edgedistil.models.quiet import quiet
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.models.sentence_folder import describe_folder, write_sentence_folder

# Configuration, tokenizer and weights. Pickles (.bin) are left behind: nothing of ours reads them.
_SUFFIXES = {".json", ".txt", ".safetensors"}


def link_folder(source: Path, target: Path, *, described: SentenceVector | None = None) -> None:
    """Links a model folder's files into `target`, or copies them where hard links are impossible.

    Args:
        source: The folder.
        target: Where its files are linked to.
        described: What a recipe adds to the folder's description of its sentence vectors, written
            into `target`; None for nothing.
    """
    with replacing(target) as unfinished, storage_errors(target):
        for name in _folders(source):
            (unfinished / name).mkdir(parents=True, exist_ok=True)
        for file in model_files(source):
            # The hub's cache holds symbolic links, which a link would depend on.
            _link((source / file).resolve(), unfinished / file)
        if described is not None:
            describe_folder(unfinished, described)


def model_files(source: Path) -> list[Path]:
    """Relative paths of a model's own files, and of its modules for sentence vectors; no pickles.

    Raises:
        ModelError: modules.json is corrupt.
    """
    files = [file for name in _folders(source) for file in sorted((source / name).iterdir())]
    return [file.relative_to(source) for file in files if file.suffix in _SUFFIXES]


def _folders(source: Path) -> list[str]:
    """Relative paths of the model's folder and of its modules' folders."""
    # A normalization has none.
    modules = {module.path for module in read_modules(source)} - {""}
    return ["", *sorted(name for name in modules if (source / name).is_dir())]


def save_student(
    student: PreTrainedModel,
    tokenizer: TextTokenizer,
    target: Path,
    *,
    sentence: SentenceEncoder | None = None,
) -> None:
    """Writes the student and its tokenizer, completely or not at all.

    Args:
        student: The student.
        tokenizer: Its tokenizer.
        target: The folder.
        sentence: The student with the layers that make its vectors; the folder is then a complete
            sentence-transformers folder.
    """
    family = FAMILIES[student.config.model_type]
    positions = family.positions_limit(student.config.to_dict())
    # A tokenizer's own limit may be absurd; the positions never are.
    max_length = min(tokenizer.max_length or positions, positions)
    with replacing(target) as unfinished, storage_errors(target), quiet():
        student.save_pretrained(unfinished)
        if sentence is not None:
            max_length = min(sentence.vector.max_length or max_length, positions)
            write_sentence_folder(unfinished, sentence, max_length=max_length)
        save_tokenizer(
            tokenizer,
            unfinished,
            class_name=family.tokenizer_class,
            input_names=_input_names(student, tokenizer),
            max_length=max_length,
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

"""The teacher with the student's vocabulary: same weights, fewer rows.

Both learn and are judged on the same tokens: the softmax of the teacher is over the tokens that
stay, because it has no other rows. The run's own teacher keeps its vocabulary, so that sizes and
scores are compared with the model as it was given.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.digests import is_intact, remembered_sha256, write_manifest
from edgedistil.core.errors import ModelError
from edgedistil.core.fetch import cache_lock
from edgedistil.core.paths import user_path
from edgedistil.core.recipe_student import VocabularySection
from edgedistil.core.records import read_record, write_record
from edgedistil.core.rundir import replacing
from edgedistil.core.text import read_lines
from edgedistil.core.trim_records import TrimRecord
from edgedistil.data.corpus import TokenizedCorpus
from edgedistil.distill.folders import model_files
from edgedistil.models.facts import weights_sha256
from edgedistil.models.teacher import Teacher, read_teacher
from edgedistil.trimming.folder import CountedText, trim_package
from edgedistil.trimming.selection import (
    Selection,
    VocabularyRequest,
    count_tokens,
    select_tokens,
    warn_of_other_scripts,
)
from edgedistil.trimming.stage import MODEL_FOLDER, RECORD_FILE

# Part of the cache's key: raised when the same choice of tokens would give other files.
_FORMAT = 2
# Held-out documents that tokens are compared on: more change no digit of the growth.
_HELDOUT_TEXTS = 2000


@dataclass(frozen=True)
class TrimmedTeachers:
    """Teachers of a run with the student's vocabulary.

    Attributes:
        teacher: The one that is distilled, with its MLM head.
        original: The one without the fitted head; `teacher` itself where none was fitted.
        record: What trimming saves and costs, of `original`.
    """

    teacher: Teacher
    original: Teacher
    record: TrimRecord


def _select_vocabulary(
    section: VocabularySection, teacher: Teacher, corpus: TokenizedCorpus
) -> tuple[Selection, CountedText]:
    """Chooses the tokens that stay, by the corpus or by a text file.

    Raises:
        InputError: The file cannot be read, or the size cannot be reached.
        ModelError: The vocabulary cannot be trimmed.
    """
    heldout = read_lines(corpus.heldout_text)[:_HELDOUT_TEXTS]
    if section.text is None:
        name, counts_V, sample = "the corpus", corpus.token_counts_V, heldout
    else:
        path = user_path(section.text)
        name, sample = section.text, read_lines(path)
        counts_V = count_tokens(teacher.tokenizer, sample)
    selection = select_tokens(
        teacher.tokenizer, counts_V, VocabularyRequest(section.size, section.coverage)
    )
    scripts = warn_of_other_scripts(selection.vocabulary, sample)
    return selection, CountedText(name, counts_V, heldout, "held-out part of the corpus", scripts)


def trim_teachers(
    section: VocabularySection,
    teacher: Teacher,
    original: Teacher,
    corpus: TokenizedCorpus,
    *,
    cache: Path,
) -> TrimmedTeachers:
    """Returns the teachers with fewer tokens, from the cache or written into it.

    Args:
        section: Recipe section [student.vocabulary].
        teacher: The teacher, with its MLM head.
        original: The teacher before a head was fitted.
        corpus: The corpus, tokenized with the teacher's own vocabulary.
        cache: Root of the cache.
    Raises:
        GateError: A trimmed teacher does not compute what the teacher computes.
        ModelError: A file of the teacher cannot be read.
        InputError: The text cannot be read, or the size cannot be reached.
        StorageError: The cache cannot be written.
    """
    selection, text = _select_vocabulary(section, teacher, corpus)
    trimmed, record = _trim(teacher, selection, text, cache=cache)
    untouched = trimmed
    if original is not teacher:
        untouched, record = _trim(original, selection, text, cache=cache)
    return TrimmedTeachers(trimmed, untouched, record)


def _trim(
    teacher: Teacher, selection: Selection, text: CountedText, *, cache: Path
) -> tuple[Teacher, TrimRecord]:
    """Returns one trimmed teacher, from the cache or written into it."""
    inputs = {
        "format": _FORMAT,
        "teacher": weights_sha256(teacher.model),
        "tokenizer": teacher.tokenizer.sha256,
        # Pooling, dense layers and prompts are copied.
        "files": _file_digests(teacher.folder),
        "rows": selection.rows,
        # The record has its name and figures, also where other texts select the same tokens.
        "text": _text_digest(text),
    }
    # 96 bits: enough that no two inputs share a folder.
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache / "teachers" / f"{teacher.name}-trimmed-{key}"
    with cache_lock(folder):
        # Another process may have built it while this one waited for the lock.
        if not is_intact(folder, cache=cache):
            console.say(
                f"trimming the vocabulary of the teacher: {len(selection.vocabulary.ids):,} → "
                f"{len(selection.rows):,} tokens"
            )
            with replacing(folder) as unfinished:
                unfinished.mkdir()
                record = trim_package(
                    teacher.folder,
                    unfinished / MODEL_FOLDER,
                    name=teacher.name,
                    selection=selection,
                    text=text,
                )
                write_record(unfinished / RECORD_FILE, record)
                write_manifest(unfinished)
    record = read_record(folder / RECORD_FILE, TrimRecord)
    return read_teacher(folder / MODEL_FOLDER, name=teacher.name), record


def _file_digests(folder: Path) -> dict[str, str]:
    """Relative path → digest of a model folder's files, without the weights of the model itself."""
    digests = {}
    for name in model_files(folder):
        # Its own weights are digested as they were loaded.
        if name.parent == Path() and name.suffix == ".safetensors":
            continue
        try:
            digests[name.as_posix()] = remembered_sha256(folder / name)
        except OSError as error:
            raise ModelError(
                f"cannot read {folder / name}: {error.strerror or error}",
                hint="copy or download the teacher's folder again",
            ) from error
    return digests


def _text_digest(text: CountedText) -> str:
    digest = hashlib.sha256(json.dumps([text.name, text.heldout_name, *text.heldout]).encode())
    digest.update(text.counts_V.astype("<i8").tobytes())
    return digest.hexdigest()

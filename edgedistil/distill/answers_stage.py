"""`edgedistil answers`: writes the texts of a recipe's corpus, with the teacher's vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import ModelError
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Recipe
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus
from edgedistil.data.texts import read_texts
from edgedistil.distill import setup
from edgedistil.distill.answers import (
    PARTS,
    SUFFIXES,
    check_suffix,
    corpus_texts,
    require_new_files,
    write_answers,
    write_texts,
)
from edgedistil.distill.distributed import TORCH_DTYPES, process_group, resolve_precision
from edgedistil.distill.sentence_setup import read_prompts, teacher_encoder, teacher_vector
from edgedistil.distill.targets import BLOCK_ROWS, TeacherTargets
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.models.teacher import Teacher

# Written in the working directory where no file is named.
_DEFAULT_FILE = "answers.jsonl"


def answer(recipe: Recipe, out: Path | None, *, texts_only: bool = False) -> Path:
    """Writes the texts of a recipe's corpus and the vectors that its teacher has for them.

    The vectors are in every bit those that a run of the recipe learns from the teacher itself, on
    the same machine without losses on its states, if `train.precision` is not `auto` (which a run
    may resolve by a trial), the vocabulary is not trimmed (`student.vocabulary`: a run then encodes
    other tokens, in rows of other lengths, with the trimmed teacher), and the run reuses vectors
    (`targets.is_worth_reusing`). A shorter run encodes each batch: equal within rounding.

    Args:
        recipe: The recipe; its objective is `representation`.
        out: .jsonl, .parquet or .npy; None for answers.jsonl.
        texts_only: Whether to write texts without vectors, for a teacher elsewhere.
    Returns:
        The file.
    Raises:
        ModelError: The recipe has another objective.
        InputError: The file exists, or teacher or corpus are missing or damaged.
        StorageError: The file cannot be written.
    """
    path = out or Path(_DEFAULT_FILE)
    # Checked before a teacher is loaded and texts are encoded.
    check_suffix(path, suffixes=(".jsonl",) if texts_only else SUFFIXES)
    require_new_files(path)
    teacher = setup.load_recipe_teacher(recipe.teacher)
    kind = setup.recipe_objective(recipe, teacher)
    if kind != "representation":
        raise ModelError(
            f"the recipe's objective is {kind}, which has no sentence vectors",
            hint='set objective.kind = "representation"',
        )
    vector = teacher_vector(teacher, recipe.teacher)
    corpus = prepare_corpus(
        setup.corpus_section(recipe, kind),
        teacher.folder,
        cache=cache_root(),
        prompts=read_prompts(vector),
    )
    counts = {part: len(corpus.store(part)) for part in PARTS}
    console.say(f"texts: {counts['train']:,} to train on, then {counts['heldout']:,} held out")
    if texts_only:
        write_texts(path, (text.text for text in corpus_texts(corpus)))
        return path
    with process_group() as state:
        precision = resolve_precision(recipe.train.precision, state.device)
        freeze_teacher(teacher.model, dtype=TORCH_DTYPES[precision])
        encoder = teacher_encoder(teacher, vector).to(state.device)
        encoder.head.float()
        rows = _rows(corpus, teacher, encoder, state.device)
        write_answers(path, rows, count=sum(counts.values()))
    return path


def _rows(
    corpus: TokenizedCorpus, teacher: Teacher, encoder: SentenceEncoder, device: torch.device
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields the texts of a corpus with the teacher's vectors, in the corpus's order."""
    total = sum(len(corpus.store(part)) for part in PARTS)
    with console.progress("encoding texts", total, unit="texts") as bar:
        for part in PARTS:
            store, texts = corpus.store(part), read_texts(corpus.texts(part))
            targets = TeacherTargets(encoder, store, pad_id=teacher.tokenizer.pad_id, device=device)
            for first in range(0, len(store), BLOCK_ROWS):
                rows = np.arange(first, min(first + BLOCK_ROWS, len(store)))
                for vector_V in targets.vectors(rows).cpu().numpy():
                    yield next(texts).text, vector_V
                bar.advance(len(rows))

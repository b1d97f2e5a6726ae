"""Trims a model folder: counts, choice of the tokens, weights, tokenizer, and the proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError
from edgedistil.core.model_folder import ModelFolder, read_model_folder
from edgedistil.core.records import NotMeasured, provenance
from edgedistil.core.rundir import replacing, storage_errors, tree_manifest
from edgedistil.core.sentence_modules import SentenceModule, find_transformer, read_modules
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_trim import trim_tokenizer
from edgedistil.core.trim_records import TrimRecord
from edgedistil.core.weight_headers import read_shapes, weight_files
from edgedistil.trimming.proof import compare_texts, prove_equal
from edgedistil.trimming.selection import Selection, dropped_by_script
from edgedistil.trimming.weights import copy_other_files, write_trimmed

# Modules of sentence-transformers whose vectors have a number per token of the vocabulary.
_PER_TOKEN_MODULES = ("SpladePooling", "SparseStaticEmbedding", "StaticEmbedding", "BoW")


@dataclass(frozen=True)
class CountedText:
    """Text that a vocabulary is chosen by, and text that it is judged on.

    Attributes:
        name: What was counted, for the record.
        counts_V: Occurrences of each token, shape (V,).
        heldout: Texts that were not counted.
        heldout_name: Where they are from.
        other_scripts: Script that the vocabulary was not made for → share of the letters.
    """

    name: str
    counts_V: NDArray[np.int64]
    heldout: Sequence[str]
    heldout_name: str
    other_scripts: dict[str, float]


def check_trimmable(package: Path) -> ModelFolder:
    """Returns the model of a folder; raises ModelError if its outputs belong to the vocabulary.

    Raises:
        ModelError: See above, or the folder has no model that is supported.
    """
    source = read_model_folder(find_transformer(package))
    for module in read_modules(package):
        if module.class_name in _PER_TOKEN_MODULES:
            raise ModelError(
                f"the vectors of the model in {package} have a number for each token of the "
                f"vocabulary ({module.class_name}): without tokens they would mean something else",
                hint="trim a model of dense vectors, or compute a new index with another model",
            )
    labels = source.config.get("id2label")
    if isinstance(labels, dict) and len(labels) == source.family.vocabulary(source.config):
        raise ModelError(
            f"the model in {package} has a label for each of its {len(labels):,} tokens: labels "
            "would go with the tokens",
            hint="trim the model before it is fine-tuned",
        )
    return source


def trim_package(
    package: Path, target: Path, *, name: str, selection: Selection, text: CountedText
) -> TrimRecord:
    """Writes the trimmed model of a folder, after it was compared with the model before.

    Args:
        package: Folder of the model, with its sentence-transformers modules if it has any.
        target: Folder to write, completely or not at all.
        name: The model, as the user called it.
        selection: Tokens that stay.
        text: Counted and held-out text.
    Returns:
        The record, without latencies.
    Raises:
        GateError: The comparison failed; nothing was written.
        ModelError: The model cannot be trimmed.
        StorageError: The folder cannot be written.
    """
    source = check_trimmable(package)
    before = read_tokenizer(source.folder)
    after = trim_tokenizer(before, selection.vocabulary, selection.new_ids)
    heldout, unchanged = compare_texts(
        before, after, selection.new_ids, text.heldout, source=text.heldout_name
    )
    with replacing(target) as unfinished, storage_errors(target):
        # Older sentence-transformers folders have the model in a subfolder.
        inner = unfinished / source.folder.relative_to(package)
        inner.mkdir(parents=True)
        left_out = copy_other_files(package, unfinished, _other_modules(package, source))
        write_trimmed(source, after, selection.rows, inner)
        proof = prove_equal(
            source, inner, tokenizer=before, rows=selection.rows, unchanged=unchanged
        )
        sizes = [_sizes(folder) for folder in (source.folder, inner)]
        files = tree_manifest(unfinished)
    return TrimRecord(
        model=name,
        kind=selection.vocabulary.kind,
        vocabulary_before=len(selection.vocabulary.ids),
        vocabulary_after=len(selection.rows),
        rows_before=source.family.vocabulary(source.config),
        required=selection.required,
        counted_on=text.name,
        counted_tokens=int(text.counts_V.sum()),
        coverage=selection.coverage,
        dropped_by_script=dropped_by_script(selection),
        other_scripts=text.other_scripts,
        heldout=heldout,
        parameters_before=sizes[0][0],
        parameters_after=sizes[1][0],
        bytes_before=sizes[0][1],
        bytes_after=sizes[1][1],
        proof=proof,
        latency=NotMeasured(not_measured="no device was named"),
        left_out=left_out,
        old_ids=selection.rows,
        files=files,
        provenance=provenance(),
    )


def _other_modules(package: Path, source: ModelFolder) -> list[SentenceModule]:
    """Modules with a folder of their own, without that of the model itself."""
    modules = read_modules(package)
    return [
        module for module in modules if module.path and (package / module.path) != source.folder
    ]


def _sizes(folder: Path) -> tuple[int, int]:
    """Stored parameters of a model, and bytes of its weight files."""
    shapes = read_shapes(folder)
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    return parameters, sum(file.stat().st_size for file in weight_files(folder))

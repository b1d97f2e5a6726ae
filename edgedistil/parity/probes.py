"""Probes: batches of real text, with the outputs that PyTorch computed for them.

A probe set is a list of batches as a user would send them: padded, of several lengths, some of one
sequence. PyTorch's outputs are stored only where they are compared: the complete vocabulary at
every position of a hundred sequences would be gigabytes, and rows beyond a few hundred add no
information (`edgedistil/export/reference.py` selects how many are stored and where).

The file is one npz archive without pickle and is read without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ShapeError, StorageError
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.core.sentence_vector import Similarity
from edgedistil.core.task import ProblemType, Task

FORMAT = 1

Array = NDArray[Any]


# Outputs of each batch by PyTorch with an artefact's roundings, as `reference_error` stores them.
ReferenceOutputs = tuple[Mapping[str, Array], ...]


def by_question(feeds: Mapping[str, Array], choices: int | None) -> dict[str, Array]:
    """Returns inputs (B, L), or (questions, choices, L) for a task with choices."""
    if choices is None:
        return dict(feeds)
    return {name: array.reshape(-1, choices, array.shape[-1]) for name, array in feeds.items()}


@dataclass(frozen=True)
class ProbeBatch:
    """Inputs of one call, the positions that are compared, and PyTorch's outputs there.

    Shapes: B sequences, L padded length, N compared positions, M masked positions, R positions with
    hidden states, K boundaries (the outputs of the LayerNorms, in order), D hidden size.

    Attributes:
        input_ids_BL: Token ids.
        attention_mask_BL: 1 for tokens, 0 for padding.
        token_type_ids_BL: Segment ids; None for models without segments.
        rows_N2: (sequence, position) of the compared rows; empty for outputs per sequence.
        outputs: Output name → shape (N, ...), or (B, ...) per sequence.
        masked_M2: (sequence, position) of every [MASK]; fill-mask only.
        choices_M: PyTorch's most likely token at each [MASK].
        margins_M: Lead of that token over the next one, in logits.
        hidden_rows_R2: (sequence, position) of the stored hidden states.
        hidden_KRD: Hidden states after each LayerNorm at these positions.
        full_hidden_KBLD: Hidden states at every position, padding included; in one batch only,
            None in the others.
        choices: Sequences of one question, of which the model selects one; None for other tasks.
    """

    input_ids_BL: NDArray[np.int64]
    attention_mask_BL: NDArray[np.int64]
    token_type_ids_BL: NDArray[np.int64] | None
    rows_N2: NDArray[np.int64]
    outputs: Mapping[str, NDArray[np.float32]]
    masked_M2: NDArray[np.int64]
    choices_M: NDArray[np.int64]
    margins_M: NDArray[np.float32]
    hidden_rows_R2: NDArray[np.int64]
    hidden_KRD: NDArray[np.float32]
    full_hidden_KBLD: NDArray[np.float32] | None
    choices: int | None = None

    @property
    def sequences(self) -> int:
        return int(self.input_ids_BL.shape[0])

    @property
    def length(self) -> int:
        """Padded length, in tokens."""
        return int(self.input_ids_BL.shape[1])

    def feeds(self) -> dict[str, NDArray[np.int64]]:
        """The model's inputs by their standard names."""
        feeds = {"input_ids": self.input_ids_BL, "attention_mask": self.attention_mask_BL}
        if self.token_type_ids_BL is not None:
            feeds["token_type_ids"] = self.token_type_ids_BL
        return by_question(feeds, self.choices)


@dataclass(frozen=True)
class PoolBatch:
    """Different short texts of one call, and PyTorch's sentence vectors of them, (B, V)."""

    feeds: Mapping[str, NDArray[np.int64]]
    vectors_BV: NDArray[np.float32]


@dataclass(frozen=True)
class TextPool:
    """Texts that are ranked by each other, and how the model's vectors are compared."""

    similarity: Similarity
    batches: tuple[PoolBatch, ...]

    @property
    def texts(self) -> int:
        return sum(len(batch.vectors_BV) for batch in self.batches)


@dataclass(frozen=True)
class Probes:
    """All batches of a probe set, and the model that computed the outputs. Iterates over batches.

    Attributes:
        task: Task of the model.
        source_sha256: Digest of the PyTorch model.
        seed: Seed that the text and the positions were drawn with.
        boundaries: Names of the parts that end at the LayerNorms, in order.
        batches: The batches.
        problem_type: How the outputs of a sequence's head are read; None for other tasks.
        references: Precision → outputs of each batch by PyTorch with the roundings of its artefact.
        pool: Texts whose rankings are compared; None for a model without sentence vectors.
        change_by_padding: Largest change of a text's outputs by padding in PyTorch, as a share of
            the largest output; 0 for a model that ignores padding.
    """

    task: Task
    source_sha256: str
    seed: int
    boundaries: tuple[str, ...]
    batches: tuple[ProbeBatch, ...]
    problem_type: ProblemType | None = None
    references: Mapping[Precision, ReferenceOutputs] = field(default_factory=dict)
    pool: TextPool | None = None
    change_by_padding: float = 0.0

    def __iter__(self) -> Iterator[ProbeBatch]:
        return iter(self.batches)

    @property
    def sequences(self) -> int:
        return sum(batch.sequences for batch in self.batches)

    @property
    def lengths(self) -> list[int]:
        """Padded lengths, ascending, without repetition."""
        return sorted({batch.length for batch in self.batches})

    @property
    def tokens(self) -> int:
        """Positions that one pass over all batches computes, padding included."""
        return sum(batch.input_ids_BL.size for batch in self.batches)

    def up_to(self, length: int) -> Probes:
        """Returns the batches of at most `length` tokens, for a slow or small machine.

        Raises:
            ShapeError: No batch is that short.
        """
        indices = [index for index, batch in enumerate(self.batches) if batch.length <= length]
        if not indices:
            raise ShapeError(f"no probe has at most {length} tokens; lengths: {self.lengths}")
        return self.select(indices)

    def select(self, indices: Sequence[int]) -> Probes:
        """Returns some of the batches, with their references."""
        references = {}
        for precision, outputs in self.references.items():
            references[precision] = tuple(outputs[index] for index in indices)
        batches = tuple(self.batches[index] for index in indices)
        return replace(self, batches=batches, references=references)

    def with_reference(self, precision: Precision, outputs: ReferenceOutputs) -> Probes:
        """Adds the outputs of PyTorch with the roundings of a precision's artefact."""
        return replace(self, references={**self.references, precision: outputs})

    def save(self, path: Path) -> None:
        """Writes one npz file atomically; equal probes give equal bytes."""
        head: dict[str, Any] = {
            "format": FORMAT,
            "task": self.task,
            "source_sha256": self.source_sha256,
            "seed": self.seed,
            "boundaries": list(self.boundaries),
            "batches": len(self.batches),
        }
        # Absent for the other tasks, whose files stay as they were.
        if self.problem_type is not None:
            head["problem_type"] = self.problem_type
        if self.references:
            head["references"] = sorted(self.references)
        if self.pool is not None:
            head["pool"] = [self.pool.similarity, len(self.pool.batches)]
        if self.change_by_padding:
            head["change_by_padding"] = self.change_by_padding
        # The head is JSON in an array of text: npz without pickle stores arrays only.
        arrays: dict[str, Array] = {"head": np.array(json.dumps(head, sort_keys=True))}
        for index, batch in enumerate(self.batches):
            for name, array in _arrays_of(batch).items():
                arrays[f"{index}/{name}"] = array
            for precision, outputs in self.references.items():
                for name, array in outputs[index].items():
                    arrays[f"{index}/{_REFERENCE_PREFIX}{precision}/{name}"] = array
        arrays |= _pool_arrays(self.pool)
        with replacing(path) as temporary, storage_errors(path), temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Probes:
        """Reads a file written by `save`.

        Raises:
            StorageError: The file is missing, corrupt, or of another format.
        """
        try:
            # Without pickle, so that a file from elsewhere cannot run code.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                head = _read_head(archive)
                batches = tuple(_batch_of(archive, index) for index in range(head["batches"]))
                boundaries = tuple(map(str, head["boundaries"]))
                references = _references_of(archive, head)
                pool = _pool_of(archive, head)
                change_by_padding = float(head.get("change_by_padding", 0.0))
                task, source_sha256, seed = head["task"], head["source_sha256"], head["seed"]
        # A corrupt archive makes zipfile, zlib and numpy raise exceptions of a dozen types.
        except Exception as error:
            raise StorageError(
                f"{path} does not contain readable probes: {error}",
                hint="edgedistil export writes them again",
            ) from error
        return cls(
            task=task,
            source_sha256=source_sha256,
            seed=seed,
            boundaries=boundaries,
            batches=batches,
            # Files of earlier versions do not have it: their heads were read as one label or value.
            problem_type=head.get("problem_type"),
            references=references,
            pool=pool,
            change_by_padding=change_by_padding,
        )


# --- npz format ----------------------------------------------------------------------------------

# Arrays that every batch has, stored under the names of their fields.
_REQUIRED = (
    "input_ids_BL",
    "attention_mask_BL",
    "rows_N2",
    "masked_M2",
    "choices_M",
    "margins_M",
    "hidden_rows_R2",
    "hidden_KRD",
)
_TOKEN_TYPES = "token_type_ids_BL"  # noqa: S105 -- the name of an array
_CHOICES = "choices"
_FULL_HIDDEN = "whole_KBLD"  # stored name; part of FORMAT 1
_OUTPUT_PREFIX = "output/"
_REFERENCE_PREFIX = "reference/"
_POOL_PREFIX = "pool/"
_VECTORS = "vectors_BV"


def _read_head(archive: Mapping[str, Array]) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(str(archive["head"]))
    if head["format"] != FORMAT:
        raise ValueError(f"format {head['format']}, expected {FORMAT}")
    return head


def _arrays_of(batch: ProbeBatch) -> dict[str, Array]:
    """Stored name → array, in the order of the file."""
    arrays: dict[str, Array] = {name: getattr(batch, name) for name in _REQUIRED}
    if batch.token_type_ids_BL is not None:
        arrays[_TOKEN_TYPES] = batch.token_type_ids_BL
    if batch.choices is not None:
        arrays[_CHOICES] = np.array(batch.choices)
    if batch.full_hidden_KBLD is not None:
        arrays[_FULL_HIDDEN] = batch.full_hidden_KBLD
    for name, array in batch.outputs.items():
        arrays[_OUTPUT_PREFIX + name] = array
    return arrays


def _references_of(
    archive: Mapping[str, Array], head: Mapping[str, Any]
) -> dict[Precision, ReferenceOutputs]:
    """Reads the outputs of PyTorch with an artefact's roundings, for each precision."""
    references: dict[Precision, ReferenceOutputs] = {}
    for precision in head.get("references", ()):
        batches = []
        for index in range(head["batches"]):
            prefix = f"{index}/{_REFERENCE_PREFIX}{precision}/"
            names = [name for name in archive if name.startswith(prefix)]
            batches.append({name.removeprefix(prefix): archive[name] for name in names})
        references[precision] = tuple(batches)
    return references


def _pool_arrays(pool: TextPool | None) -> dict[str, Array]:
    """Stored name → array of the pool."""
    arrays: dict[str, Array] = {}
    for index, batch in enumerate(pool.batches if pool is not None else ()):
        arrays[f"{_POOL_PREFIX}{index}/{_VECTORS}"] = batch.vectors_BV
        for name, array in batch.feeds.items():
            arrays[f"{_POOL_PREFIX}{index}/{name}"] = array
    return arrays


def _pool_of(archive: Mapping[str, Array], head: Mapping[str, Any]) -> TextPool | None:
    if "pool" not in head:
        return None
    similarity, count = head["pool"]
    batches = []
    for index in range(count):
        prefix = f"{_POOL_PREFIX}{index}/"
        names = [name.removeprefix(prefix) for name in archive if name.startswith(prefix)]
        feeds = {name: archive[prefix + name] for name in names if name != _VECTORS}
        batches.append(PoolBatch(feeds, archive[prefix + _VECTORS]))
    return TextPool(similarity, tuple(batches))


def _batch_of(archive: Mapping[str, Array], index: int) -> ProbeBatch:
    """Reads one batch; raises KeyError if an array is missing."""
    prefix = f"{index}/"
    arrays: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    for stored_name in archive:
        if not stored_name.startswith(prefix):
            continue
        name = stored_name.removeprefix(prefix)
        if name.startswith(_OUTPUT_PREFIX):
            outputs[name.removeprefix(_OUTPUT_PREFIX)] = archive[stored_name]
        else:
            arrays[name] = archive[stored_name]
    required = {name: arrays[name] for name in _REQUIRED}
    return ProbeBatch(
        token_type_ids_BL=arrays.get(_TOKEN_TYPES),
        full_hidden_KBLD=arrays.get(_FULL_HIDDEN),
        outputs=outputs,
        choices=int(arrays[_CHOICES]) if _CHOICES in arrays else None,
        **required,
    )

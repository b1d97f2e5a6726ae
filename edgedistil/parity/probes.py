"""Probes: real text, and what PyTorch answers to it. One npz file without pickle, read without torch.

A probe set is a list of batches as a user would send them: padded, of several lengths, some of one sequence. What
PyTorch answered is kept where it is compared, not everywhere: the whole vocabulary at every position of a hundred
sequences would be gigabytes, and its rows beyond a few hundred tell nothing new (`edgedistil/export/probe.py` says how
many are kept and where).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ShapeError, StorageError
from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.core.task import Task

FORMAT = 1

Array = NDArray[Any]


@dataclass(frozen=True)
class ProbeBatch:
    """One call: what goes in, where it is compared, and what PyTorch answered there.

    Shapes: B sequences, L padded length, N compared positions, M masked positions, R positions with hidden states,
    K boundaries (the outputs of the LayerNorms, in order), D hidden.
    """

    input_ids_BL: NDArray[np.int64]
    attention_mask_BL: NDArray[np.int64]
    token_type_ids_BL: NDArray[np.int64] | None
    rows_N2: NDArray[np.int64] = field(
        metadata={"what": "(sequence, position) of the compared rows"}
    )
    outputs: Mapping[str, NDArray[np.float32]] = field(
        metadata={"what": "by output name: (N, …), or (B, …) per sequence"}
    )
    masked_M2: NDArray[np.int64] = field(
        metadata={"what": "(sequence, position) of every [MASK]; fill-mask only"}
    )
    choices_M: NDArray[np.int64] = field(
        metadata={"what": "PyTorch's most likely word at each [MASK]"}
    )
    margins_M: NDArray[np.float32] = field(
        metadata={"what": "by how much it leads the next word, in logits"}
    )
    hidden_rows_R2: NDArray[np.int64] = field(
        metadata={"what": "(sequence, position) of the kept hidden states"}
    )
    hidden_KRD: NDArray[np.float32]
    whole_KBLD: NDArray[np.float32] | None = field(
        metadata={"what": "every position's, padding too; one batch only"}
    )

    @property
    def sequences(self) -> int:
        return int(self.input_ids_BL.shape[0])

    @property
    def length(self) -> int:
        return int(self.input_ids_BL.shape[1])

    def feeds(self) -> dict[str, NDArray[np.int64]]:
        """The inputs by their standard names."""
        feeds = {"input_ids": self.input_ids_BL, "attention_mask": self.attention_mask_BL}
        if self.token_type_ids_BL is not None:
            feeds["token_type_ids"] = self.token_type_ids_BL
        return feeds


@dataclass(frozen=True)
class Probes:
    """The batches, and which model answered them. Iterates over its batches."""

    task: Task
    source_sha256: str
    seed: int
    boundaries: tuple[str, ...]
    batches: tuple[ProbeBatch, ...]

    def __iter__(self) -> Iterator[ProbeBatch]:
        return iter(self.batches)

    @property
    def sequences(self) -> int:
        return sum(batch.sequences for batch in self.batches)

    @property
    def lengths(self) -> list[int]:
        return sorted({batch.length for batch in self.batches})

    @property
    def tokens(self) -> int:
        """Positions computed by one pass, padding included."""
        return sum(batch.input_ids_BL.size for batch in self.batches)

    def up_to(self, length: int) -> Probes:
        """The probes whose padded length is at most `length`: a smaller set for a slow or small machine.

        Raises:
            ShapeError: None is that short.
        """
        kept = tuple(batch for batch in self.batches if batch.length <= length)
        if not kept:
            raise ShapeError(f"no probe of at most {length} tokens; lengths: {self.lengths}")
        return Probes(self.task, self.source_sha256, self.seed, self.boundaries, kept)

    def save(self, path: Path) -> None:
        """Writes one npz file, whole or not at all; the same probes give the same bytes."""
        head = {
            "format": FORMAT,
            "task": self.task,
            "source_sha256": self.source_sha256,
            "seed": self.seed,
            "boundaries": list(self.boundaries),
            "batches": len(self.batches),
        }
        arrays: dict[str, Array] = {"head": np.array(json.dumps(head, sort_keys=True))}
        for index, batch in enumerate(self.batches):
            arrays.update({f"{index}/{name}": array for name, array in _arrays_of(batch).items()})
        with replacing(path) as aside, storage_errors(path), aside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Probes:
        """The probes in a file written by `save`.

        Raises:
            StorageError: Missing, torn, or of another format.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                head = json.loads(str(stored["head"]))
                if head["format"] != FORMAT:
                    raise ValueError(f"format {head['format']}, expected {FORMAT}")
                batches = tuple(_batch_of(stored, index) for index in range(head["batches"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StorageError(
                f"{path} holds no probes that can be read: {error}",
                hint="edgedistil export makes them anew",
            ) from error
        return cls(
            head["task"], head["source_sha256"], head["seed"], tuple(head["boundaries"]), batches
        )


_PLAIN = (
    "input_ids_BL",
    "attention_mask_BL",
    "rows_N2",
    "masked_M2",
    "choices_M",
    "margins_M",
    "hidden_rows_R2",
    "hidden_KRD",
)


def _arrays_of(batch: ProbeBatch) -> dict[str, Array]:
    arrays: dict[str, Array] = {name: getattr(batch, name) for name in _PLAIN}
    optional = {"token_type_ids_BL": batch.token_type_ids_BL, "whole_KBLD": batch.whole_KBLD}
    arrays.update({name: array for name, array in optional.items() if array is not None})
    return arrays | {f"output/{name}": array for name, array in batch.outputs.items()}


def _batch_of(stored: Mapping[str, Array], index: int) -> ProbeBatch:
    prefix = f"{index}/"
    found = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
    return ProbeBatch(
        token_type_ids_BL=found.get("token_type_ids_BL"),
        whole_KBLD=found.get("whole_KBLD"),
        outputs={
            name.removeprefix("output/"): found[name]
            for name in found
            if name.startswith("output/")
        },
        **{name: found[name] for name in _PLAIN},
    )

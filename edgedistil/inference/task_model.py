"""What the classes for tasks share: an open folder, its length, and calls in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.session import SESSION_FILE
from edgedistil.core.task import Task
from edgedistil.inference.batching import Framed, PaddedBatch, batch_indices, pad_batch
from edgedistil.inference.exported_model import Outputs, open_exported

# Positions of a call: larger batches are hardly faster on a CPU, and take more memory.
BATCH_TOKENS = 4096
# Bytes of a call's outputs: a vocabulary of scores at 4,096 positions would be gigabytes.
_OUTPUT_BYTES = 64 * 2**20

Item = TypeVar("Item")
# A text, or two texts that the model compares.
Text = str | tuple[str, str]


class TextsCutWarning(UserWarning):
    """Texts are longer than the model reads, and were cut."""


class TaskModel:
    """An export folder, opened for one task; the base of a class for each task."""

    task: ClassVar[Task]

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        max_length: int | None = None,
    ) -> None:
        """Opens an export folder.

        Args:
            folder: A folder that `edgedistil export` wrote for the task of the class.
            precision: Precision of the graph; None for fp32.
            threads: Threads of one call; None: as the folder recommends.
            batch_tokens: Positions of a call at most, padding included.
            max_length: Tokens of a text at most, if fewer than the model's.
        Raises:
            InputError: The folder is for another task, has no such precision, or texts of this
                length exceed the memory limit of session.json.
            StorageError: contract.json is damaged.
            ModelError: Another file of the folder is missing or corrupt.
        """
        self._model = open_exported(
            Path(folder), precision=precision, threads=threads, tasks=[self.task]
        )
        self._batch_tokens = batch_tokens
        # A caller may read less of a text than the model does, never more.
        longest = self._model.contract.tokenizer.max_length
        self._max_length = min(max_length or longest, longest)
        self._check_contract()
        self._check_memory_limit()

    @property
    def max_length(self) -> int:
        """Tokens of a text at most; longer texts are cut."""
        return self._max_length

    @property
    def memory_limit_bytes(self) -> int | None:
        """Memory that calls stay within, as session.json says; None without a limit."""
        return None if self._model.bulk is None else self._model.bulk.limit_bytes

    def largest_batch(self, length: int) -> int:
        """Returns the most texts of a call whose longest text has `length` tokens."""
        # One text is a batch even if it has more positions than a call should have.
        most = max(1, self._batch_tokens // length)
        bulk = self._model.bulk
        return most if bulk is None else min(most, bulk.largest_batch(length))

    def _check_contract(self) -> None:
        """Raises InputError if the folder lacks what the class needs beyond its task."""

    def _check_memory_limit(self) -> None:
        """Raises InputError if a text of the greatest length does not fit the memory limit."""
        bulk = self._model.bulk
        if bulk is None or self.max_length <= bulk.longest:
            return
        limit = f"{bulk.limit_bytes / 2**20:.0f} MiB"
        again = "measure again with a larger edgedistil profile --memory-limit"
        if not bulk.longest:
            raise InputError(
                f"{self._model.folder / SESSION_FILE} limits the memory to {limit}, in which no "
                "text fits",
                hint=again,
            )
        raise InputError(
            f"{self._model.folder / SESSION_FILE} limits the memory to {limit}, in which texts of "
            f"up to {bulk.longest} tokens fit; this model reads up to {self.max_length}",
            hint=f"cut texts there with --max-length {bulk.longest} (max_length in Python), or "
            f"{again}",
        )

    @property
    def _outputs_read(self) -> Sequence[str]:
        """Outputs of the graph that the class reads."""
        return self._model.output_names

    def _outputs(self, framed: Sequence[Framed]) -> Iterator[tuple[PaddedBatch, Outputs]]:
        """Yields batches of texts of similar length with the outputs of the graph."""
        padding = self._model.contract.tokenizer
        lengths = [len(ids) for ids, _ in framed]
        for indices in batch_indices(lengths, largest_batch=self.largest_batch):
            batch = pad_batch(
                framed,
                indices,
                pad_id=padding.pad_id,
                on_the_left=padding.padding_side == "left",
            )
            outputs = self._model.run(
                batch.ids_BL, batch.mask_BL, batch.type_ids_BL, outputs=self._outputs_read
            )
            yield batch, outputs

    def _require_finite(self, values: NDArray[np.float32], meaning: str) -> None:
        """Raises ModelError if values of the graph are NaN or infinite."""
        if not np.isfinite(values).all():
            raise ModelError(f"{meaning} of {self._model.folder} are NaN or infinite")

    def _limit_outputs(self, values: int) -> None:
        """Lowers the positions of a call for graphs with many values at a position."""
        self._batch_tokens = min(self._batch_tokens, max(1, _OUTPUT_BYTES // (4 * values)))

    def _truncate(self, *, overlap: int = 0, strategy: str = "longest_first") -> None:
        """Sets how the tokenizer cuts long texts; the cut parts overlap by some tokens."""
        # Windows of a context cover it from its start, whatever side other texts are cut on.
        side = self._model.contract.tokenizer.truncation_side if not overlap else "right"
        self._model.tokenizer.backend.enable_truncation(
            self.max_length, stride=overlap, strategy=strategy, direction=side
        )

    def _encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """Returns tokens of texts with their places; `_truncate` was called before."""
        return list(self._model.tokenizer.backend.encode_batch(list(texts)))

    def _warn_of_cut(self, count: int) -> None:
        """Warns of texts that were cut, once for each place that calls."""
        if count:
            message = f"texts that fill or exceed {self.max_length} tokens (cut there): {count:,}"
            # The caller of the public method that calls this.
            warnings.warn(message, TextsCutWarning, stacklevel=3)


def framed_of(encoding: Encoding) -> Framed:
    """Returns token ids and token types."""
    return list(encoding.ids), list(encoding.type_ids)


def listed(items: Iterable[Item]) -> list[Item]:
    """Returns the items; raises InputError for a single text, which is one of characters."""
    if isinstance(items, str):
        raise InputError("expected a list of texts, got one text", hint="pass [text]")
    return list(items)

"""Sentence vectors from an exported encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.contract import CONTRACT_FILE
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.task import ENCODER_TASK, SENTENCE_OUTPUT
from edgedistil.inference.batching import Framed, batch_indices, pad_batch
from edgedistil.inference.exported_model import open_exported

Vectors = NDArray[np.float32]
Side = Literal["query", "document"]

# Positions of a call: larger batches are hardly faster on a CPU, and take more memory.
BATCH_TOKENS = 4096
# Texts whose tokens are in memory at once.
_WINDOW = 4096


class Encoder:
    """Turns texts into vectors with an exported encoder.

    Example:
        encoder = Encoder("runs/tiny/export/student-feature-extraction")
        vectors = encoder.embed(["first text", "second text"])
    """

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
            folder: A folder that `edgedistil export` wrote for feature-extraction.
            precision: Precision of the graph; None for fp32.
            threads: Threads of one call; None: as the folder recommends.
            batch_tokens: Positions of a call at most, padding included; bounds the memory.
            max_length: Tokens of a text at most, if fewer than the model's.
        Raises:
            InputError: The folder is for another task, has no such precision, or its graph gives no
                sentence vectors.
            StorageError: contract.json is damaged.
            ModelError: Another file of the folder is missing or corrupt.
        """
        self._model = open_exported(
            Path(folder), precision=precision, threads=threads, tasks=[ENCODER_TASK]
        )
        contract = self._model.contract
        if contract.sentence_vector is None or not contract.gives_vectors:
            reason = "its source does not say how it pools"
            if contract.unsupported is not None:
                reason = f"it would need {contract.unsupported}"
            raise InputError(
                f"the graph in {folder} has no output {SENTENCE_OUTPUT}: {reason}",
                hint="export a sentence-transformers folder, which has modules.json, or state how "
                "the model pools with --pooling",
            )
        self.vector: SentenceVector = contract.sentence_vector
        self._batch_tokens = batch_tokens
        longest = contract.tokenizer.max_length
        self._max_length = min(max_length or longest, longest)

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self.vector.dimension

    @property
    def max_length(self) -> int:
        """Tokens of a text at most; longer texts are cut."""
        return self._max_length

    def embed(self, texts: Sequence[str], *, side: Side = "document") -> Vectors:
        """Returns the vectors of texts, (texts, dimension), in float32.

        Args:
            texts: The texts, in any order; an empty text has a vector, too.
            side: Selects the prompt that the model puts before queries or documents.
        Raises:
            ModelError: A vector holds NaN or infinite values.
        """
        parts = list(self.embed_windows(texts, side=side))
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)

    def embed_windows(self, texts: Iterable[str], *, side: Side = "document") -> Iterator[Vectors]:
        """Yields the vectors of a stream of texts, some thousand at a time, in bounded memory."""
        prompt = self.vector.prompt(side)
        stream = iter(texts)
        cut = 0
        while window := [prompt + text for text in islice(stream, _WINDOW)]:
            framed = self._model.tokenizer.encode_framed(window, self.max_length)
            cut += sum(len(ids) == self.max_length for ids, _ in framed)
            yield self._vectors(framed)
        if cut:
            console.warn(f"texts that fill or exceed {self.max_length} tokens (cut there): {cut:,}")

    def _vectors(self, framed: Sequence[Framed]) -> Vectors:
        padding = self._model.contract.tokenizer
        vectors = np.empty((len(framed), self.dimension), np.float32)
        lengths = [len(ids) for ids, _ in framed]
        for indices in batch_indices(lengths, max_tokens=self._batch_tokens):
            batch = pad_batch(
                framed,
                indices,
                pad_id=padding.pad_id,
                on_the_left=padding.padding_side == "left",
            )
            outputs = self._model.run(batch.ids_BL, batch.mask_BL, batch.type_ids_BL)
            values = outputs[SENTENCE_OUTPUT]
            if values.shape != (len(indices), self.dimension):
                raise ModelError(
                    f"the graph in {self._model.folder} gives vectors of the shape {values.shape}; "
                    f"{CONTRACT_FILE} says {(len(indices), self.dimension)}",
                    hint="run edgedistil export again: it replaces the folder",
                )
            vectors[indices] = values
        bad = int((~np.isfinite(vectors)).any(axis=1).sum())
        if bad:
            raise ModelError(f"{bad:,} vectors of {self._model.folder} hold NaN or infinite values")
        return vectors

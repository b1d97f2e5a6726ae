"""Sentence vectors from an exported encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.contract import CONTRACT_FILE
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.task import ENCODER_TASK, SENTENCE_OUTPUT
from edgedistil.inference.batching import Framed
from edgedistil.inference.task_model import BATCH_TOKENS, TaskModel, listed
from edgedistil.inference.windows import frame_texts, in_windows

Vectors = NDArray[np.float32]
Side = Literal["query", "document"]


class Encoder(TaskModel):
    """Turns texts into vectors with an exported encoder, in the order of the texts.

    Texts of similar length share a call. `embed_windows` streams a collection of any size, within
    the memory limit that `profile --memory-limit` has written to the folder's session.json.

    Example:
        encoder = Encoder("runs/tiny/export/student-feature-extraction")
        vectors = encoder.embed(["first text", "second text"])
    """

    task = ENCODER_TASK

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        max_length: int | None = None,
    ) -> None:
        """Opens an export folder, as `TaskModel` does.

        Raises:
            InputError: The folder is for another task, has no such precision, or its graph gives no
                sentence vectors.
        """
        super().__init__(
            folder,
            precision=precision,
            threads=threads,
            batch_tokens=batch_tokens,
            max_length=max_length,
        )
        # The graph pools; without that output there is nothing to return.
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

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self.vector.dimension

    def embed(self, texts: Sequence[str], *, side: Side = "document") -> Vectors:
        """Returns the vectors of texts, (texts, dimension), in float32.

        Args:
            texts: The texts, in any order; an empty text has a vector, too.
            side: Selects the prompt that the model puts before queries or documents.
        Raises:
            InputError: One text was passed rather than a list.
            ModelError: A vector holds NaN or infinite values.
        """
        parts = list(self.embed_windows(listed(texts), side=side))
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)

    def embed_windows(self, texts: Iterable[str], *, side: Side = "document") -> Iterator[Vectors]:
        """Yields the vectors of a stream of texts, some thousand at a time, in bounded memory."""
        prompt = self.vector.prompt(side)
        cut = 0
        for window in in_windows(texts):
            prompted = [prompt + text for text in window]
            framed = frame_texts(self._model.tokenizer, prompted, self.max_length)
            cut += sum(len(ids) == self.max_length for ids, _ in framed)
            yield self._vectors(framed)
        self._warn_of_cut(cut)

    def _vectors(self, framed: Sequence[Framed]) -> Vectors:
        vectors = np.empty((len(framed), self.dimension), np.float32)
        for batch, outputs in self._outputs(framed):
            values = outputs[SENTENCE_OUTPUT]
            if values.shape != (len(batch.indices), self.dimension):
                raise ModelError(
                    f"the graph in {self._model.folder} gives vectors of the shape {values.shape}; "
                    f"{CONTRACT_FILE} says {(len(batch.indices), self.dimension)}",
                    hint="run edgedistil export again: it replaces the folder",
                )
            vectors[batch.indices] = values
        bad = int((~np.isfinite(vectors)).any(axis=1).sum())
        if bad:
            raise ModelError(f"{bad:,} vectors of {self._model.folder} hold NaN or infinite values")
        return vectors

"""Sentence vectors from an exported encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.contract import CONTRACT_FILE
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.task import ENCODER_TASK, SENTENCE_OUTPUT
from edgedistil.inference.batching import Framed
from edgedistil.inference.task_model import TaskModel, listed
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

    def _check_contract(self) -> None:
        # The graph pools; without that output there is nothing to return.
        contract = self._model.contract
        if contract.sentence_vector is None or not contract.gives_vectors:
            reason = "its source does not say how it pools"
            if contract.unsupported is not None:
                reason = f"it would need {contract.unsupported}"
            raise InputError(
                f"the graph in {self._model.folder} has no output {SENTENCE_OUTPUT}: {reason}",
                hint="export a sentence-transformers folder, which has modules.json, or state how "
                "the model pools with --pooling",
            )

    @property
    def vector(self) -> SentenceVector:
        """How the graph makes a vector, and the prompts of queries and documents."""
        vector = self._model.contract.sentence_vector
        assert vector is not None, "checked when the folder was opened"
        return vector

    @property
    def _outputs_read(self) -> Sequence[str]:
        # Not the states of all tokens, which the graph has as well.
        return (SENTENCE_OUTPUT,)

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
        self._require_finite(vectors, "vectors")
        return vectors

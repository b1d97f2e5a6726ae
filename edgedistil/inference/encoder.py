"""Sentence vectors from an exported encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.sentence_vector import SentenceVector, read_sentence_vector
from edgedistil.core.task import ENCODER_TASK, SENTENCE_OUTPUT
from edgedistil.inference.batching import Framed, batch_indices, pad_batch
from edgedistil.inference.exported_model import ExportedModel, open_exported

Vectors = NDArray[np.float32]
Side = Literal["query", "document"]

# Positions of a call: larger batches are hardly faster on a CPU, and take more memory.
BATCH_TOKENS = 4096
# Texts whose tokens are in memory at once.
_WINDOW = 4096


def _hidden_size(model: ExportedModel) -> int:
    """Width of a model's states; raises ModelError if config.json does not say."""
    try:
        return FAMILIES[model.config["model_type"]].hidden(model.config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{model.folder / 'config.json'} is corrupt: it has no known model_type and sizes",
            hint="run edgedistil export again: it replaces the folder",
        ) from error


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
            ModelError: A file of the folder is missing or corrupt.
        """
        self._model = open_exported(
            Path(folder), precision=precision, threads=threads, tasks=[ENCODER_TASK]
        )
        if SENTENCE_OUTPUT not in self._model.output_names:
            raise InputError(
                f"the graph in {folder} has no output {SENTENCE_OUTPUT}: "
                "its source does not say how it pools",
                hint="export a sentence-transformers folder, which has modules.json",
            )
        hidden = _hidden_size(self._model)
        self.vector: SentenceVector = read_sentence_vector(Path(folder), hidden=hidden)
        self._batch_tokens = batch_tokens
        self._max_length = min(max_length or self._model.max_length, self._model.max_length)

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
        tokenizer = self._model.tokenizer
        vectors = np.empty((len(framed), self.dimension), np.float32)
        lengths = [len(ids) for ids, _ in framed]
        for indices in batch_indices(lengths, max_tokens=self._batch_tokens):
            batch = pad_batch(
                framed,
                indices,
                pad_id=tokenizer.pad_id,
                on_the_left=tokenizer.padding_side == "left",
            )
            outputs = self._model.run(batch.ids_BL, batch.mask_BL, batch.type_ids_BL)
            vectors[indices] = outputs[SENTENCE_OUTPUT]
        bad = int((~np.isfinite(vectors)).any(axis=1).sum())
        if bad:
            raise ModelError(f"{bad:,} vectors of {self._model.folder} hold NaN or infinite values")
        return vectors

"""Words for the masks of texts, from an exported masked language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.inference.probabilities import softmax
from edgedistil.inference.task_model import TaskModel, framed_of, listed
from edgedistil.inference.windows import in_windows


@dataclass(frozen=True)
class Filling:
    """A token in place of a mask.

    Attributes:
        text: Text of the token.
        token_id: Its id.
        score: Its probability, 0 to 1.
    """

    text: str
    token_id: int
    score: float


class MaskFiller(TaskModel):
    """Predicts the tokens that masks hide, with an exported masked language model.

    Example:
        filler = MaskFiller("runs/mine/export/student-fill-mask")
        [masks] = filler.fill([f"The boat left the {filler.mask}."])
        print(masks[0][0].text)
    """

    task = "fill-mask"

    @property
    def mask(self) -> str:
        """The mask, as it has to be written in a text."""
        token = self._model.contract.tokenizer.special_tokens.get("mask")
        if token is None:
            raise InputError(f"the tokenizer of {self._model.folder} has no mask token")
        return token.token

    def fill(self, texts: Iterable[str], *, top_k: int = 5) -> list[list[list[Filling]]]:
        """Returns for each text and each of its masks the most likely tokens.

        Args:
            texts: Texts with one mask or several.
            top_k: Tokens of a mask at most.
        Raises:
            InputError: A text has no mask, or only behind the length that the model reads.
        """
        self._truncate()
        results, cut = [], 0
        for window in in_windows(listed(texts)):
            encodings = self._encode(window)
            cut += sum(bool(encoding.overflowing) for encoding in encodings)
            results += self._fill_window(window, encodings, top_k)
        # Masks behind the cut have no fillings.
        self._warn_of_cut(cut)
        return results

    def _fill_window(
        self, texts: list[str], encodings: list[Encoding], top_k: int
    ) -> list[list[list[Filling]]]:
        mask_id = self._model.tokenizer.require("mask")
        for text, encoding in zip(texts, encodings, strict=True):
            self._require_mask(text, encoding, mask_id)
        self._limit_outputs(self._vocabulary)
        results: list[list[list[Filling]]] = [[] for _ in texts]
        for batch, outputs in self._outputs([framed_of(encoding) for encoding in encodings]):
            for row, index in enumerate(batch.indices):
                places = (batch.ids_BL[row] == mask_id) & (batch.mask_BL[row] == 1)
                logits_MV = outputs["logits"][row][places]
                self._require_finite(logits_MV, "scores")
                probabilities_MV = softmax(logits_MV)
                results[index] = [self._best(each_V, top_k) for each_V in probabilities_MV]
        return results

    @property
    def _vocabulary(self) -> int:
        axis = self._model.contract.outputs[0].shape[-1]
        return axis if isinstance(axis, int) else self._model.tokenizer.size

    def _require_mask(self, text: str, encoding: Encoding, mask_id: int) -> None:
        if mask_id in encoding.ids:
            return
        if any(mask_id in part.ids for part in encoding.overflowing):
            raise InputError(
                f"the mask of a text is behind the {self.max_length} tokens that the model reads: "
                f"{echo(text)}"
            )
        hint = f"write {self.mask} where a token is to be predicted"
        if self._model.contract.tokenizer.splits_special_tokens:
            hint = "this tokenizer reads special tokens in texts as text"
        raise InputError(f"a text has no mask: {echo(text)}", hint=hint)

    def _best(self, probabilities_V: NDArray[np.float32], top_k: int) -> list[Filling]:
        """Returns the most likely tokens; among equal ones the first of the vocabulary."""
        order = np.argsort(-probabilities_V, kind="stable")[:top_k]
        backend = self._model.tokenizer.backend
        return [
            Filling(
                text=backend.decode([int(token_id)], skip_special_tokens=False),
                token_id=int(token_id),
                score=float(probabilities_V[token_id]),
            )
            for token_id in order
        ]

"""Held-out evaluation of sentence vectors: do they rank texts as the teacher's do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from edgedistil.core.distill_records import HeldoutVectors
from edgedistil.core.errors import ModelError, TrainingDiverged
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.targets import Targets, encode_vectors
from edgedistil.models.sentence_encoder import SentenceEncoder

# Most similar texts whose overlap is counted.
_NEAREST = 10
# Fewest texts whose similarities have ranks that can differ: three have three pairs.
_FEWEST_TEXTS = 3


class VectorEvaluator:
    """Compares the similarities of held-out texts with the teacher's.

    Every process evaluates all texts: similarities are of pairs, and the work is small.
    """

    def __init__(
        self,
        batches: Sequence[MicroBatch],
        teacher: SentenceEncoder,
        *,
        targets: Targets | None,
        accelerator: Accelerator,
    ) -> None:
        """Computes the teacher's vectors.

        Args:
            batches: Held-out texts.
            teacher: The teacher, in eval mode.
            targets: Vectors to compare with; None: the teacher's, computed here.
            accelerator: Supplies autocast.
        Raises:
            ModelError: There are fewer than three texts.
        """
        self._batches, self._accelerator = batches, accelerator
        texts = sum(len(batch.input_ids_BL) for batch in batches)
        if texts < _FEWEST_TEXTS:
            raise ModelError(
                f"the held-out part has {texts} texts; their similarities have no ranks",
                hint="increase corpus.heldout_share or train.heldout_tokens",
            )
        # The teacher's vectors stay the same, so they are computed once.
        if targets is None:
            self._teacher_TV = self._vectors(teacher)
        else:
            parts = [targets.vectors(batch.rows_B).cpu() for batch in batches]
            self._teacher_TV = F.normalize(torch.cat(parts), dim=-1)
        self._teacher_TT = self._similarities(self._teacher_TV, self._teacher_TV)
        self._teacher_ranks = stats.rankdata(_pairs(self._teacher_TT))

    def evaluate(self, encoder: SentenceEncoder | None, *, name: str, step: int) -> HeldoutVectors:
        """Returns the figures of an encoder, which is left in the mode it was in.

        Args:
            encoder: The student; None for the teacher's vectors themselves.
            name: Name of the model in the record.
            step: Step of the run.
        Raises:
            ModelError: Vectors are NaN or infinite before any training.
            TrainingDiverged: They are after training.
        """
        student_TV = self._teacher_TV if encoder is None else self._vectors(encoder)
        # Ranks of NaN are numbers, so it is refused here.
        if not bool(torch.isfinite(student_TV).all()):
            message = f"the sentence vectors of the {name} on held-out text are NaN or infinite"
            if step:
                raise TrainingDiverged(
                    f"{message} after step {step}", hint="lower train.learning_rate"
                )
            raise ModelError(message, hint="its weights or the file of vectors are damaged")
        student_TT = self._similarities(student_TV, student_TV)
        overlap: Figure = NotMeasured(not_measured="fewer texts than neighbours")
        asymmetric: Figure = overlap
        # With fewer texts every text is among the nearest.
        if len(student_TV) > _NEAREST + 1:
            overlap = nearest_overlap(student_TT, self._teacher_TT)
            crossed_TT = self._similarities(student_TV, self._teacher_TV)
            asymmetric = nearest_overlap(crossed_TT, self._teacher_TT)
        return HeldoutVectors(
            model=name,
            step=step,
            texts=len(student_TV),
            rank_correlation=_correlation(stats.rankdata(_pairs(student_TT)), self._teacher_ranks),
            top10_overlap=overlap,
            asymmetric_top10_overlap=asymmetric,
            cosine=float((student_TV * self._teacher_TV).sum(-1).mean()),
        )

    def _vectors(self, encoder: SentenceEncoder) -> Tensor:
        """Normalized vectors of all texts on the CPU, (T, V)."""
        was_training = encoder.training
        encoder.eval()
        parts = []
        for batch in self._batches:
            with torch.no_grad(), self._accelerator.autocast():
                vectors_BV = encode_vectors(encoder, batch.input_ids_BL, batch.attention_mask_BL)
            parts.append(vectors_BV.float().cpu())
        encoder.train(was_training)
        return F.normalize(torch.cat(parts), dim=-1)

    def _similarities(self, left_TV: Tensor, right_TV: Tensor) -> NDArray[np.float32]:
        with torch.autocast("cpu", enabled=False):
            similarities: NDArray[np.float32] = (left_TV @ right_TV.T).numpy()
        return similarities


def nearest_overlap(student_TT: NDArray[np.float32], teacher_TT: NDArray[np.float32]) -> float:
    """Returns the mean share of a text's 10 nearest texts that two matrices have in common.

    Args:
        student_TT: Similarity of each text (row) to each text.
        teacher_TT: The same of the teacher.
    """
    student_TK, teacher_TK = _nearest(student_TT), _nearest(teacher_TT)
    common_TKK = student_TK[:, :, None] == teacher_TK[:, None, :]
    return float(common_TKK.any(-1).mean())


def _nearest(similarities_TT: NDArray[np.float32]) -> NDArray[np.int64]:
    """The 10 nearest other texts of each text, (T, 10)."""
    without_self_TT = similarities_TT.copy()
    np.fill_diagonal(without_self_TT, -np.inf)
    return np.argsort(-without_self_TT, axis=1, kind="stable")[:, :_NEAREST]


def _pairs(similarities_TT: NDArray[np.float32]) -> NDArray[np.float32]:
    """Similarities of all pairs of different texts, each pair once."""
    return similarities_TT[np.triu_indices(len(similarities_TT), 1)]


def _correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Pearson's correlation of ranks; 0 if one model finds all pairs equally similar."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])

"""The objective of encoders without an MLM head: the teacher's states and sentence vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.recipe_objective import Objective as Settings
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.losses import TokenCounts, attended_cosine_sum
from edgedistil.distill.objective import Objective
from edgedistil.distill.targets import Targets, pooled_vectors
from edgedistil.models.fast.encoder import encode_layers, last_projections
from edgedistil.models.representation_losses import relation_loss, similarity_loss, vector_loss
from edgedistil.models.sentence_encoder import SentenceEncoder

# Losses that are means over texts; the others are means over tokens.
_OF_TEXTS = ("vector", "similarity")
_LOSSES = (*_OF_TEXTS, "states", "layers", "relations")


def reads_states(settings: Settings) -> bool:
    """Whether an objective compares token states, so that the teacher reads every batch."""
    return settings.states > 0 or settings.layers > 0 or settings.relations > 0


class _Trained(nn.Module):
    """The student, and a layer that takes its states to the teacher's width."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection: nn.Linear | None = None


class RepresentationObjective(Objective):
    """Losses on sentence vectors, token states and relations; no labels, no MLM head."""

    trained: _Trained

    def __init__(
        self,
        student: SentenceEncoder,
        teacher: SentenceEncoder,
        settings: Settings,
        *,
        targets: Targets | None,
        compiled: bool = False,
    ) -> None:
        """Joins the models.

        Args:
            student: Encoder to train, on its device, whose vectors have the targets' width.
            teacher: Frozen teacher, on the same device.
            settings: Recipe section [objective].
            targets: Vectors to learn; None: those that the teacher computes for each batch, which
                needs its states.
            compiled: Whether to use torch.compile.
        """
        super().__init__()
        _check_relation_heads(student, teacher, settings)
        self.student, self.settings = student.backbone, settings
        self.loss_names = tuple(name for name in _LOSSES if getattr(settings, name) > 0)
        # In a tuple, so that nn.Module does not register the teacher.
        self._fixed = (teacher, targets)
        self.trained = _Trained(student)
        # Only training needs states of the teacher's width, so this layer is not exported.
        widths = student.backbone.config.hidden_size, teacher.backbone.config.hidden_size
        if widths[0] != widths[1] and (settings.states > 0 or settings.layers > 0):
            self.trained.projection = nn.Linear(*widths, bias=False)
        self._encode = torch.compile(encode_layers) if compiled else encode_layers

    @property
    def teacher(self) -> SentenceEncoder:
        return self._fixed[0]

    def forward(self, batch: MicroBatch, counts: TokenCounts) -> tuple[Tensor, Tensor]:
        """Computes the losses of a micro-batch; see `Objective.forward`."""
        mask_BL = batch.attention_mask_BL
        encoder = self.trained.encoder
        states = self._encode(encoder.backbone, batch.input_ids_BL, mask_BL)
        vectors_BV = pooled_vectors(encoder, states[-1], mask_BL)
        teacher_states, targets_BV = self._teach(batch)

        # In float32: autocast would compute products of similarities in 16 bits.
        with torch.autocast(vectors_BV.device.type, enabled=False):
            sums = self._text_sums(vectors_BV, targets_BV)
            sums |= self._token_sums(states, teacher_states, batch)
        total = torch.zeros((), device=vectors_BV.device)
        for name, count in zip(self.loss_names, self.loss_counts(counts), strict=True):
            total = total + getattr(self.settings, name) / count * sums[name]
        return total, torch.stack([sums[name].detach() for name in self.loss_names])

    def loss_counts(self, counts: TokenCounts) -> Sequence[float]:
        """Returns the texts or tokens that each loss is a mean over."""
        return [counts.texts if name in _OF_TEXTS else counts.attended for name in self.loss_names]

    @torch.no_grad()
    def _teach(self, batch: MicroBatch) -> tuple[list[Tensor], Tensor]:
        """The teacher's states, where a loss compares them, and the vectors to learn."""
        teacher, targets = self._fixed
        if targets is not None:
            vectors_BV = targets.vectors(batch.rows_B)
            if not reads_states(self.settings):
                return [], vectors_BV
        states = self._encode(teacher.backbone, batch.input_ids_BL, batch.attention_mask_BL)
        if targets is None:
            vectors_BV = pooled_vectors(teacher, states[-1], batch.attention_mask_BL)
        return states, vectors_BV

    def _text_sums(self, vectors_BV: Tensor, targets_BV: Tensor) -> dict[str, Tensor]:
        """Sums over the texts of the losses on sentence vectors."""
        settings, texts = self.settings, len(vectors_BV)
        sums = {}
        if settings.vector > 0:
            widths = [vectors_BV.shape[1], *settings.dimensions]
            losses = [vector_loss(vectors_BV[:, :width], targets_BV[:, :width]) for width in widths]
            sums["vector"] = torch.stack(losses).mean() * texts
        if settings.similarity > 0:
            loss = similarity_loss(vectors_BV, targets_BV, temperature=settings.temperature)
            sums["similarity"] = loss * texts
        return sums

    def _token_sums(
        self, states: list[Tensor], teacher_states: list[Tensor], batch: MicroBatch
    ) -> dict[str, Tensor]:
        """Sums over the attended tokens of the losses on token states."""
        settings, mask_BL = self.settings, batch.attention_mask_BL
        sums = {}
        if settings.states > 0:
            sums["states"] = self._cosine_sum(states[-1], teacher_states[-1], mask_BL)
        if settings.layers > 0:
            pairs = layer_pairs(len(states) - 1, len(teacher_states) - 1)
            losses = [self._cosine_sum(states[s], teacher_states[t], mask_BL) for s, t in pairs]
            sums["layers"] = torch.stack(losses).mean()
        if settings.relations > 0:
            sums["relations"] = self._relations(states, teacher_states, mask_BL) * (
                batch.counts.attended
            )
        return sums

    def _cosine_sum(
        self, student_BLD: Tensor, teacher_BLD: Tensor, mask_BL: Tensor | None
    ) -> Tensor:
        """Sum of 1 − cos over the attended tokens."""
        if self.trained.projection is not None:
            weight = self.trained.projection.weight
            student_BLD = F.linear(student_BLD, weight.to(student_BLD.dtype))
        return attended_cosine_sum(student_BLD.flatten(0, 1), teacher_BLD.flatten(0, 1), mask_BL)

    def _relations(
        self, states: list[Tensor], teacher_states: list[Tensor], mask_BL: Tensor | None
    ) -> Tensor:
        """Mean of the relation losses of queries, keys and values of the last layers."""
        if mask_BL is None:
            mask_BL = torch.ones(states[-1].shape[:2], device=states[-1].device)
        students = last_projections(self.student, states)
        with torch.no_grad():
            teachers = last_projections(self.teacher.backbone, teacher_states)
        losses = [
            relation_loss(student, teacher, mask_BL, heads=self.settings.relation_heads)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        return torch.stack(losses).mean()


def _check_relation_heads(
    student: SentenceEncoder, teacher: SentenceEncoder, settings: Settings
) -> None:
    """Raises ModelError unless the relation heads divide the widths of both attentions."""
    if settings.relations == 0:
        return
    for encoder, what in ((student, "student"), (teacher, "teacher")):
        config = encoder.backbone.config
        family, values = FAMILIES[config.model_type], config.to_dict()
        width = family.heads(values) * family.head_width(values)
        if width % settings.relation_heads:
            raise ModelError(
                f"objective.relation_heads is {settings.relation_heads}, which does not divide "
                f"the {width} values of the {what}'s queries",
                hint="set it to the student's number of heads, or another divisor of both widths",
            )


def layer_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Returns (student layer, teacher layer) at the same share of the depth, without the last.

    Layers are counted from 1. A student of one layer has the pair of the embeddings, 0 and 0.
    """
    pairs = [
        (layer, round(layer * teacher_layers / student_layers))
        for layer in range(1, student_layers)
    ]
    return pairs or [(0, 0)]

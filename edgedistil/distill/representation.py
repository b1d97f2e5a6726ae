"""The objective of encoders without an MLM head: the teacher's states and sentence vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.recipe_objective import Objective as Settings
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.losses import TokenCounts, attended_cosine_sum
from edgedistil.distill.objective import Objective, compiles_student
from edgedistil.distill.state_cache import StateCache
from edgedistil.distill.targets import Targets, pooled_vectors
from edgedistil.models.fast.encoder import encode_layers, last_projections
from edgedistil.models.representation_losses import relation_loss, similarity_loss, vector_loss
from edgedistil.models.sentence_encoder import SentenceEncoder

# Losses that are means over texts; the others are means over tokens.
_OF_TEXTS = ("vector", "similarity")
_LOSSES = (*_OF_TEXTS, "states", "layers", "relations")


def reads_states(settings: Settings) -> bool:
    """Whether an objective compares token states."""
    return settings.states > 0 or settings.layers > 0 or settings.relations > 0


def reads_vectors(settings: Settings) -> bool:
    """Whether an objective compares sentence vectors."""
    return settings.vector > 0 or settings.similarity > 0


def compared_layers(
    settings: Settings, student: PreTrainedModel, teacher: PreTrainedModel
) -> list[int]:
    """Returns the teacher's layers whose states a step reads, in rising order; 0: embeddings."""
    depth = _depth(teacher)
    layers = set()
    # Vectors are pooled from the last states.
    if settings.states > 0 or reads_vectors(settings):
        layers.add(depth)
    if settings.layers > 0:
        layers |= {paired for _, paired in layer_pairs(_depth(student), depth)}
    if settings.relations > 0:
        layers.add(depth - 1)
    return sorted(layers)


def token_states(teacher: PreTrainedModel, layers: Sequence[int]) -> dict[int, Tensor]:
    """Returns a token's states of some layers, (1, 1, D): their widths and types in a step."""
    token_11 = torch.zeros(1, 1, dtype=torch.int64, device=teacher.device)
    with torch.no_grad():
        # With a mask, because token 0 is the padding of many models.
        states = encode_layers(teacher, token_11, torch.ones_like(token_11))
    return {layer: states[layer] for layer in layers}


def _depth(model: PreTrainedModel) -> int:
    return int(model.config.num_hidden_layers)


class RepresentationObjective(Objective):
    """Losses on sentence vectors, token states and relations; no labels, no MLM head."""

    trained: SentenceEncoder

    def __init__(
        self,
        student: SentenceEncoder,
        teacher: SentenceEncoder,
        settings: Settings,
        *,
        targets: Targets | None,
        cache: StateCache | None = None,
        compiled: bool = False,
    ) -> None:
        """Joins the models.

        Args:
            student: Encoder to train, on its device, whose vectors have the targets' width.
            teacher: Frozen teacher, on the same device.
            settings: Recipe section [objective].
            targets: Vectors to learn; None: those that the teacher computes for each batch, which
                needs its states.
            cache: The teacher's states of `compared_layers` for all passes over the text; None:
                it reads every batch.
            compiled: Whether to use torch.compile.
        """
        super().__init__()
        check_relation_heads(settings, teacher=teacher.backbone, student=student.backbone)
        self.student, self.settings = student.backbone, settings
        self.loss_names = tuple(name for name in _LOSSES if getattr(settings, name) > 0)
        # In a tuple, so that nn.Module does not register it.
        self._teacher = (teacher,)
        self._targets, self._cache = targets, cache
        self._compared = compared_layers(settings, student.backbone, teacher.backbone)
        self.trained = student
        self._encode_teacher, self._encode_student = encode_layers, encode_layers
        if compiled:
            self._encode_teacher = torch.compile(encode_layers)
            if compiles_student(student.backbone.device):
                self._encode_student = torch.compile(encode_layers)

    @property
    def teacher(self) -> SentenceEncoder:
        return self._teacher[0]

    def forward(self, batch: MicroBatch, counts: TokenCounts) -> tuple[Tensor, Tensor]:
        """Computes the losses of a micro-batch; see `Objective.forward`."""
        mask_BL, encoder = batch.attention_mask_BL, self.trained
        states = self._encode_student(
            encoder.backbone, batch.input_ids_BL, mask_BL, self._last_layer
        )
        # Without vectors of their own, the teacher's are pooled from its states.
        needs_states = reads_states(self.settings) or self._targets is None
        teacher_states = self.teacher_states(batch) if needs_states else {}

        sums: dict[str, Tensor] = {}
        if reads_vectors(self.settings):
            vectors_BV = pooled_vectors(encoder, states[-1], mask_BL)
            sums |= self._text_sums(vectors_BV, self._target_vectors(batch, teacher_states))
        sums |= self._token_sums(states, teacher_states, batch)
        total = torch.zeros((), device=states[-1].device)
        for name, count in zip(self.loss_names, self.loss_counts(counts), strict=True):
            total = total + getattr(self.settings, name) / count * sums[name]
        return total, torch.stack([sums[name].detach() for name in self.loss_names])

    def loss_counts(self, counts: TokenCounts) -> Sequence[float]:
        """Returns the texts or tokens that each loss is a mean over."""
        return [counts.texts if name in _OF_TEXTS else counts.attended for name in self.loss_names]

    @property
    def _last_layer(self) -> int | None:
        """The student's last layer that a loss reads the states of; None: its last one."""
        settings = self.settings
        if settings.states > 0 or reads_vectors(settings):
            return None
        # Relations read the last layer's input, and pairs of layers leave its output out.
        return _depth(self.student) - 1

    @torch.no_grad()
    def _target_vectors(self, batch: MicroBatch, states: Mapping[int, Tensor]) -> Tensor:
        """The sentence vectors to learn, from a file or from the teacher's states."""
        if self._targets is not None:
            return self._targets.vectors(batch.rows_B)
        last = states[_depth(self.teacher.backbone)]
        return pooled_vectors(self.teacher, last, batch.attention_mask_BL)

    @torch.no_grad()
    def teacher_states(self, batch: MicroBatch) -> Mapping[int, Tensor]:
        """Returns the teacher's states by their layer: those of an earlier pass, or computed."""

        def compute() -> dict[int, Tensor]:
            states = self._encode_teacher(
                self.teacher.backbone,
                batch.input_ids_BL,
                batch.attention_mask_BL,
                self._compared[-1],
            )
            return {layer: states[layer] for layer in self._compared}

        return compute() if self._cache is None else self._cache.states(batch.rows_B, compute)

    def _text_sums(self, vectors_BV: Tensor, targets_BV: Tensor) -> dict[str, Tensor]:
        """Sums over the texts of the losses on sentence vectors."""
        settings, texts = self.settings, len(vectors_BV)
        sums = {}
        # In float32: autocast would compute products of similarities in 16 bits.
        with torch.autocast(vectors_BV.device.type, enabled=False):
            if settings.vector > 0:
                widths = [vectors_BV.shape[1], *settings.dimensions]
                losses = [
                    vector_loss(vectors_BV[:, :width], targets_BV[:, :width]) for width in widths
                ]
                sums["vector"] = torch.stack(losses).mean() * texts
            if settings.similarity > 0:
                loss = similarity_loss(vectors_BV, targets_BV, temperature=settings.temperature)
                sums["similarity"] = loss * texts
        return sums

    def _token_sums(
        self, states: list[Tensor], teacher_states: Mapping[int, Tensor], batch: MicroBatch
    ) -> dict[str, Tensor]:
        """Sums over the attended tokens of the losses on token states."""
        settings, mask_BL = self.settings, batch.attention_mask_BL
        depth, teacher_depth = _depth(self.student), _depth(self.teacher.backbone)
        sums = {}
        with torch.autocast(states[0].device.type, enabled=False):
            if settings.states > 0:
                sums["states"] = self._cosine_sum(
                    states[depth], teacher_states[teacher_depth], mask_BL
                )
            if settings.layers > 0:
                pairs = layer_pairs(depth, teacher_depth)
                losses = [self._cosine_sum(states[s], teacher_states[t], mask_BL) for s, t in pairs]
                sums["layers"] = torch.stack(losses).mean()
            if settings.relations > 0:
                relations = self._relations(
                    states[depth - 1], teacher_states[teacher_depth - 1], mask_BL
                )
                sums["relations"] = relations * batch.counts.attended
        return sums

    def _cosine_sum(
        self, student_BLD: Tensor, teacher_BLD: Tensor, mask_BL: Tensor | None
    ) -> Tensor:
        """Sum of 1 − cos over the attended tokens."""
        return attended_cosine_sum(student_BLD.flatten(0, 1), teacher_BLD.flatten(0, 1), mask_BL)

    def _relations(
        self, student_BLD: Tensor, teacher_BLD: Tensor, mask_BL: Tensor | None
    ) -> Tensor:
        """Mean of the relation losses of the last layers' queries, keys and values.

        Args:
            student_BLD: Input of the student's last layer.
            teacher_BLD: Input of the teacher's.
            mask_BL: 0 at padding; None without padding.
        """
        if mask_BL is None:
            mask_BL = torch.ones(student_BLD.shape[:2], device=student_BLD.device)
        students = last_projections(self.student, student_BLD)
        with torch.no_grad():
            teachers = last_projections(self.teacher.backbone, teacher_BLD)
        losses = [
            relation_loss(student, teacher, mask_BL, heads=self.settings.relation_heads)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        return torch.stack(losses).mean()


def check_relation_heads(
    settings: Settings, *, teacher: PreTrainedModel, student: PreTrainedModel | None = None
) -> None:
    """Raises ModelError unless the relation heads divide the widths of the attentions."""
    if settings.relations == 0:
        return
    for model, what in ((student, "student"), (teacher, "teacher")):
        if model is None:
            continue
        family, values = FAMILIES[model.config.model_type], model.config.to_dict()
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
    # Rounded half down, as `alternate_layers` does; `round` would take the even layer.
    half = student_layers - 1
    pairs = [
        (layer, (2 * layer * teacher_layers + half) // (2 * student_layers))
        for layer in range(1, student_layers)
    ]
    return pairs or [(0, 0)]

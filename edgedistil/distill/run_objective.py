"""Losses of a run with its models: for the loop, the trial of precisions and the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from transformers import PreTrainedModel

from edgedistil.core.recipe import FitHead, Loss
from edgedistil.core.recipe_objective import Objective as ObjectiveSection
from edgedistil.distill.mlm_objective import MlmObjective
from edgedistil.distill.objective import Objective
from edgedistil.distill.plan.timing import TimedObjective
from edgedistil.distill.representation import RepresentationObjective
from edgedistil.distill.state_cache import StateCache
from edgedistil.distill.targets import FileTargets, Targets
from edgedistil.models.sentence_encoder import SentenceEncoder


@dataclass(frozen=True)
class MlmModels:
    """Models of the objective mlm, on one device.

    Attributes:
        settings: Recipe section [loss].
        student: The student.
        teacher: The frozen teacher with its head.
        original: The frozen teacher before its encoder was trained with a fitted head; None if it
            was not (`has_other_encoder`).
    """

    settings: Loss
    student: PreTrainedModel
    teacher: PreTrainedModel
    original: PreTrainedModel | None


@dataclass(frozen=True)
class SentenceModels:
    """Models of the objective representation, on one device.

    Attributes:
        settings: Recipe section [objective].
        student: The student.
        teacher: The frozen teacher.
    """

    settings: ObjectiveSection
    student: SentenceEncoder
    teacher: SentenceEncoder


Models: TypeAlias = MlmModels | SentenceModels


def has_other_encoder(settings: FitHead, *, is_fitted: bool) -> bool:
    """Whether the teacher with a fitted head has another encoder than the teacher as given.

    Args:
        settings: Recipe section [teacher.fit].
        is_fitted: Whether the teacher's MLM head is a fitted one.
    """
    return is_fitted and settings.encoder_rate > 0


def build_objective(
    models: Models,
    *,
    targets: Targets | None = None,
    cache: StateCache | None = None,
    compiled: bool = False,
) -> Objective:
    """Joins the models of a run with its losses.

    Args:
        models: The models.
        targets: See `RepresentationObjective`; of the objective representation.
        cache: See `RepresentationObjective`; of the objective representation.
        compiled: Whether to use torch.compile.
    """
    if isinstance(models, MlmModels):
        return MlmObjective(
            models.student,
            models.teacher,
            models.settings,
            original=models.original,
            compiled=compiled,
        )
    # Pooling sums many values, so it stays in float32.
    models.teacher.head.float()
    return RepresentationObjective(
        models.student,
        models.teacher,
        models.settings,
        targets=targets,
        cache=cache,
        compiled=compiled,
    )


def timed_objective(
    models: Models, *, teacher_share: float, targets: Targets | None = None
) -> TimedObjective:
    """Returns the losses of a run as they are timed on random tokens, without torch.compile.

    Args:
        models: The models.
        teacher_share: Share of the micro-batches that the teacher computes.
        targets: Vectors in place of a file's (`random_targets`); None without a file.
    """
    objective = build_objective(models, targets=targets)
    if isinstance(objective, RepresentationObjective) and targets is None and teacher_share < 1:
        return TimedObjective(objective, objective.teacher_states, teacher_share)
    return TimedObjective(objective)


def random_targets(student: SentenceEncoder, *, rows: int) -> Targets:
    """Returns vectors for the rows of random batches, as many as `rows`."""
    # Of a generator of their own: timing leaves the random numbers of a run as they are.
    shape = (rows, student.vector.dimension)
    vectors_RV = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return FileTargets(vectors_RV, device=student.backbone.device)

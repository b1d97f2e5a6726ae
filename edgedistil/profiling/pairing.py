"""Which two artefacts a claim compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedistil.core.precision import PRECISIONS
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.claims import Kind

# What the claims "deploy" and "int8-pays" compare: the first of these that the student has.
_SMALL = [name for name, row in PRECISIONS.items() if row.weight_bits <= 8]


@dataclass(frozen=True)
class Pairing:
    """Two artefacts that a claim compares; `first` is the one that should be slower."""

    kind: Kind
    name: str
    first: Artefact
    second: Artefact


def pairings(artefacts: Sequence[Artefact]) -> list[Pairing]:
    """Which claims these artefacts can answer: speed on encoders and on the fill-mask pair, deploy, int8-pays."""
    by = {(a.role, a.task, a.precision): a for a in artefacts}

    def pair(
        kind: Kind, name: str, one: tuple[str, str, str], two: tuple[str, str, str]
    ) -> list[Pairing]:
        return [Pairing(kind, name, by[one], by[two])] if one in by and two in by else []

    found = []
    for task, name in ((ENCODER_TASK, "encoders"), (FILL_MASK_TASK, "fill-mask models")):
        found += pair("speed", name, ("teacher", task, "fp32"), ("student", task, "fp32"))
    integer = next((p for p in _SMALL if ("student", ENCODER_TASK, p) in by), "int8")
    student = ("student", ENCODER_TASK, integer)
    found += pair("deploy", "encoders", ("teacher", ENCODER_TASK, "fp32"), student)
    found += pair("int8-pays", "encoders", ("student", ENCODER_TASK, "fp32"), student)
    return found

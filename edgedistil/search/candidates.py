"""Students that could be made of a teacher, with their bytes, time and memory on a device."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from edgedistil.core.budget_options import StudentSize
from edgedistil.core.device import DeviceSpec
from edgedistil.core.format import mebibytes, milliseconds
from edgedistil.core.precision import Precision
from edgedistil.core.records import Band
from edgedistil.core.search_records import Budget, Candidate
from edgedistil.costmodel.constants import Constants
from edgedistil.costmodel.memory import memory_band
from edgedistil.costmodel.model import latency_band
from edgedistil.costmodel.shapes import EncoderShape, encoder_work, graph_bytes
from edgedistil.search.budget import fit_of

# Shares of the teacher's feed-forward width: a quarter is the narrowest that published students of
# this kind have.
WIDTH_SHARES = (1.0, 0.75, 0.5, 0.25)
# Shares of the teacher's attention heads, where heads can be removed.
HEAD_SHARES = (1.0, 0.5)
# Shares of the teacher's width that factorised word embeddings have: the student of half of it
# starts at a cosine of 0.84 to the teacher (docs/log.md#importance-of-attention-heads).
EMBEDDING_SHARES = (0.5,)
# Key of a student's size → field of its shape.
_FIELDS: Mapping[StudentSize, str] = {
    "layers": "layers",
    "intermediate": "intermediate",
    "heads": "heads",
    "embedding": "rank",
    "vocabulary": "vocabulary",
}
# A width is a multiple of this, so that kernels have no remainders.
_WIDTH_STEP = 64
# Sizes of a trimmed vocabulary; 2.9%, 6.8%, 12% and 23% more tokens on English text
# (docs/log.md#tokens-of-a-trimmed-vocabulary).
VOCABULARIES = (20_000, 16_000, 12_000, 8_000)
# Error of the bytes that follow from shapes: names and constants of the graph.
BYTES_ERROR = 64 * 2**10
BYTES_SHARE = 0.01


@dataclass(frozen=True)
class Setting:
    """Where and how candidates run.

    Attributes:
        device: The device.
        constants: Constants of its cost model.
        length: Tokens of a text.
        threads: Number of threads.
        budget: The limits.
        teacher_rank: Columns of the teacher's word embeddings if they are factorised, otherwise 0.
    """

    device: DeviceSpec
    constants: Constants
    length: int
    threads: int
    budget: Budget
    teacher_rank: int = 0


def enumerate_shapes(
    teacher: EncoderShape,
    *,
    least_vocabulary: int,
    depths: Sequence[int] | None = None,
    fewer_heads: bool = False,
    narrower_words: bool = False,
    own: EncoderShape | None = None,
    keep: Collection[StudentSize] = (),
) -> Iterator[EncoderShape]:
    """Yields the shapes of students, from as large as the teacher down.

    Args:
        teacher: Shape of a student that has all of the teacher's layers.
        least_vocabulary: Tokens that have to stay.
        depths: Numbers of layers; None: all up to the teacher's.
        fewer_heads: Whether heads can be removed.
        narrower_words: Whether word embeddings can be factorised.
        own: Shape of the recipe's student, whose sizes are among those of the candidates.
        keep: Sizes that all candidates have as `own` does.
    """
    rows = [size for size in VOCABULARIES if least_vocabulary <= size < teacher.vocabulary]
    widths = [_width(teacher.intermediate, share) for share in WIDTH_SHARES]
    shares = HEAD_SHARES if fewer_heads else (1.0,)
    heads = [max(1, round(teacher.heads * share)) for share in shares]
    ranks = [round(teacher.hidden * share) for share in EMBEDDING_SHARES if narrower_words]
    sizes: dict[str, Sequence[int]] = {
        "layers": depths or range(teacher.layers, 0, -1),
        "intermediate": widths,
        "heads": heads,
        "rank": [teacher.rank, *ranks],
        "vocabulary": [teacher.vocabulary, *rows],
    }
    for key, field in _FIELDS.items():
        # The recipe's own size need not be one of the shares.
        if own is not None:
            size: int = getattr(own, field)
            sizes[field] = [size] if key in keep else [*sizes[field], size]
    for values in product(*map(_from_large_to_small, sizes.values())):
        changed: dict[str, Any] = dict(zip(sizes, values, strict=True))
        yield replace(teacher, **changed)


def _from_large_to_small(sizes: Iterable[int]) -> list[int]:
    """Different sizes in order; 0 columns mean as many as the states have, the most."""
    return sorted(set(sizes), key=lambda size: size or math.inf, reverse=True)


def _width(teacher: int, share: float) -> int:
    """A share of the teacher's width in steps, never above the teacher's."""
    if share == 1:
        return teacher
    return min(teacher, max(_WIDTH_STEP, round(teacher * share / _WIDTH_STEP) * _WIDTH_STEP))


@dataclass(frozen=True)
class _Need:
    """What a candidate needs of one kind, its limit, and the least need in words."""

    name: str
    band: Band
    limit: float | None
    least: str

    @property
    def ratio(self) -> float:
        """Least need over limit; 0 without a limit."""
        return self.band.low / self.limit if self.limit is not None else 0.0


def judge(shape: EncoderShape, precision: Precision, setting: Setting) -> Candidate:
    """Predicts what a student needs, and compares it with the budget."""
    budget, size = setting.budget, graph_bytes(shape, precision)
    error = BYTES_ERROR + BYTES_SHARE * size
    size_band = Band(low=size - error, high=size + error)
    work = encoder_work(shape, setting.length, precision)
    latency = latency_band(work, setting.device, setting.constants, threads=setting.threads)
    page = setting.device.memory.page_kib.value * 1024
    memory = memory_band(size, external=True, work=work, page_bytes=page)
    fit = _compare(size_band, latency, memory, budget)
    return Candidate(
        layers=shape.layers,
        intermediate=shape.intermediate,
        heads=shape.heads,
        vocabulary=shape.vocabulary,
        embedding=None if shape.rank == setting.teacher_rank else shape.rank,
        precision=precision,
        parameters=shape.parameters,
        file_bytes=size_band,
        latency_ms=latency,
        memory_bytes=memory,
        **fit,
    )


def with_measured(
    candidate: Candidate, *, file_bytes: int, ms: float, peak_bytes: int | None, budget: Budget
) -> Candidate:
    """Returns a candidate with measured figures in place of the predicted ones.

    Args:
        candidate: The candidate.
        file_bytes: Bytes of its graph with its weights.
        ms: Time of a call.
        peak_bytes: Peak memory of the process; None keeps the prediction.
        budget: The limits, which it is compared with again.
    """
    # A measured figure is a band without width.
    size = Band(low=file_bytes, high=file_bytes)
    latency = Band(low=ms, high=ms)
    memory = candidate.memory_bytes
    if peak_bytes is not None:
        memory = Band(low=peak_bytes, high=peak_bytes)
    fit = _compare(size, latency, memory, budget)
    measured = {
        "file_bytes": size,
        "latency_ms": latency,
        "memory_bytes": memory,
        "is_measured": True,
    }
    return candidate.model_copy(update={**measured, **fit})


def with_latency(candidate: Candidate, latency: Band, budget: Budget) -> Candidate:
    """Returns a candidate with another predicted time, compared with the limits again."""
    fit = _compare(candidate.file_bytes, latency, candidate.memory_bytes, budget)
    return candidate.model_copy(update={"latency_ms": latency, **fit})


def _compare(size: Band, latency: Band, memory: Band, budget: Budget) -> dict[str, Any]:
    """The fields of a candidate that say whether its needs are within a budget."""
    needs = [
        _Need("latency", latency, budget.latency_ms, f"{milliseconds(latency.low)} ms"),
        _Need("file", size, budget.file_bytes, f"{mebibytes(size.low)} MiB"),
        _Need("memory", memory, budget.memory_bytes, f"{mebibytes(memory.low)} MiB"),
    ]
    return {
        "fit": fit_of([(need.band, need.limit) for need in needs]),
        "excess": {need.name: need.least for need in needs if need.ratio > 1},
        "worst_ratio": max(need.ratio for need in needs),
    }

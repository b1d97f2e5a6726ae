"""Record of a search for students under a budget."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgedistil.core.precision import Precision
from edgedistil.core.records import Band, Count, Figure, Provenance, Record

Fit = Literal["fits", "may fit", "does not fit"]


class Budget(Record):
    """Limits of a search; None without one."""

    latency_ms: float | None = None
    file_bytes: int | None = None
    memory_bytes: int | None = None


class Candidate(Record):
    """One student that could be made of the teacher, and whether it fits."""

    layers: int
    # Width of the feed-forward.
    intermediate: int
    # Attention heads of a layer.
    heads: int
    vocabulary: int
    # Width of word embeddings that a matrix widens; None: as wide as the teacher's.
    embedding: int | None = None
    precision: Precision
    parameters: int
    # Size of the exported graph with its weights, from shapes.
    file_bytes: Band
    # Time of one call on the device, and peak memory of a process.
    latency_ms: Band
    memory_bytes: Band
    # Whether file, time and memory were measured on the device, with random weights; memory only
    # if the device reports it.
    is_measured: bool = False
    fit: Fit
    # Limit → what the candidate needs at least, of limits that it exceeds for sure.
    excess: dict[str, str] = Field(default_factory=dict)
    # Largest ratio of a need to its limit; above 1 if a limit is exceeded.
    worst_ratio: float


class StudentSizes(Record):
    """Sizes of a student; its fields are those of a candidate."""

    layers: int
    intermediate: int
    heads: int
    vocabulary: int
    embedding: int | None = None


class SearchRecord(Record):
    """The result of `search`."""

    recipe: str
    teacher: str
    device: str
    # Sources of the cost model's constants.
    calibration: str
    # Tokens of a text, threads.
    length: int
    threads: int
    budget: Budget
    # Sizes of the recipe's own student, and the keys of those that every candidate has.
    recipe_sizes: StudentSizes | None = None
    fixed_sizes: list[str] = Field(default_factory=list)
    candidates: list[Candidate]
    provenance: Provenance


class StudentScore(Record):
    """Score of a student on the collections of a search, in the folder of its run."""

    remedy: ClassVar[str] = "remove it: the student is scored again"

    # Digest of the collections' texts and of the record of the distillation.
    key: str
    ndcg: float


class TrainedStudent(Record):
    """One student that a search trained, and what its artefact needs if it was exported."""

    # Name of the run that trained it longest.
    run: str
    candidate: Candidate
    # The last round that it was in, from 1, and the tokens that it was trained on there.
    round: int
    tokens: int
    # Larger is better; `TrainedSearch.metric` says of what.
    score: float
    # Whether no other student of its round is as good, as small and as fast, and better in one.
    is_pareto: bool
    # None: not exported. Otherwise what failed; empty if gate and budget hold.
    failure: str | None = None
    # Of the artefact on the device, by the method of the profile.
    file_bytes: int | None = None
    latency_ms: Figure | Band | None = None
    memory_bytes: Count | Band | None = None
    method: str | None = None
    # Digests of the artefact, and of the record of the distillation that it was exported from.
    artefact_sha256: str | None = None
    distill_sha256: str | None = None

    @property
    def passed(self) -> bool:
        """Whether its artefact is published and within the budget."""
        return self.failure == ""


class TrainedSearch(Record):
    """The result of `search --train`: `search.json`, next to its table and its plot."""

    recipe: str
    teacher: str
    device: str
    length: int
    threads: int
    budget: Budget
    # What decides between students.
    metric: str
    # Training tokens of all students together.
    tokens: int
    rounds: int
    # The best first.
    students: list[TrainedStudent]
    provenance: Provenance

    @property
    def winner(self) -> TrainedStudent | None:
        """The best student that passed; None if none did."""
        return next((student for student in self.students if student.passed), None)

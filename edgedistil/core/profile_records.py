"""Records of profiles: times, memory and the claims about them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgedistil.core.bulk_records import ArtefactLimit, BatchRow, SortingGain
from edgedistil.core.precision import Precision
from edgedistil.core.records import (
    ArtefactRecord,
    Band,
    Count,
    Figure,
    Method,
    NotMeasured,
    Provenance,
    Record,
)
from edgedistil.core.verdict import Verdict


class AtLeast(Record):
    """A one-sided 95% bound of a figure that has too few samples."""

    at_least: float
    reason: str = Field(min_length=1)


Percentile = float | AtLeast | NotMeasured


class LatencyStats(Record):
    """Observed percentiles (nearest rank) of steady calls, and the raw samples."""

    calls: int
    # Time that the percentiles are about: those of a minute or of a hot machine differ.
    window_s: float
    # A bound where there are too few samples for the percentile (30 for p90, 60, 300).
    p50_ms: Figure
    p90_ms: Percentile
    p95_ms: Percentile
    p99_ms: Percentile
    min_ms: float
    mean_ms: float
    # Median of the last third / median of the first third - 1.
    drift: Figure
    samples_ms: list[float]


class MemoryStats(Record):
    """Resident memory of a fresh process that only loads and runs the artefact."""

    after_import_bytes: Count
    after_load_bytes: Count
    after_run_bytes: Count
    peak_bytes: Count
    # Parts of `after_run_bytes`: the process's own, and mapped from files, which can be dropped.
    anonymous_bytes: Count = NotMeasured(not_measured="not reported by this machine")
    file_bytes: Count = NotMeasured(not_measured="not reported by this machine")
    # After a run, with shared pages divided by the processes that share them.
    pss_bytes: Count = NotMeasured(not_measured="not reported by this machine")


class ProfileRow(ArtefactRecord):
    """One artefact at one length and thread count, on one device by one method."""

    # Size of the graph with its external data.
    file_bytes: int
    parameters: int
    method: Method
    # Name and version of the runtime.
    runtime: str
    # What another runtime than onnxruntime makes of the artefact: OpenVINO, OpenVINO bf16, ...
    form: str | None = None
    threads: int
    batch: int
    # Tokens of a sequence; sentence-pairs is the pass over STS-B-like pairs of mixed lengths.
    length: int | Literal["sentence-pairs"]
    # Mean tokens of these pairs with the artefact's own tokenizer; None at a length in tokens.
    tokens_per_pair: float | None = None
    # Median of steady calls, a predicted band, or a reason for its absence.
    latency_ms: Figure | Band
    latency: LatencyStats | NotMeasured
    # Median time in which a text of this length becomes token ids, which `latency_ms` excludes.
    tokenization_ms: Figure = NotMeasured(not_measured="measured on this machine only")
    # Language of the tokenizer that `tokenization_ms` is about.
    tokenization_in: Literal["Python", "JavaScript"] = "Python"
    # The same with the tokenizer of a compiled C++ bundle.
    tokenization_cpp_ms: Figure = NotMeasured(not_measured="measured with --cpp")
    # Creating the session, its first call, and both with the start of the process.
    load_ms: Figure | Band
    first_call_ms: Figure | Band
    start_to_first_result_ms: Figure | Band
    memory: MemoryStats | NotMeasured
    peak_memory_bytes: Count | Band
    # False for a throttled run, or one without times; `invalid_reason` then says why.
    valid: bool
    invalid_reason: str | None = None
    # Signs of other work during the calls, in both of two measurements: the row is shown with a
    # mark and never carries a verdict.
    disturbed: str | None = None
    # Governor, clock, temperature, calibration, kernels, ...; as the machine reports them.
    conditions: dict[str, str]

    @property
    def usable(self) -> bool:
        """Whether verdicts, fits and comparisons may use the row's times."""
        return self.valid and self.disturbed is None

    @property
    def tokenization_share(self) -> float | None:
        """Share of tokenization in the time from text to output, 0 to 1; None if unknown."""
        return self._share(self.tokenization_ms)

    @property
    def tokenization_cpp_share(self) -> float | None:
        """The same share with the tokenizer of a C++ bundle."""
        return self._share(self.tokenization_cpp_ms)

    def _share(self, tokenization: Figure) -> float | None:
        latency = self.latency_ms
        if isinstance(tokenization, NotMeasured) or not isinstance(latency, float):
            return None
        return tokenization / (tokenization + latency)


class Claim(Record):
    """Comparison of teacher and student under equal conditions, with the paper's figure."""

    claim: Literal["speed", "size", "quality", "deploy", "int8-pays"]
    verdict: Verdict
    # The claim with its figures, for people.
    sentence: str
    method: Method
    device: str
    # Models, task, precision, runtime, threads and lengths, in words.
    conditions: str
    # Meaning of `value`: speed ratio, share of parameters saved, ...
    figure: str
    # Value with its confidence interval, and the bound that it is compared with.
    value: Figure
    low: Figure
    high: Figure
    threshold: float
    # The paper's row.
    paper: str
    # Why the machine was disturbed meanwhile; the verdict is then inconclusive.
    disturbed: str | None = None


class OpTime(Record):
    """Time of one kind of operator, or of one layer, in the profiled calls."""

    name: str
    calls: int
    total_ms: float
    # Share of the time of all operators, 0 to 1.
    share: float


class MemoryFit(ArtefactRecord):
    """Whether one artefact runs within a memory limit."""

    method: Method
    limit_bytes: int
    # cgroup v2, cgroup v1, RLIMIT_AS, or a watch on the guest's pages.
    enforced_by: str
    threads: int
    # Tokens of the sequence that was run.
    length: int
    fits: bool
    peak_memory_bytes: Count
    # Peak without a limit. What it exceeds the limit by are file pages, which the kernel drops and
    # reads again.
    needed_bytes: Count = NotMeasured(not_measured="the artefact was not run without a limit")
    # Phase and cause of the failure, if it does not fit.
    ended: str | None = None

    @property
    def dropped_bytes(self) -> int:
        """File pages that had to be dropped to fit; 0 if none, or if that is unknown."""
        if not self.fits or isinstance(self.needed_bytes, NotMeasured):
            return 0
        return max(0, self.needed_bytes - self.limit_bytes)


class Sustained(ArtefactRecord):
    """Calls of one artefact without a pause: the first minute and the last one.

    Of a series below two minutes, its halves.
    """

    threads: int
    # Tokens of a sequence.
    length: int
    # Duration of the series, and of each of its two windows.
    seconds: float
    window_s: float
    calls: int
    first_p50_ms: Figure
    last_p50_ms: Figure
    # last / first - 1.
    change: Figure
    # Throttling that the machine reports, and signs of other work; None without.
    throttled: str | None
    disturbed: str | None
    # Governor, clock, temperature; as the machine reports them.
    conditions: dict[str, str]


class RuntimeComparison(ArtefactRecord):
    """Time of another runtime's form of an artefact, against onnxruntime's time of ours."""

    form: str
    # Name and version of both runtimes.
    runtimes: str
    # Precision of the exported artefact in onnxruntime.
    against: Precision
    threads: int
    # Tokens of a sequence.
    length: int
    # Time of the form / time of ours: above 1, ours is faster. With its 95% interval.
    ratio: Figure
    low: Figure
    high: Figure


class ProfileRecord(Record):
    """The result of `profile` for one device and method: `profile/<device>.<method>.json`."""

    remedy: ClassVar[str] = "remove it and run edgedistil profile again"

    device: str
    method: Method
    rows: list[ProfileRow]
    claims: list[Claim]
    fits: list[MemoryFit] = []
    sustained: list[Sustained] = []
    # Of --runtime.
    runtimes: list[RuntimeComparison] = []
    # Of --batch and --memory-limit.
    batches: list[BatchRow] = []
    sorting: list[SortingGain] = []
    limits: list[ArtefactLimit] = []
    # Label of an artefact → times by kind of operator, or by layer.
    op_times: dict[str, list[OpTime]] = {}
    layer_times: dict[str, list[OpTime]] = {}
    notes: list[str] = []
    provenance: Provenance

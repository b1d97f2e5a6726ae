"""Records of exports and their parity checks."""

from __future__ import annotations

from typing import ClassVar, Literal

from edgedistil.core.precision import Precision
from edgedistil.core.records import (
    Count,
    Figure,
    Method,
    NotMeasured,
    Provenance,
    Record,
    Role,
)

# Text of a parity check: the run's, the user's (--text), or the one that comes with the package.
ProbeText = Literal["held-out", "user", "built-in"]


class FileFacts(Record):
    """One file of an export folder."""

    # Relative to the export folder.
    path: str
    bytes: int
    sha256: str


class ExportRecord(Record):
    """One artefact: `export.<precision>.json` in the export folder."""

    remedy: ClassVar[str] = "remove the folder {folder} and run edgedistil export again"

    # student, teacher, or the name of the exported model.
    model: str
    role: Role
    task: str
    precision: Precision
    # The graph first, then its external data.
    files: list[FileFacts]
    # Digest of the weights that were exported.
    source_sha256: str
    parameters: int
    # Operator set and IR version of the graph.
    opset: int
    ir_version: int
    # host, or the device that the artefact is made for.
    target_device: str
    # Choice → reason (signedness, per channel, tracer, embeddings, ...).
    reasons: dict[str, str]
    # Graph pass → number of places that it changed.
    fused: dict[str, int]
    # Text that its outputs were compared on.
    probe_text: ProbeText = "held-out"
    # Initializers over 1 KiB that are stored in float.
    kept_float: list[str]
    # embeddings, attention, feed-forward, head, other → bytes of the weights.
    bytes_by_part: dict[str, int]
    # Duration of the export of this artefact.
    seconds: float
    provenance: Provenance


class ParityFigures(Record):
    """Differences between an artefact's outputs and PyTorch's on one set of probes."""

    sequences: int
    # Tokens of every sequence; absent where lengths are mixed.
    length: Count
    # Absolute error, in units of the output.
    max_abs: float
    mean_abs: float
    # Cosine of hidden states, or of rows of the output: smallest and mean.
    cosine_min: Figure
    cosine_mean: Figure
    # KL(PyTorch || artefact) of the output distributions, mean, in nats.
    kl_nats: Figure
    # Share of equal decisions (top token of a masked position, label, span), 0 to 1.
    agreement: Figure
    # Number of decisions in `agreement`.
    decisions: int = 0
    # Lin's concordance coefficient of a regression's values, of several outputs the smallest one; a
    # shift or another scale lowers it.
    concordance: Figure = NotMeasured(not_measured="the task's answer is not a value")
    # Distance from PyTorch with the same roundings, as a share of their own error.
    reference_share: Figure = NotMeasured(not_measured="no reference with the same roundings")


class RankFigures(Record):
    """Agreement of sentence vectors with PyTorch's on a pool of texts, and of their rankings."""

    texts: int
    # How the model's vectors are compared: cosine, dot, euclidean or manhattan.
    similarity: str
    # Share of the 10 texts nearest to a text that are PyTorch's, mean over the texts, 0 to 1.
    top10_overlap: float
    # Spearman's rank correlation of the similarities of all pairs of texts, −1 to 1.
    rank_correlation: float
    # Cosine of a text's vector and PyTorch's, smallest and mean.
    vector_cosine_min: float
    vector_cosine_mean: float


class Tolerance(Record):
    """A bound on a figure of the parity check, with its reason."""

    # Field of ParityFigures or of RankFigures.
    figure: str
    bound: Literal["at most", "at least"]
    value: float
    reason: str


class ToleranceResult(Record):
    """A bound, and the figure that was compared with it."""

    tolerance: Tolerance
    got: float
    holds: bool
    # Padded length that the figure is of; None for all.
    length: int | None = None


class ReferencePart(Record):
    """What one part of a quantized artefact adds, against PyTorch with the same roundings."""

    # embeddings, layer N attention, layer N feed-forward, head, or output.
    part: str
    # Difference from PyTorch with the same roundings, as a share of their own error: over all
    # lengths, and at the length where it is largest.
    share: float
    worst_share: float
    worst_length: int


class CertificateRecord(Record):
    """The comparison of an artefact's weights and constants with the model's, without probes."""

    # Tensors and float attributes of the artefact that were compared.
    initializers: int
    attributes: int
    # Tensors of the model that they were compared with.
    tensors: int
    # Each one names a tensor or an attribute, its value, and the one that was expected.
    problems: list[str]

    @property
    def holds(self) -> bool:
        """Whether every weight and constant is the model's."""
        return not self.problems


class InvarianceRecord(Record):
    """Changes of a text's own outputs when it is padded or has neighbours."""

    texts: int
    # Calls that were compared with the text alone.
    calls: int
    # Largest change of an output, in its unit: padded to other lengths, and between other texts.
    padded: float
    neighbours: float
    # Largest change of a sentence vector's components.
    vector: Figure
    # Answers that were compared (tokens, labels, positions), and those that changed.
    answers: int
    changed: int
    # Largest change that is allowed; None for a precision whose outputs depend on other texts.
    bound: float | None
    reason: str
    holds: bool

    @property
    def largest(self) -> float:
        """The largest change of any output."""
        vector = self.vector if isinstance(self.vector, float | int) else 0.0
        return max(self.padded, self.neighbours, vector)


class ParityRecord(Record):
    """The parity check of one artefact: `parity/<model>-<task>.<precision>.json`."""

    remedy: ClassVar[str] = "remove it and run edgedistil export again"

    model: str
    task: str
    precision: Precision
    artefact_sha256: str
    # onnxruntime and its version.
    runtime: str
    # emulated where the artefact ran under another instruction set.
    method: Method = "measured"
    device: str = "host"
    # Figures over all probes, and for each sequence length.
    overall: ParityFigures
    by_length: list[ParityFigures]
    results: list[ToleranceResult]
    # Absent where the source model is not at hand, as on a board.
    certificate: CertificateRecord | NotMeasured = NotMeasured(
        not_measured="the source model was not compared"
    )
    # Each part against PyTorch with the same roundings.
    parts: list[ReferencePart] | NotMeasured = NotMeasured(
        not_measured="nothing is rounded, or not compared part by part"
    )
    # The same texts alone, padded, and next to others; absent where only outputs were sent.
    invariance: InvarianceRecord | NotMeasured = NotMeasured(
        not_measured="texts were not run alone and with neighbours"
    )
    # Sentence vectors and their rankings, on texts of the probes' source.
    ranking: RankFigures | NotMeasured = NotMeasured(
        not_measured="no sentence vectors, or too few different lines of text to rank them"
    )
    # Whether every bound holds, and the certificate, parts and invariance where they were compared.
    passed: bool
    provenance: Provenance


class PartError(Record):
    """Error of one part of an encoder: the embeddings, half a layer, the head.

    Relative errors are ‖artefact - PyTorch‖ / ‖PyTorch‖ over the probes' hidden states.
    """

    # embeddings, layer N attention, layer N feed-forward, head, or output.
    part: str
    # Relative error of the part's output when its input is exactly PyTorch's.
    own: float
    # Relative error of the part's output in the running artefact, earlier errors included.
    reached: float
    # Largest absolute error of the part's output in the running artefact.
    reached_max_abs: float


class NodeError(Record):
    """Error that one node of a part adds to exact inputs."""

    node: str
    operator: str
    output: str
    # Relative error of the node's output when its inputs are the reference artefact's.
    own: float


class FloatGain(Record):
    """Effect of leaving one part in float: figures and size of such an artefact."""

    part: str
    figures: ParityFigures
    bytes: int


class ExplainRecord(Record):
    """The result of `export --explain`: where an artefact's error comes from."""

    remedy: ClassVar[str] = "remove it and run edgedistil export --explain again"

    artefact_sha256: str
    task: str
    parts: list[PartError]
    # Part with the largest own error, and its node with the largest error.
    worst_part: str
    worst_node: NodeError | NotMeasured
    # Nodes of the worst part, largest error first.
    nodes: list[NodeError]
    # Size and figures of the artefact as it is.
    bytes: int
    figures: ParityFigures | NotMeasured
    # Effect of leaving each of the worst parts in float.
    gains: list[FloatGain] | NotMeasured
    provenance: Provenance

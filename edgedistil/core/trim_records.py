"""Record of a trimmed vocabulary."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from edgedistil.core.records import Band, NotMeasured, Provenance, Record


class TrimText(Record):
    """What a trimmed vocabulary does to texts that its tokens were not counted on."""

    # Where the texts are from.
    source: str
    texts: int
    # Texts with the same tokens as before.
    unchanged_texts: int
    # Tokens of all texts, without and with the vocabulary trimmed; special tokens not included.
    tokens_before: int
    tokens_after: int
    # Unknown tokens among them.
    unknown_before: int
    unknown_after: int

    @property
    def growth(self) -> float:
        """Tokens after trimming for each token before; 1 if no text became longer."""
        return self.tokens_after / self.tokens_before if self.tokens_before else 1.0


class TrimProof(Record):
    """The comparison of a trimmed model's outputs with those of the model before."""

    # Held-out texts whose tokens did not change, and sequences of random tokens that stayed.
    texts: int
    random_sequences: int
    # Outputs that were compared, such as logits.
    outputs: list[str]
    # Largest absolute difference of an output, and the bound on it.
    max_abs: float
    tolerance: float


class TrimLatency(Record):
    """Predicted time of a mean text on a device, before and after trimming."""

    device: str
    precision: str
    # Tokens of a mean text, special tokens included.
    length_before: int
    length_after: int
    before_ms: Band
    after_ms: Band
    # Middle of the band after, less the middle before.
    cost_ms: float


class TrimRecord(Record):
    """The result of trimming a vocabulary: `trim.json`."""

    remedy: ClassVar[str] = "remove it and trim the model again"

    # Hub id, folder or asset.
    model: str
    # WordPiece, BPE or Unigram.
    kind: str
    vocabulary_before: int
    vocabulary_after: int
    # Rows of the word-embedding matrix before; more than the tokens if it was padded.
    rows_before: int
    # Tokens that had to stay whatever the text is.
    required: int
    # Text that the tokens were counted on, its tokens, and the share of them that stayed.
    counted_on: str
    counted_tokens: int
    coverage: float
    # Script of the first letter → tokens that went.
    dropped_by_script: dict[str, int]
    # Script that the vocabulary was not made for → share of the counted text's letters.
    other_scripts: dict[str, float] = Field(default_factory=dict)
    heldout: TrimText
    parameters_before: int
    parameters_after: int
    # Sizes of the weight files.
    bytes_before: int
    bytes_after: int
    proof: TrimProof
    latency: list[TrimLatency] | NotMeasured
    # Files of the model that were left out, because they may depend on the vocabulary.
    left_out: list[str] = Field(default_factory=list)
    # Old id of each new id.
    old_ids: list[int]
    # File of the trimmed model → sha256.
    files: dict[str, str] = Field(default_factory=dict)
    provenance: Provenance

"""contract.json: what a client has to know to use the graphs of an export folder.

`export` writes the file once. The model card, the runtime class, the check of the package and
bundles for other languages read it, so that none of them has its own idea of how a text becomes an
input, or an output an answer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError, StorageError
from edgedistil.core.plain_json import from_json
from edgedistil.core.rundir import read_json_object, write_json
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.task import SENTENCE_OUTPUT, ProblemType, Task
from edgedistil.core.tokenizer_files import Side

CONTRACT_FILE = "contract.json"
# What a runner has to give for some hundred texts; written by `export`, read by its checks.
CONFORMANCE_FILE = "conformance.jsonl"
FORMAT = 1
_REMEDY = "run edgedistil export again: it replaces the folder"

# Length of an axis, or the name of an axis that differs from call to call.
Axis = int | str

# Input of a graph → what it holds.
INPUT_MEANINGS = {
    "input_ids": "token ids, special tokens included",
    "attention_mask": "1 at tokens, 0 at padding",
    "token_type_ids": "0 at tokens of the first text, 1 at those of the second",
}
SENTENCE_MEANING = "one vector for each text, made as sentence_vector says"


@dataclass(frozen=True, kw_only=True)
class TensorContract:
    """One input or output of the graphs."""

    name: str
    dtype: Literal["int64", "float32"]
    shape: list[Axis]
    meaning: str


@dataclass(frozen=True, kw_only=True)
class SpecialToken:
    """A token with a role, such as the mask."""

    token: str
    id: int


@dataclass(frozen=True, kw_only=True)
class FramePart:
    """A text, or a special token in front of a text or behind it."""

    # Number of the text; None for a special token.
    text: int | None
    # Id of the special token; None for a text.
    id: int | None
    type_id: int


@dataclass(frozen=True, kw_only=True)
class TokenizerContract:
    """How texts become inputs; the tokens themselves are made by tokenizer.json."""

    # Tokens of an input at most, special tokens included.
    max_length: int
    # Side on which tokens of a longer text are removed.
    truncation_side: Side
    # Side on which shorter texts of a batch are filled with `pad_id`.
    padding_side: Side
    pad_id: int
    # Whether "[MASK]" in a user's text is text, rather than the special token.
    splits_special_tokens: bool
    # Role (cls, sep, pad, mask, unk) → token.
    special_tokens: dict[str, SpecialToken]
    # Order of special tokens and texts, of one text and of two.
    single: list[FramePart]
    pair: list[FramePart]

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: No token fits into an input, or the padding's id is negative.
        """
        if self.max_length < 1:
            raise ValueError(f"max_length: got {self.max_length}; expected 1 or more")
        if self.pad_id < 0:
            raise ValueError(f"pad_id: got {self.pad_id}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Inputs and outputs of the graphs, and how texts and answers are made of them."""

    format: int
    task: Task
    inputs: list[TensorContract]
    outputs: list[TensorContract]
    tokenizer: TokenizerContract
    # How the outputs of a sequence's head are read; None for other tasks.
    problem_type: ProblemType | None
    # Names of a classifier's outputs, in order; empty for other tasks.
    labels: list[str]
    # Of an encoder: how its states become a sentence vector; None where `unsupported` says why.
    sentence_vector: SentenceVector | None
    # Part of the sentence vector that clients compute with the package's modules.
    unsupported: str | None

    @property
    def gives_vectors(self) -> bool:
        """Whether the graphs have the output `sentence_embedding`."""
        return any(output.name == SENTENCE_OUTPUT for output in self.outputs)


def write_contract(folder: Path, contract: Contract) -> None:
    """Writes the contract of an export folder."""
    write_json(folder / CONTRACT_FILE, _content(contract))


def checked_digests(folder: Path) -> dict[str, str]:
    """Returns the sha256 of each file that the export's check has seen, from conformance.jsonl.

    Raises:
        StorageError: The file is damaged.
    """
    path = folder / CONFORMANCE_FILE
    try:
        with path.open(encoding="utf-8") as file:
            digests = json.loads(file.readline())["files"]
        return {str(name): str(digest) for name, digest in digests.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path} has no digests in its first line", hint=_REMEDY) from error


def read_contract(folder: Path) -> Contract:
    """Reads the contract of an export folder.

    Raises:
        InputError: The folder has no contract, so it is not an export folder.
        StorageError: The contract is damaged, or of another version.
    """
    path = folder / CONTRACT_FILE
    if not path.exists():
        raise InputError(
            f"{folder} is not an export folder: it has no {CONTRACT_FILE}",
            hint="pass a folder below runs/NAME/export; of an export by an earlier version, "
            "run edgedistil export again",
        )
    # The format is read first: other fields may have other meanings in another one.
    content = read_json_object(path, hint=_REMEDY)
    if content.get("format") != FORMAT:
        raise StorageError(
            f"{path} has the format {echo(content.get('format'))}; expected {FORMAT}",
            hint=f"it is of another version; {_REMEDY}",
        )
    try:
        contract = from_json(Contract, _complete(content))
    except ValueError as error:
        raise StorageError(
            f"{path} is not a valid contract: {error}",
            hint=f"it is corrupt, edited by hand or of another version; {_REMEDY}",
        ) from error
    # A program cannot fill an input that it does not know.
    unknown = [tensor.name for tensor in contract.inputs if tensor.name not in INPUT_MEANINGS]
    if unknown:
        raise StorageError(
            f"{path} has the input {echo(unknown[0])}; expected {', '.join(INPUT_MEANINGS)}",
            hint=_REMEDY,
        )
    return contract


def _content(contract: Contract) -> dict[str, Any]:
    content = asdict(contract)
    if content["sentence_vector"] is not None:
        # `tokenizer.max_length` is what clients cut at: of the model's, the tokenizer's and this.
        del content["sentence_vector"]["max_length"]
    return content


def _complete(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the file's content with the field of the vector that the file does not have.

    Raises:
        ValueError: The file has it.
    """
    vector = content.get("sentence_vector")
    if not isinstance(vector, dict):
        return content
    if "max_length" in vector:
        raise ValueError("sentence_vector.max_length: unknown")
    return {**content, "sentence_vector": {**vector, "max_length": None}}

"""Cells: one model fine-tuned and scored on one task with one seed, each in a file of its own.

The file appears complete, when the cell has finished, and contains a digest of all inputs. So a
killed cell starts over, and a cell whose inputs did not change is not run again
(docs/decisions.md#a-cells-file-is-its-commit-point-and-its-key).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError, ModelError, StorageError
from edgedistil.core.records import Cell, Record, read_record, text_sha256
from edgedistil.core.rundir import read_json, sha256_file
from edgedistil.evaluate.spec import TaskSpec

# Version of the results. Increase it when the same inputs would give another cell.
FORMAT = 2
# File in the folder of fine-tuned weights that contains the cell's key.
KEY_FILE = "edgedistil_cell.json"
# Seeds of numpy and torch have 32 bits; recipes use 31 of them.
_LARGEST_SEED = 2**31 - 1
# The model may be a path, so it may contain colons.
_CELL = re.compile(r"(?P<task>[^:]+):(?P<model>.+):(?P<seed>[0-9]+)")


# --- files ---------------------------------------------------------------------------------------


class Timing(Record):
    """Size and latency of a fine-tuned model or of its artefact."""

    bytes: int = Field(description="size of the weights, or of the graph with its weights")
    latency_ms: float = Field(description="p50 of single dev examples (artefact.CONDITIONS)")


class CellFile(Record):
    """A cell with the predictions that confidence intervals are computed from."""

    key: str = Field(description="digest of all inputs")
    model_sha256: str = Field(description="digest of the model before fine-tuning")
    cell: Cell
    labels: list[float] = Field(description="labels of the dev set; empty for spans")
    predictions: list[float] = Field(description="predictions for the dev set; empty for spans")
    per_question: dict[str, list[float]] = Field(
        default={}, description="span: EM and F1 of each question"
    )
    timing: Timing | None = Field(default=None, description="measured where artefacts are compared")

    @property
    def score(self) -> float:
        """Score by the metric that counts."""
        return self.cell.scores[self.cell.metric]


def read_cell(path: Path) -> CellFile:
    """Reads a cell's file."""
    return read_record(path, CellFile)


def read_key(path: Path) -> str | None:
    """Returns the key in a cell's file; None if the file is missing or corrupt."""
    # A truncated file counts as missing: the cell is run again.
    try:
        content = read_json(path)
    except StorageError:
        return None
    return content.get("key") if isinstance(content, dict) else None


# --- plans ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSource:
    """A model before fine-tuning.

    Attributes:
        name: Name in cells and tables.
        folder: Folder with configuration, tokenizer and weights.
        random_weights: Whether all weights are initialized at random instead.
    """

    name: str
    folder: Path
    random_weights: bool = False

    def sha256(self) -> str:
        """Returns a digest of configuration, tokenizer and, unless random, weights.

        Raises:
            ModelError: The folder has no weights in safetensors.
        """
        # Other files of the folder, such as a README, do not change a result.
        patterns = ["config.json", "tokenizer.json"]
        if not self.random_weights:
            patterns.append("*.safetensors")
        files: list[Path] = []
        for pattern in patterns:
            files.extend(self.folder.glob(pattern))
        if not self.random_weights and not any(path.suffix == ".safetensors" for path in files):
            raise ModelError(
                f"{self.folder} has no weights in safetensors",
                hint="convert the weights; loading other formats can execute code",
            )
        # Names and not paths: the same model in another place has the same digest.
        lines = [f"{path.name} {sha256_file(path)}" for path in sorted(files)]
        return text_sha256("\n".join(lines))


@dataclass(frozen=True)
class CellPlan:
    """Everything that a cell needs, as plain values that another process can receive.

    Attributes:
        spec: The task.
        data: Folder with official files of public data sets, if any.
        train_limit: Training examples at most, as the recipe limits them.
        source: The model before fine-tuning.
        seed: Seed of head, data order and dropout.
        key: Digest of all inputs.
        model_sha256: Digest of the model before fine-tuning.
        folder: Folder of the run's cells.
        keep_weights: Whether the fine-tuned weights are stored
            (docs/decisions.md#fine-tuned-weights-are-stored-only-where-something-needs-them).
        soft_targets_from: Folder of the fine-tuned teacher whose soft targets are used, if any.
    """

    spec: TaskSpec
    data: Path | None
    train_limit: int | None
    source: ModelSource
    seed: int
    key: str
    model_sha256: str
    folder: Path
    keep_weights: bool = False
    soft_targets_from: Path | None = None

    @property
    def label(self) -> str:
        """The cell as `--cell` takes it."""
        return f"{self.spec.name}:{self.source.name}:{self.seed}"

    @property
    def file(self) -> Path:
        """The cell's file."""
        return self.sibling(".json")

    @property
    def weights(self) -> Path:
        """Folder of the fine-tuned model, if it is stored."""
        return self.sibling("")

    def sibling(self, suffix: str) -> Path:
        """Returns the path of a file or folder next to the cell's file."""
        return self.folder / self.spec.name / f"{self.source.name}-{self.seed}{suffix}"

    def is_done(self) -> bool:
        """Whether the cell's file, and its weights if they are stored, are up to date."""
        # A cell that finished without its weights is run again when they are needed.
        if read_key(self.file) != self.key:
            return False
        return not self.keep_weights or read_key(self.weights / KEY_FILE) == self.key


def cell_key(
    spec: TaskSpec,
    data_sha256: str,
    train_limit: int | None,
    source: ModelSource,
    model_sha256: str,
    seed: int,
    soft_targets: tuple[str, str] | None,
) -> str:
    """Returns a digest of everything that decides the result of a cell.

    Args:
        spec: The task.
        data_sha256: Digest of the labelled examples.
        train_limit: Training examples at most, as the recipe limits them.
        source: The model before fine-tuning.
        model_sha256: Digest of its files.
        seed: Seed of head, data order and dropout.
        soft_targets: Key of the teacher's cell and digest of the unlabelled texts, if soft targets
            are used.
    """
    second = None
    if soft_targets is not None:
        second = spec.second_distillation.hyper_parameters() | {"from": soft_targets}
    # Title, licence and download are not inputs: changing them does not run a cell again.
    inputs = {
        "format": FORMAT,
        "task": [spec.name, spec.kind, spec.metric, spec.labels, spec.range, spec.parts],
        "training": spec.training.for_model(source.name).hyper_parameters(),
        "data": data_sha256,
        "train_limit": train_limit,
        "model": model_sha256,
        "random_weights": source.random_weights,
        "seed": seed,
        "second_distillation": second,
    }
    return text_sha256(json.dumps(inputs, sort_keys=True))


def parse_cell(text: str) -> tuple[str, str, int]:
    """Parses `TASK:MODEL:SEED`.

    Raises:
        InputError: The text does not have this form.
    """
    match = _CELL.fullmatch(text)
    if match is None:
        raise InputError(
            f"--cell {echo(text)}: expected TASK:MODEL:SEED, for example sst2:student:3"
        )
    # A long text of digits could not even be read as an integer.
    if len(match["seed"]) > len(str(_LARGEST_SEED)) or int(match["seed"]) > _LARGEST_SEED:
        raise InputError(f"--cell {echo(text)}: expected a seed of at most {_LARGEST_SEED}")
    return match["task"], match["model"], int(match["seed"])

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
from typing import ClassVar, Self

from pydantic import Field, model_validator

from edgedistil.core import console
from edgedistil.core.digests import changed_file, remembered_sha256
from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError, ModelError, StorageError
from edgedistil.core.evaluation_records import Cell
from edgedistil.core.records import Record, read_record, text_sha256
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.evaluate.spec import TaskSpec, Training

# Version of the results. Increase it when the same inputs would give another cell.
FORMAT = 2
# File in the folder of fine-tuned weights that contains a `WeightsStamp`.
KEY_FILE = "edgedistil_cell.json"
# Seeds of numpy and torch have 32 bits; recipes use 31 of them.
_LARGEST_SEED = 2**31 - 1
# Task and model may be paths, so both may contain colons.
_CELL = re.compile(r"(?P<task>.+\.toml|[^:]+):(?P<model>.+):(?P<seed>[0-9]+)")


# --- files ---------------------------------------------------------------------------------------


class Timing(Record):
    """Size and latency of a fine-tuned model or of its artefact."""

    bytes: int = Field(description="size of the weights, or of the graph with its weights")
    latency_ms: float = Field(description="p50 of single dev examples (example_latency.CONDITIONS)")
    disturbed: str | None = Field(
        default=None, description="signs of other work on the machine in both of two measurements"
    )


class WeightsStamp(Record):
    """The cell that fine-tuned weights belong to, and their digests."""

    key: str = Field(description="digest of all inputs of the cell")
    files: dict[str, str] = Field(
        default={}, description="file of the folder → sha256; earlier versions recorded none"
    )


class CellFile(Record):
    """A cell with the predictions that confidence intervals are computed from."""

    remedy: ClassVar[str] = "remove it and run edgedistil evaluate again"

    key: str = Field(description="digest of all inputs")
    model_sha256: str = Field(description="digest of the model before fine-tuning")
    cell: Cell
    labels: list[float] = Field(description="labels of the dev set; empty for spans")
    predictions: list[float] = Field(description="predictions for the dev set; empty for spans")
    per_question: dict[str, list[float]] = Field(
        default={}, description="span: EM and F1 of each question"
    )
    timing: Timing | None = Field(default=None, description="measured where artefacts are compared")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.cell.metric not in self.cell.scores:
            raise ValueError(f"the score '{self.cell.metric}' is missing")
        counts = {"labels": len(self.labels), "predictions": len(self.predictions)}
        # A question has a score for each metric in place of a label and a prediction.
        if self.per_question:
            counts = {f"scores ({name})": len(values) for name, values in self.per_question.items()}
        for name, count in counts.items():
            if count != self.cell.dev_examples:
                raise ValueError(f"{count} {name} of {self.cell.dev_examples} dev examples")
        return self

    @property
    def score(self) -> float:
        """Score by the metric that counts."""
        return self.cell.scores[self.cell.metric]


def read_cell(path: Path) -> CellFile:
    """Reads a cell's file."""
    return read_record(path, CellFile)


def read_finished(path: Path, key: str) -> CellFile | None:
    """Returns the cell in a file; None if it is missing, corrupt, or of other inputs.

    A warning says so if it is corrupt: the cell is then run again.
    """
    if not path.is_file():
        return None
    try:
        file = read_cell(path)
    except StorageError as error:
        console.warn(f"a cell is run again: {error.message}")
        return None
    return file if file.key == key else None


# --- plans ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSource:
    """A model before fine-tuning.

    Attributes:
        name: Name in cells and tables.
        folder: Folder with configuration, tokenizer and weights.
        sha256: Digest of the model, as `model_sha256` computes it.
        random_weights: Whether all weights are initialized at random instead.
    """

    name: str
    folder: Path
    sha256: str
    random_weights: bool = False


def model_sha256(folder: Path, *, random_weights: bool = False) -> str:
    """Returns a digest of configuration, tokenizer and, unless random, weights of a model.

    Raises:
        ModelError: The folder has no weights in safetensors, or a file cannot be read.
    """
    # Other files of the folder, such as a README, do not change a result.
    patterns = ["config.json", *TOKENIZER_FILES]
    if not random_weights:
        patterns.append("*.safetensors")
    files: list[Path] = []
    for pattern in patterns:
        files.extend(folder.glob(pattern))
    if not random_weights and not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(
            f"{folder} has no weights in safetensors",
            hint="convert the weights; loading other formats can execute code",
        )
    # Names and not paths: the same model in another place has the same digest.
    try:
        lines = [f"{path.name} {remembered_sha256(path)}" for path in sorted(files)]
    except OSError as error:
        raise ModelError(f"cannot read the model in {folder}: {error}") from error
    return text_sha256("\n".join(lines))


@dataclass(frozen=True)
class CellSettings:
    """How the model of a cell is fine-tuned, and on which examples.

    Attributes:
        training: Hyper-parameters.
        search_share: Share of the training examples that take the place of the dev set; None: the
            cell is scored on the dev set.
        match_steps: Whether training has as many steps as with the unlabelled texts.
    """

    training: Training
    search_share: float | None = None
    match_steps: bool = False

    def inputs(self) -> dict[str, object]:
        """Returns what decides the result, for the cell's key."""
        inputs: dict[str, object] = {"training": self.training.hyper_parameters()}
        # Absent in most cells, whose keys do not change with these two.
        if self.search_share is not None:
            inputs["search_share"] = self.search_share
        if self.match_steps:
            inputs["match_steps"] = True
        return inputs


@dataclass(frozen=True)
class CellPlan:
    """Everything that a cell needs, as plain values that another process can receive.

    Attributes:
        spec: The task.
        settings: How the model is fine-tuned.
        data: Folder with official files of public data sets, if any.
        train_limit: Training examples at most, as the recipe limits them.
        source: The model before fine-tuning.
        seed: Seed of head, data order and dropout.
        key: Digest of all inputs.
        folder: Folder of the run's cells.
        keep_weights: Whether the fine-tuned weights are stored
            (docs/decisions.md#fine-tuned-weights-are-stored-only-where-something-needs-them).
        soft_targets_from: Folder of the fine-tuned teacher whose soft targets are used, if any.
    """

    spec: TaskSpec
    settings: CellSettings
    data: Path | None
    train_limit: int | None
    source: ModelSource
    seed: int
    key: str
    folder: Path
    keep_weights: bool = False
    soft_targets_from: Path | None = None

    @property
    def label(self) -> str:
        """The cell in messages: task, model and seed."""
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
        folder = self.folder / self.spec.name
        if self.settings.search_share is None:
            return folder / f"{self.source.name}-{self.seed}{suffix}"
        # Cells that only choose settings are no results of the run.
        training = self.settings.training
        setting = f"{training.learning_rate:g}-{training.epochs}-epochs"
        return folder / "search" / f"{self.source.name}-{setting}{suffix}"

    def is_done(self) -> bool:
        """Whether the cell's file, and its weights if they are stored, are up to date."""
        if read_finished(self.file, self.key) is None:
            return False
        # A cell that finished without its weights is run again when they are needed.
        return not self.keep_weights or self._has_weights()

    def _has_weights(self) -> bool:
        """Whether the fine-tuned weights are stored as they were written."""
        path = self.weights / KEY_FILE
        if not path.is_file():
            return False
        try:
            stamp = read_record(path, WeightsStamp)
        except StorageError as error:
            console.warn(f"{self.label} is trained again: {error.message}")
            return False
        if stamp.key != self.key:
            return False
        change = changed_file(self.weights, stamp.files)
        if change is not None:
            console.warn(f"{self.label} is trained again: {change}")
        return change is None


def cell_key(
    spec: TaskSpec,
    settings: CellSettings,
    data_sha256: str,
    train_limit: int | None,
    source: ModelSource,
    seed: int,
    soft_targets: tuple[str, str] | None,
) -> str:
    """Returns a digest of everything that decides the result of a cell.

    Args:
        spec: The task.
        settings: How the model is fine-tuned.
        data_sha256: Digest of the labelled examples.
        train_limit: Training examples at most, as the recipe limits them.
        source: The model before fine-tuning.
        seed: Seed of head, data order and dropout.
        soft_targets: Key of the teacher's cell and digest of the unlabelled texts, if soft targets
            are used; an empty key where only the number of texts counts.
    """
    second = None
    if soft_targets is not None:
        second = spec.second_distillation.hyper_parameters() | {"from": soft_targets}
    # Title, licence and download are not inputs: changing them does not run a cell again.
    inputs = {
        "format": FORMAT,
        "task": [spec.name, spec.kind, spec.metric, spec.labels, spec.range, spec.parts],
        **settings.inputs(),
        "data": data_sha256,
        "train_limit": train_limit,
        "model": source.sha256,
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

"""TOML → TaskSpec: what a labelled task is, where its data may lie, how it is scored and with which hyper-parameters.

The built-in tasks are such files too (`task_files/`), so a task of your own is described in the same few lines.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistil.core.errors import TaskError
from edgedistil.core.toml import format_problems
from edgedistil.evaluate.metrics import METRICS_OF

Kind = Literal["classification", "pair", "regression", "span"]
Positive = Annotated[int, Field(gt=0)]

GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
GROUPS = {"glue": GLUE, "paper": (*GLUE, "imdb", "squad")}
_FOLDER = Path(__file__).resolve().parent / "task_files"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: object) -> object:
        if isinstance(data, dict):
            return {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in data.items()
            }
        return data


class Files(Section):
    """Data in files: a user's own, or a public data set's official ones below `--data`."""

    folder: str = Field(
        default=".", description="below --data for a shipped task, beside the TOML for your own"
    )
    format: Literal["by suffix", "aclImdb", "squad"] = "by suffix"
    train: str
    dev: tuple[str, ...] = Field(min_length=1)
    columns: tuple[str, ...] | None = Field(
        default=None, description="names of the columns of a file without a header"
    )
    text: tuple[str, ...] = ("text",)
    label: str = "label"
    start: str = Field(
        default="answer_start", description="span: column of the answer's first character, 0-based"
    )
    id: str | None = Field(
        default=None, description="column whose values may not repeat within a file"
    )
    values: tuple[str, ...] | None = Field(
        default=None, description="how the labels are written in the file; none: as named"
    )
    quotes: bool = Field(
        default=True, description="off: a quotation mark in a tsv is a character like any other"
    )
    ragged: Literal["refuse", "skip short"] = Field(
        default="refuse", description="rows with too few or too many cells"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_dev_file(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("dev"), str):
            return {**data, "dev": (data["dev"],)}
        return data


class Hub(Section):
    """The same data on the Hugging Face hub."""

    id: str
    config: str | None = None
    train: str = "train"
    dev: tuple[str, ...] = ("validation",)
    text: tuple[str, ...] = ("text",)
    label: str = "label"


class Training(Section):
    """Hyper-parameters of fine-tuning, and where they come from."""

    epochs: Positive
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    student_learning_rate: Annotated[float | None, Field(gt=0)] = None
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    max_length: Annotated[int, Field(ge=8, le=512)]
    source: str = Field(
        min_length=1, description="publication or measurement that these figures come from"
    )

    def of(self, model: str) -> Training:
        """The hyper-parameters of a model: half the layers may want another rate than the teacher."""
        if self.student_learning_rate is None or not model.startswith("student"):
            return self.model_copy(update={"student_learning_rate": None})
        return self.model_copy(
            update={"learning_rate": self.student_learning_rate, "student_learning_rate": None}
        )

    def figures(self) -> dict[str, float]:
        """What decides the outcome."""
        return self.model_dump(exclude={"source", "student_learning_rate"})


REST = "rest"


class SecondDistillation(Section):
    """Soft targets while fine-tuning ("(D)"): loss = (1 - alpha) · labels + alpha · soft targets.

    The teacher knows the labelled texts by heart: what it says of others of their kind, unlabelled, teaches more.
    """

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 2.0
    unlabelled: str | None = Field(
        default=None,
        description="file of further texts beside the TOML, or 'rest': what train_limit leaves of train",
    )
    unlabelled_limit: Positive | None = Field(
        default=None, description="texts, always the same ones; none: all"
    )

    @model_validator(mode="after")
    def _limit_of_something(self) -> Self:
        if self.unlabelled is None and self.unlabelled_limit is not None:
            raise ValueError(
                f"unlabelled_limit = {self.unlabelled_limit} without 'unlabelled': which texts?"
            )
        return self


class Paper(Section):
    """What Sanh et al. 2019 report for this task, in percent."""

    teacher: float
    student: float
    student_d: float | None = None
    metric: str
    source: str


class TaskSpec(Section):
    name: str
    title: str = ""
    kind: Kind
    labels: tuple[str, ...] | None = Field(
        default=None, description="names of the classes in order; none: as found in train"
    )
    range: tuple[float, float] | None = Field(
        default=None, description="regression: lowest and highest label"
    )
    metric: str = Field(description="the score that counts")
    suite: str | None = None
    parts: tuple[str, ...] = Field(
        (), description="names of several dev files; the score is over all of them"
    )
    licence: str = "not stated"
    asset: str | None = Field(default=None, description="package that carries the data")
    download: str | None = Field(default=None, description="where a person gets the official files")
    files: Files | None = None
    hub: Hub | None = None
    train_limit: Positive | None = Field(
        default=None, description="examples, always the same ones; none: all"
    )
    dev_limit: Positive | None = Field(
        default=None, description="examples, always the same ones; none: all"
    )
    training: Training
    second_distillation: SecondDistillation = SecondDistillation()
    paper: Paper | None = None
    base: str | None = Field(
        default=None, description="set by the program: the folder of the TOML file"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name '{self.name}': expected lower-case letters, digits, '.', '_', '-'"
            )
        if self.files is None and self.hub is None and self.asset is None:
            raise ValueError("expected a section [files] or [hub] that says where the data is")
        known = METRICS_OF[self.kind]
        if self.metric not in known:
            raise ValueError(
                f"metric '{self.metric}' does not fit kind '{self.kind}'; expected {', '.join(known)}"
            )
        for text in [source.text for source in (self.files, self.hub) if source is not None]:
            self._check_texts(text)
        if self.second_distillation.unlabelled == REST and self.train_limit is None:
            raise ValueError(
                "second_distillation.unlabelled = 'rest': set train_limit, or there is no rest"
            )
        if self.files and self.files.values and len(self.files.values) != len(self.labels or ()):
            raise ValueError(
                f"files.values has {len(self.files.values)} entries, labels {len(self.labels or ())}"
            )
        return self

    def _check_texts(self, text: tuple[str, ...]) -> None:
        wanted = {"pair": {2}, "span": {2}, "classification": {1, 2}, "regression": {1, 2}}[
            self.kind
        ]
        if len(text) not in wanted:
            raise ValueError(
                f"kind '{self.kind}' takes {' or '.join(map(str, sorted(wanted)))} text fields, got {len(text)}"
            )

    @property
    def shown(self) -> str:
        return self.title or self.name


def load_task(name: str) -> TaskSpec:
    """A built-in task by its name, or the one that a TOML file describes.

    Raises:
        TaskError: Unknown ("did you mean"), no TOML, or problems: all of them.
    """
    path = Path(name)
    is_own = path.suffix == ".toml"
    if not is_own:
        path = _FOLDER / f"{name}.toml"
        if name not in task_names():
            close = difflib.get_close_matches(name, [*task_names(), *GROUPS], n=1, cutoff=0.5)
            raise TaskError(
                f"no task '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""),
                hint=f"built in: {', '.join(task_names())}; groups: {', '.join(GROUPS)}; or your own TOML file",
            )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskError(
            f"no task file '{name}'", hint="docs/evaluation.md shows the few lines that it takes"
        ) from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{path} is no TOML: {error}") from error
    try:
        return TaskSpec.model_validate(
            {"name": path.stem, **data, "base": str(path.parent) if is_own else None}
        )
    except ValidationError as error:
        raise TaskError(
            f"{path if is_own else name}: {format_problems(error, TaskSpec)}"
        ) from error


def expand_groups(names: list[str]) -> list[str]:
    """`names` with `glue` and `paper` replaced by their tasks, each once, in order."""
    flat = [task for name in names for task in GROUPS.get(name, (name,))]
    return list(dict.fromkeys(flat))


def task_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))

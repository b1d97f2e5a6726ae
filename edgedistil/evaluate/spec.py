"""Task files: what a labelled task is, where its data is, and how models are fine-tuned on it.

The built-in tasks are such files too (`task_files/`), so a user's own task has the same format
(docs/decisions.md#tasks-are-files).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgedistil.core.errors import TaskError
from edgedistil.core.paths import user_path
from edgedistil.core.recipe_types import Epochs, Rate, Temperature
from edgedistil.core.task import LabelledKind
from edgedistil.core.toml import StrictSection, did_you_mean, parse_section, read_toml
from edgedistil.evaluate.kind import TaskKind
from edgedistil.evaluate.kinds import KINDS
from edgedistil.evaluate.labels import LabelRules
from edgedistil.evaluate.metrics import TWO_CLASS_METRICS
from edgedistil.evaluate.scoring import ScoringSettings

Positive = Annotated[int, Field(gt=0)]
EmptyCells = Literal["refuse", "skip", "keep"]

GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
GROUPS = {"glue": GLUE, "paper": (*GLUE, "imdb", "squad")}
# Value of `second_distillation.unlabelled`: the training examples beyond `train_limit`.
REST = "rest"

_FOLDER = Path(__file__).resolve().parent / "task_files"
# Names become folders of a run and parts of TASK:MODEL:SEED.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")

# --- sections ------------------------------------------------------------------------------------


class Files(StrictSection):
    """Data in files: a user's own, or the official files of a public data set."""

    folder: str = Field(
        default=".",
        description="Folder of the files, relative to --data or to the user's own task file.",
    )
    format: Literal["by suffix", "aclImdb", "squad"] = Field(
        default="by suffix",
        description="Layout of the files: a table (by suffix), or an official layout.",
    )
    train: str = Field(description="File or folder with the training examples.")
    dev: tuple[str, ...] = Field(min_length=1, description="File or files with the dev examples.")
    columns: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Column names of a file that has no header line."
    )
    text: tuple[str, ...] = Field(
        default=("text",), description="Columns with the text or the two texts of an example."
    )
    label: str = Field(default="label", description="Column with the label or the answers.")
    start: str = Field(
        default="answer_start",
        description="Column with the index of the answer's first character (kind span).",
    )
    id: str | None = Field(
        default=None, description="Column whose values must be unique within a file."
    )
    values: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="How the files write the labels, in the order of `labels`; default: as named.",
    )
    quotes: bool = Field(
        default=True,
        description="Whether a tsv file quotes cells; if not, a quotation mark is a character.",
    )
    ragged: Literal["refuse", "skip short"] = Field(
        default="refuse",
        description="Whether a row with missing or extra cells is an error; or skip short rows.",
    )
    empty: EmptyCells = Field(
        default="refuse",
        description="Whether a row without a text or label is an error, is left out, or is used "
        "as it is (a label is always needed).",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_dev_file(cls, data: Any) -> Any:
        """Accepts `dev = "dev.csv"` for a single file."""
        # MNLI has two dev files; most tasks have one.
        if isinstance(data, dict) and isinstance(data.get("dev"), str):
            return {**data, "dev": (data["dev"],)}
        return data


class Hub(StrictSection):
    """The same data on the Hugging Face hub."""

    id: str = Field(min_length=1, description="Repository of the data set on the hub.")
    config: str | None = Field(default=None, description="Configuration of the data set.")
    train: str = Field(default="train", description="Split with the training examples.")
    dev: tuple[str, ...] = Field(
        default=("validation",), description="Split or splits with the dev examples."
    )
    text: tuple[str, ...] = Field(
        default=("text",), description="Columns with the text or the two texts of an example."
    )
    label: str = Field(default="label", description="Column with the label or the answers.")


class Search(StrictSection):
    """Settings that are tried for every model, judged on a part of the training examples."""

    learning_rates: tuple[Rate, ...] = Field(
        min_length=1, description="Peak learning rates that are tried."
    )
    epochs: tuple[Epochs, ...] = Field(
        default=(), description="Numbers of epochs that are tried; default: `epochs` alone."
    )
    share: Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=0.2,
        description="Share of the training examples (undivided groups) that judges settings.",
    )


class Training(StrictSection):
    """Hyper-parameters of fine-tuning, and where they come from."""

    epochs: Epochs = Field(description="Passes over the training examples.")
    batch: Annotated[int, Field(gt=0, le=2**14)] = Field(
        description="Sequences per optimizer step."
    )
    learning_rate: Rate = Field(
        description="Peak learning rate of AdamW, reached at the end of the warm-up."
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Share of the steps in which the learning rate rises linearly."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Decoupled weight decay of AdamW."
    )
    clip: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="Gradient norm above which gradients are scaled down."
    )
    max_length: Annotated[int, Field(ge=8, le=512)] = Field(
        description="Tokens of a sequence at most, special tokens included."
    )
    source: str = Field(
        min_length=1, description="Publication or measurement that the hyper-parameters are from."
    )
    search: Search | None = Field(
        default=None,
        description="Settings that are tried for every model in place of learning_rate and epochs.",
    )

    def settings(self) -> list[Training]:
        """Returns the settings that are tried for each model, as complete hyper-parameters."""
        alone = self.model_copy(update={"search": None})
        if self.search is None:
            return [alone]
        return [
            alone.model_copy(update={"learning_rate": rate, "epochs": epochs})
            for rate in self.search.learning_rates
            for epochs in self.search.epochs or (self.epochs,)
        ]

    def with_epochs(self, epochs: int) -> Training:
        """Returns the hyper-parameters with another number of epochs, also in the search."""
        search = self.search
        if search is not None:
            search = search.model_copy(update={"epochs": ()})
        return self.model_copy(update={"epochs": epochs, "search": search})

    def steps(self, rows: int) -> int:
        """Returns the optimizer steps for a number of training rows."""
        return math.ceil(rows / self.batch) * self.epochs

    def hyper_parameters(self) -> dict[str, float]:
        """Returns the values that decide the outcome, by name."""
        return self.model_dump(exclude={"source", "search"})


class SecondDistillation(StrictSection):
    """Soft targets of the fine-tuned teacher: (1 - alpha) · label loss + alpha · soft-target loss.

    The teacher has seen the labelled texts in training, so its outputs repeat their labels. Soft
    targets for unlabelled texts gain more (docs/log.md#soft-targets-on-unlabelled-text).
    """

    alpha: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="Weight of the soft-target loss for labelled examples."
    )
    temperature: Temperature = Field(default=2.0, description="Temperature of both distributions.")
    unlabelled: str | None = Field(
        default=None,
        description="File of further texts next to the task file, or 'rest' for the training "
        "examples beyond train_limit.",
    )
    unlabelled_limit: Positive | None = Field(
        default=None, description="Unlabelled texts at most, always the same ones; default: all."
    )

    # A limit without texts is most likely a forgotten `unlabelled`.
    @model_validator(mode="after")
    def _limit_needs_texts(self) -> Self:
        if self.unlabelled is None and self.unlabelled_limit is not None:
            raise ValueError(
                f"unlabelled_limit = {self.unlabelled_limit} without 'unlabelled': "
                "set 'unlabelled' to a file or to 'rest'"
            )
        return self

    def hyper_parameters(self) -> dict[str, float]:
        """Returns the values that decide the loss, by name."""
        return {"alpha": self.alpha, "temperature": self.temperature}


class Paper(StrictSection):
    """Scores that Sanh et al. 2019 report for the task, in percent."""

    teacher: float = Field(description="Score of BERT-base.")
    student: float = Field(description="Score of DistilBERT.")
    student_d: float | None = Field(
        default=None, description="Score of DistilBERT with a second distillation, (D)."
    )
    metric: str = Field(description="Metric of the scores.")
    source: str = Field(description="Table that the scores are from.")


class TaskSpec(StrictSection):
    """A labelled task."""

    name: str = Field(default="", description="Name of the task; default: the file's name.")
    title: str = Field(default="", max_length=100, description="Name in tables; default: `name`.")
    kind: LabelledKind = Field(description="Kind of the task, which decides head and loss.")
    labels: tuple[str, ...] | None = Field(
        default=None,
        min_length=2,
        description="Names of the classes in order; default: sorted labels of the training file.",
    )
    positive: str | None = Field(
        default=None,
        description="The class that f1 and accuracy_f1 are about; default: the second of two.",
    )
    range: tuple[float, float] | None = Field(
        default=None, description="Lowest and highest label of a regression; default: any."
    )
    metric: str = Field(description="The metric that counts.")
    suite: str | None = Field(
        default=None, description="Benchmark suite that the task belongs to, such as GLUE."
    )
    parts: tuple[str, ...] = Field(
        default=(),
        description="Names of several dev files; the score that counts is over all of them.",
    )
    licence: str = Field(default="not stated", description="Licence of the data.")
    asset: str | None = Field(
        default=None, description="Name of the pinned package that contains the data."
    )
    download: str | None = Field(
        default=None, description="Where the official files can be downloaded."
    )
    files: Files | None = Field(default=None, description="The data in files.")
    hub: Hub | None = Field(default=None, description="The data on the Hugging Face hub.")
    train_limit: Positive | None = Field(
        default=None, description="Training examples at most, always the same ones; default: all."
    )
    dev_limit: Positive | None = Field(
        default=None, description="Dev examples at most, always the same ones; default: all."
    )
    training: Training = Field(description="Hyper-parameters of fine-tuning.")
    second_distillation: SecondDistillation = Field(
        default=SecondDistillation(), description="Soft targets while fine-tuning."
    )
    paper: Paper | None = Field(default=None, description="Published scores of the task.")
    base: str | None = Field(
        default=None, description="Folder of the user's own task file; set by the program."
    )

    @field_validator("labels", "positive", "files", mode="after")
    @classmethod
    def _without_blanks(cls, value: Any) -> Any:
        """Strips the names of classes, as labels are stripped when they are read."""
        if isinstance(value, str):
            return value.strip()
        if isinstance(value, Files):
            return value.model_copy(update={"values": cls._without_blanks(value.values)})
        return None if value is None else tuple(name.strip() for name in value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name '{self.name}': expected at most 60 lower-case letters, digits, '.', '_', "
                "'-'; the default is the file's name, and the key `name` sets another one"
            )
        # The data can be in several places; the first available one is read (tasks.py).
        if self.files is None and self.hub is None and self.asset is None:
            raise ValueError("the location of the data is missing: expected [files] or [hub]")
        self._check_kind()
        if self.second_distillation.unlabelled == REST and self.train_limit is None:
            raise ValueError(
                "second_distillation.unlabelled = 'rest' needs train_limit: without it, "
                "all training examples are used with their labels"
            )
        for source in (self.files, self.hub):
            if self.parts and source is not None and len(source.dev) != len(self.parts):
                raise ValueError(
                    f"parts has {len(self.parts)} names, and there are {len(source.dev)} dev files"
                )
        self._check_labels()
        return self

    def _check_kind(self) -> None:
        """Checks that metric and text fields fit the kind."""
        kind = self.task_kind
        if self.metric not in kind.metrics:
            raise ValueError(
                f"metric '{self.metric}' does not fit kind '{self.kind}'; "
                f"expected one of {', '.join(kind.metrics)}"
            )
        for source in (self.files, self.hub):
            if source is not None and len(source.text) not in kind.text_fields:
                expected = " or ".join(map(str, kind.text_fields))
                raise ValueError(
                    f"kind '{self.kind}' takes {expected} text fields, got {len(source.text)}"
                )
            if source is not None and len(set(source.text)) < len(source.text):
                raise ValueError(f"text = {', '.join(source.text)}: expected two different columns")

    def _check_labels(self) -> None:
        """Checks that every key about labels has an effect, and that names are distinct."""
        values = self.files.values if self.files is not None else None
        if values and len(values) != len(self.labels or ()):
            raise ValueError(
                f"files.values has {len(values)} entries, labels {len(self.labels or ())}: "
                "expected one value for each label"
            )
        for key, names in (("labels", self.labels), ("files.values", values)):
            repeated = sorted({name for name in names or () if (names or ()).count(name) > 1})
            if repeated or "" in (names or ()):
                raise ValueError(
                    f"{key} = {', '.join(names or ())}: expected distinct names that are not blank"
                )
        if self.labels and not self.task_kind.has_classes:
            raise ValueError(f"labels: kind '{self.kind}' has no classes")
        if self.positive is not None and not self.needs_positive:
            raise ValueError(
                f"positive: only {' and '.join(TWO_CLASS_METRICS)} are about one class, "
                f"and the metric is '{self.metric}'"
            )
        if self.range is not None and (self.kind != "regression" or self.range[0] >= self.range[1]):
            raise ValueError(
                f"range = {list(self.range)}: expected the lowest and the highest label of a "
                "regression"
            )
        if self.files and self.files.label in self.files.text and not self.task_kind.has_answers:
            raise ValueError(f"files.label: column '{self.files.label}' is a text column too")

    @property
    def needs_positive(self) -> bool:
        """Whether the metric is about one of two classes."""
        return self.task_kind.has_classes and self.metric in TWO_CLASS_METRICS

    @property
    def task_kind(self) -> TaskKind:
        """The rules of the task's kind."""
        return KINDS[self.kind]

    @property
    def shown(self) -> str:
        """Name of the task in tables."""
        return self.title or self.name

    def label_rules(self, *, from_files: bool) -> LabelRules:
        """Returns how the labels of the task are written.

        Args:
            from_files: Whether the data is from files: the hub has no spellings of its own.
        """
        spellings = self.files.values if self.files is not None and from_files else None
        return LabelRules(
            self.name,
            self.labels or (),
            spellings or (),
            self.range,
            positive=self.positive or "",
            needs_positive=self.needs_positive,
        )

    @property
    def scoring(self) -> ScoringSettings:
        """How the dev set is scored."""
        return ScoringSettings(self.metric, self.training.max_length, self.parts)


# --- files ---------------------------------------------------------------------------------------


def load_task(name: str) -> TaskSpec:
    """Reads a task file.

    Args:
        name: Name of a built-in task, or the path of a TOML file.
    Raises:
        TaskError: The task is unknown, or the file is missing, not valid TOML, or has problems.
    """
    path = user_path(name, error=TaskError)
    is_own = path.suffix == ".toml"
    if not is_own:
        _check_built_in(name)
        path = _FOLDER / f"{name}.toml"
    elif not path.exists():
        raise TaskError(
            f"task file '{name}' does not exist", hint="docs/evaluation.md shows an example"
        )
    data = read_toml(path, error=TaskError)
    if "base" in data:
        raise TaskError(f"{name}: unknown key 'base'", hint="paths are relative to the task file")
    # Paths in a user's own file are relative to it; built-in tasks have no such folder.
    data = {"name": path.stem, **data, "base": str(path.parent) if is_own else None}
    return parse_section(TaskSpec, data, where=name, error=TaskError)


def _check_built_in(name: str) -> None:
    """Raises TaskError if there is no built-in task of that name."""
    names = task_names()
    if name not in names:
        raise TaskError(
            f"unknown task '{name}'{did_you_mean(name, [*names, *GROUPS])}",
            hint=f"built in: {', '.join(names)}; groups: {', '.join(GROUPS)}; "
            "or the path of a TOML file",
        )


def expand_groups(names: list[str]) -> list[str]:
    """Returns task names with `glue` and `paper` replaced by their tasks, without repetitions."""
    # A name that is not a group means itself.
    tasks: list[str] = []
    for name in names:
        tasks.extend(GROUPS.get(name, (name,)))
    return list(dict.fromkeys(tasks))


def task_names() -> list[str]:
    """Returns the names of the built-in tasks."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))

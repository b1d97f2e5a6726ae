"""TOML → Recipe: frozen, strict, with every problem told at once.

A recipe says what is distilled from what, on which text, with which losses, and what happens to the student after.
Below a stage's entry function nobody sees a Recipe: everything takes plain values.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistil.core.errors import RecipeError
from edgedistil.core.precision import Precision
from edgedistil.core.records import text_sha256
from edgedistil.core.rundir import write_text
from edgedistil.core.shipped import find_shipped

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FitHead(Section):
    """How an MLM head is fitted onto a teacher that comes without one (head and encoder together)."""

    steps: Positive = 750
    batch_tokens: Positive = 2048
    learning_rate: float = Field(5e-4, gt=0)
    encoder_rate: float = Field(
        1.0, ge=0, le=1, description="the encoder's learning rate as a share of the head's"
    )
    warmup: Share = 0.1


class Teacher(Section):
    source: str = Field(min_length=1, description="hub id, folder, or asset:NAME")
    revision: str | None = Field(None, description="commit or tag of a hub model")
    mlm_head: Literal["own", "fit"] = "own"
    fit: FitHead = FitHead()


class Student(Section):
    layers: Literal["alternate"] | list[Annotated[int, Field(ge=0)]] = Field(
        "alternate", description="teacher layers that become the student's, or every other one"
    )
    init: str = Field(
        "teacher", description="teacher, random, or the folder of a student to distil further"
    )
    fold_segment: bool = Field(
        True, description="add the teacher's segment-A vector to the positions"
    )
    copy_head_transform: bool = Field(
        True, description="copy the MLM head's dense layer and LayerNorm"
    )
    freeze_positions: bool = False
    dropout: Share = 0.1


class SourceSpec(Section):
    """One text source: exactly one of asset, files, hub."""

    asset: str | None = None
    files: str | None = Field(
        None, description="path or glob: .txt .jsonl .parquet, also .gz and .zst"
    )
    hub: str | None = None
    config: str | None = Field(None, description="configuration of a hub data set")
    split: str = "train"
    revision: str | None = Field(
        None, description="commit or tag of a hub data set: pins what the cache is keyed by"
    )
    field: str = Field("text", description="text column of jsonl, parquet and hub data sets")
    streaming: bool = False
    licence: str = Field("not stated", description="shown in the record; assets bring their own")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [k for k in ("asset", "files", "hub") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of asset, files, hub; got {' and '.join(given) or 'none'}"
            )
        return self


class Corpus(Section):
    sources: list[SourceSpec] = Field(min_length=1)
    layout: Literal["packed", "lines"] = "packed"
    block_length: Annotated[int, Field(ge=8, le=8192)] = 128
    heldout_share: Annotated[float, Field(gt=0, le=0.5)] = 0.02
    heldout_max_documents: Positive = 2000
    on_bad_utf8: Literal["refuse", "replace"] = "refuse"


class Masking(Section):
    kind: Literal["bert", "rarity"] = "bert"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    rarity_exponent: Annotated[float, Field(ge=0)] = 0.7


class Loss(Section):
    soft_target: Annotated[float, Field(ge=0)] = 5.0
    mlm: Annotated[float, Field(ge=0)] = 2.0
    cosine: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 2.0
    positions: Literal["all", "masked"] = Field(
        "all", description="where the soft-target loss looks"
    )
    mean: Literal["step", "micro-batch"] = Field(
        "step", description="over all tokens of a step, or the original's"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.soft_target == self.mlm == self.cosine == 0:
            raise ValueError(
                "all loss weights are 0: nothing would be learnt; set soft_target, mlm or cosine"
            )
        return self


class Train(Section):
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "auto", description="auto: bfloat16 where the device computes it natively, else float32"
    )
    tokens: Positive | None = Field(None, description="length of the run in tokens, or:")
    epochs: Positive | None = None
    steps: Positive | None = None
    global_batch: Positive = Field(32, description="sequences of an optimizer step, over all ranks")
    micro_batch: Positive = Field(32, description="sequences of one forward pass on one rank")
    learning_rate: float = Field(5e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: Share = 0.05
    clip: float = Field(5.0, gt=0)
    compile: bool = False
    checkpoint_minutes: float = Field(10.0, gt=0)
    keep_checkpoints: Positive = 2
    evaluate_every: Positive | None = Field(
        None, description="steps between held-out evaluations; none: ten times"
    )
    heldout_tokens: Positive = Field(
        65_536, description="most held-out tokens that an evaluation reads"
    )
    trackers: list[str] = Field([], description="accelerate trackers: tensorboard, wandb, …")

    @model_validator(mode="before")
    @classmethod
    def _betas_from_toml(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("betas"), list):
            data = {**data, "betas": tuple(data["betas"])}
        return data

    @model_validator(mode="after")
    def _length(self) -> Self:
        given = [k for k in ("tokens", "epochs", "steps") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of tokens, epochs, steps; got {' and '.join(given) or 'none'}"
            )
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch}"
            )
        return self


class Evaluate(Section):
    tasks: list[str] = ["sentiment"]
    models: list[str] = ["teacher", "student-step0", "student"]
    seeds: Positive = 1
    epochs: Positive | None = Field(None, description="none: what the task's file says")
    train_limit: Positive | None = Field(None, description="examples; none: all")


class Export(Section):
    precisions: list[Precision] = ["fp32", "int8"]
    target: str = Field("host", description="device whose instruction set the artefact is made for")


class Profile(Section):
    devices: list[str] = Field(
        ["host"], description="host is measured; a board is predicted unless it is reached"
    )
    lengths: list[Positive] = [16, 32, 64, 128, 256]
    threads: list[Positive] | None = Field(None, description="none: 1 and all")
    sentence_pairs: Positive = Field(
        1500, description="pairs of the pass beside the paper's table 3 (STS-B's number)"
    )
    claim_pairs: Positive = Field(
        200, description="pairs over which two models take turns for the speed claim"
    )


class Recipe(Section):
    name: str = Field(min_length=1)
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 56
    world_size: Positive = Field(
        1, description="processes that the recipe is meant for; `--plan` reckons with them"
    )
    teacher: Teacher
    student: Student = Student()
    corpus: Corpus
    masking: Masking = Masking()
    loss: Loss = Loss()
    train: Train
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    profile: Profile = Profile()

    @property
    def sha256(self) -> str:
        """Digest of everything that the recipe says, defaults included."""
        return text_sha256(dump_recipe(self))


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """The recipe in a file: a path, or the name of a shipped recipe (`recipes/tiny.toml`, `tiny`).

    Args:
        path: The user's own file wins over a shipped one of the same name.
        overrides: `key=value` strings, dotted keys, TOML values: `train.tokens=1000`, `name="x"`.
    Raises:
        RecipeError: Missing, no TOML (line and column), or problems: all of them, with "did you mean".
    """
    found = find_shipped("recipes", str(path))
    if found is None:
        raise RecipeError(
            f"no recipe '{path}'", hint=f"shipped recipes: {', '.join(shipped_recipes())}"
        )
    try:
        data = tomllib.loads(found.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is no TOML: {error}") from error
    for override in overrides or []:
        _override(data, override)
    return parse_recipe(data, where=str(path))


def parse_recipe(data: dict[str, Any], *, where: str) -> Recipe:
    """A Recipe from parsed TOML.

    Raises:
        RecipeError: One line a problem, all problems.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {tell_problems(error, Recipe)}") from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every default written out; a key without a value is left out."""
    return tomlkit.dumps(recipe.model_dump(mode="json", exclude_none=True))


def write_recipe(path: Path, recipe: Recipe) -> None:
    write_text(path, dump_recipe(recipe))


def shipped_recipes() -> list[str]:
    from edgedistil.core.shipped import shipped_names

    return shipped_names("recipes")


def tell_problems(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems that pydantic found, a line each (on the same line when there is one), with "did you mean"."""
    lines = [_tell(problem, model) for problem in error.errors()]
    if len(lines) == 1:
        return lines[0]
    return f"{len(lines)} problems\n" + "\n".join(f"  {line}" for line in lines)


def _tell(problem: Any, model: type[BaseModel]) -> str:
    loc = [part for part in problem["loc"] if not _is_union_branch(part)]
    key = ".".join(str(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        known = list(_fields_at(model, loc[:-1]))
        close = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        advice = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"unknown key '{key}'; {advice}"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"'{key}' is {problem['input']!r}: {message}"


def _is_union_branch(part: Any) -> bool:
    """pydantic puts the tried branch of a union into the location: 'list[…]', "literal['alternate']"."""
    return isinstance(part, str) and ("[" in part or part in {"int", "float", "str", "bool"})


def _fields_at(model: type[BaseModel], loc: list[Any]) -> dict[str, Any]:
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                current = candidate
                break
    return dict(current.model_fields)


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: expected key=value, for example train.tokens=1000000")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: the shell has eaten the quotes
    *parents, last = key.strip().split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override}: '{parent}' is no section")
        node = child
    if last in {"tokens", "epochs", "steps"} and parents == ["train"]:
        for other in {"tokens", "epochs", "steps"} - {last}:
            node.pop(other, None)  # the three are one choice: setting one replaces the other
    node[last] = parsed

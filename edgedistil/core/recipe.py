"""Recipes: TOML files that say what is distilled, from which text, and what happens to the student.

A recipe is frozen and strict, and all its problems are reported at once. Functions below a stage's
entry take a section, never the complete recipe. `edgedistil recipe explain` prints the
descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit
from pydantic import Field, model_validator

from edgedistil.core.echo import echo
from edgedistil.core.errors import RecipeError
from edgedistil.core.options import MAX_LENGTH
from edgedistil.core.override import apply_override
from edgedistil.core.recipe_objective import LEAST_COMPARED_TEXTS, Objective
from edgedistil.core.recipe_stages import Evaluate, Export, Profile
from edgedistil.core.recipe_student import Student
from edgedistil.core.recipe_types import Epochs, Positive, Rate, Share, Temperature, Weight
from edgedistil.core.records import text_sha256
from edgedistil.core.rundir import write_text
from edgedistil.core.sentence_vector import Pooling
from edgedistil.core.shipped import find_shipped, plain_name, shipped_names
from edgedistil.core.toml import (
    StrictSection,
    check_exactly_one,
    did_you_mean,
    parse_section,
    read_toml,
)

# Below this a weight's share of the loss is beyond the digits of float32.
_SMALLEST_WEIGHT = 1e-6

# Keys of [train] of which a recipe has exactly one.
RUN_LENGTHS = ("tokens", "epochs", "steps")


class FitHead(StrictSection):
    """How an MLM head is fitted to a copy of a teacher without one."""

    # Five minutes on two quiet cores: docs/log.md#length-of-the-heads-training.
    steps: Positive = Field(750, le=10**9, description="Optimizer steps.")
    # Smaller batches cost more per token and gain nothing:
    # docs/log.md#batch-size-and-rate-of-the-head.
    batch_tokens: Positive = Field(2048, le=10**6, description="Tokens of one optimizer step.")
    learning_rate: Rate = Field(5e-4, description="Peak learning rate of the head.")
    # Above 0.05 the copy forgets what the teacher is good at:
    # docs/log.md#rate-of-the-encoder-while-a-head-is-fitted.
    encoder_rate: float = Field(
        0.0,
        ge=0,
        le=0.05,
        description="Learning rate of the copy's encoder as a share of the head's; 0 freezes it.",
    )
    warmup: Share = Field(0.1, description="Share of the steps with a rising learning rate.")


class Teacher(StrictSection):
    """The model that is distilled."""

    # One string rather than three keys, because every command takes a model in this form.
    source: str = Field(min_length=1, description="Hub id, folder, or asset:NAME.")
    revision: str | None = Field(None, description="Commit or tag of a hub model.")
    mlm_head: Literal["own", "fit"] = Field(
        "own",
        description="own uses the teacher's MLM head; fit trains one for an encoder without it.",
    )
    fit: FitHead = Field(FitHead(), description="How the head is fitted, with mlm_head = fit.")
    pooling: Pooling | None = Field(
        None,
        description="How the teacher pools; only for a folder that does not say so itself.",
    )
    # Many folders of the hub lack the prompts that their models were trained with.
    query_prompt: str | None = Field(
        None,
        min_length=1,
        description="Text put before queries; only for a folder that does not say so itself.",
    )
    document_prompt: str | None = Field(
        None,
        min_length=1,
        description="Text put before documents; only for a folder that does not say so itself.",
    )
    # .npy has its texts in a .jsonl of the same name.
    answers: str | None = Field(
        None,
        min_length=1,
        description="The corpus's texts with vectors from another model: .jsonl, .parquet or .npy.",
    )
    is_matryoshka: bool = Field(
        False,
        description="The first values of the vectors are vectors too, although the teacher's "
        "folder does not say so.",
    )


class SourceSpec(StrictSection):
    """One text source: exactly one of asset, files, hub."""

    asset: str | None = Field(
        None, min_length=1, description="Text of a pinned package, by its asset name."
    )
    files: str | None = Field(
        None,
        min_length=1,
        description="Path, glob or URL of .txt, .jsonl or .parquet files, also .gz and .zst.",
    )
    hub: str | None = Field(None, min_length=1, description="Id of a hub data set.")
    config: str | None = Field(None, description="Configuration of a hub data set.")
    split: str = Field("train", description="Split of a hub data set.")
    revision: str | None = Field(
        None, description="Commit or tag of a hub data set; part of the corpus cache's key."
    )
    field: str = Field(
        "text", description="Column with the text in .jsonl, .parquet and hub data sets."
    )
    query_field: str | None = Field(
        None,
        min_length=1,
        description="Column with a query of the text; it gets the teacher's prompt for queries.",
    )
    streaming: bool = Field(
        False, description="Read a hub data set over the network without storing it first."
    )
    licence: str = Field(
        "not stated", description="Licence shown in the record; assets have their own."
    )

    @model_validator(mode="after")
    def _check_one_origin(self) -> Self:
        check_exactly_one(self, ("asset", "files", "hub"))
        if self.query_field is not None and self.asset is not None:
            raise ValueError("query_field belongs to files and hub data sets; an asset has none")
        return self


class Corpus(StrictSection):
    """The text that the student is distilled on."""

    sources: list[SourceSpec] = Field(min_length=1, description="Text sources, read in order.")
    # auto is texts for the objective representation, otherwise packed.
    layout: Literal["auto", "packed", "lines", "texts"] = Field(
        "auto",
        description="Rows: packed across documents, one of the lines or texts each, or auto.",
    )
    # Queries are as short as sentences, documents as long as passages.
    sentence_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="With layout = texts, share of documents cut into sentences, not passages.",
    )
    block_length: Annotated[int, Field(ge=8, le=MAX_LENGTH)] = Field(
        128, description="Longest row in tokens, special tokens included."
    )
    heldout_share: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.02, description="Share of the documents that is held out from training."
    )
    heldout_max_documents: Positive = Field(
        2000, description="Largest number of held-out documents."
    )
    on_bad_utf8: Literal["refuse", "replace"] = Field(
        "refuse", description="Whether invalid UTF-8 is an error or is replaced by U+FFFD."
    )


class Masking(StrictSection):
    """Which tokens are masked in each step."""

    # rarity and its exponent are the original DistilBERT scripts' (XLM's smoothing).
    kind: Literal["bert", "rarity"] = Field(
        "bert", description="bert selects tokens uniformly; rarity prefers rare tokens."
    )
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.15, description="Share of the tokens that is selected."
    )
    rarity_exponent: Annotated[float, Field(ge=0, le=10)] = Field(
        0.7, description="With kind = rarity, tokens are drawn by frequency to minus this power."
    )


class Loss(StrictSection):
    """Weights of the three losses, and the tokens that they are computed on."""

    # Weights and temperature of the released DistilBERT, as in recipes/base.toml.
    soft_target: Weight = Field(
        5.0, description="Weight of the KL divergence from the teacher's token distribution."
    )
    mlm: Weight = Field(2.0, description="Weight of the cross-entropy of masked tokens.")
    cosine: Weight = Field(
        1.0, description="Weight of the cosine distance between last hidden states."
    )
    temperature: Temperature = Field(2.0, description="Temperature of the soft-target loss.")
    # "masked" halves the cost of a step on a small encoder:
    # docs/log.md#masked-positions-against-all-positions.
    positions: Literal["all", "masked"] = Field(
        "all", description="Tokens that the soft-target loss is computed on."
    )
    mean: Literal["step", "micro-batch"] = Field(
        "step",
        description="Average over the tokens of a step, or over micro-batches as the original did.",
    )

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.soft_target == self.mlm == self.cosine == 0:
            raise ValueError(
                "all loss weights are 0, so nothing would be trained;"
                " set soft_target, mlm or cosine"
            )
        for name in ("soft_target", "mlm", "cosine"):
            weight = getattr(self, name)
            if 0 < weight < _SMALLEST_WEIGHT:
                raise ValueError(
                    f"{name} is {weight}: expected 0 or at least {_SMALLEST_WEIGHT};"
                    " 0 leaves the loss out"
                )
        return self


class Train(StrictSection):
    """Length of the run, batches, optimizer and checkpoints."""

    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "auto",
        description="Compute type; auto is bfloat16 where native and, on a CPU, faster in a trial, "
        "otherwise float32.",
    )
    # Exactly one of tokens, epochs, steps.
    tokens: Annotated[int, Field(gt=0, le=10**15)] | None = Field(
        None, description="Length of the run in tokens."
    )
    epochs: Epochs | None = Field(None, description="Length of the run in epochs.")
    steps: Annotated[int, Field(gt=0, le=10**9)] | None = Field(
        None, description="Length of the run in optimizer steps."
    )
    global_batch: Annotated[int, Field(gt=0, le=2**20)] = Field(
        32, description="Sequences of one optimizer step, over all processes."
    )
    micro_batch: Annotated[int, Field(gt=0, le=2**14)] = Field(
        32, description="Sequences of one forward pass in one process; divides global_batch."
    )
    # Optimizer of the released DistilBERT, as in recipes/base.toml.
    learning_rate: Rate = Field(5e-4, description="Peak learning rate of AdamW.")
    betas: tuple[Share, Share] = Field((0.9, 0.98), description="Betas of AdamW.")
    # Smaller ones are 0 in float32, and a weight without a gradient would become NaN.
    epsilon: Annotated[float, Field(ge=1e-30, le=1)] = Field(1e-6, description="Epsilon of AdamW.")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Weight decay of AdamW."
    )
    warmup: Share = Field(0.05, description="Share of the steps with a rising learning rate.")
    clip: float = Field(5.0, gt=0, description="Largest gradient norm; larger ones are scaled.")
    compile: bool = Field(
        False, description="Compile with torch.compile: on a GPU both models, on a CPU the teacher."
    )
    # The most work that a crash can lose.
    checkpoint_minutes: float = Field(10.0, ge=1e-9, description="Minutes between checkpoints.")
    # Two, so that a corrupt newest checkpoint does not end the run.
    keep_checkpoints: Positive = Field(2, description="Newest checkpoints that are not deleted.")
    # A number of evaluations rather than of steps by default, so that it suits any length.
    evaluate_every: Positive | None = Field(
        None,
        description="Steps between held-out evaluations; by default for at most ten evaluations.",
    )
    heldout_tokens: Positive = Field(
        65_536, description="Largest number of held-out tokens in one evaluation."
    )
    state_cache_gib: Annotated[float, Field(ge=0, le=2**20)] = Field(
        16.0,
        description="Largest file of the teacher's states for later passes over the text, in GiB; "
        "0: no file.",
    )
    trackers: list[str] = Field(
        [], description="Trackers of accelerate, such as tensorboard or wandb."
    )

    @model_validator(mode="after")
    def _check_length_and_batches(self) -> Self:
        check_exactly_one(self, RUN_LENGTHS)
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of"
                f" micro_batch {self.micro_batch}"
            )
        return self


class Recipe(StrictSection):
    """Everything that decides a run's result."""

    name: str = Field(min_length=1, description="Name of the run, unless --run gives another.")
    description: str = Field("", description="One line for people.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        56, description="Seed of masks, order, dropout and random weights."
    )
    world_size: Positive = Field(
        1,
        le=100_000,
        description="Processes that the recipe is meant for; --plan estimates with them.",
    )
    teacher: Teacher = Field(description="The model that is distilled.")
    student: Student = Field(
        Student(), description="Depth, vocabulary and initial weights of the student."
    )
    corpus: Corpus = Field(description="The text that the student is distilled on.")
    masking: Masking = Field(Masking(), description="Which tokens are masked in each step.")
    objective: Objective = Field(Objective(), description="What the student learns.")
    loss: Loss = Field(Loss(), description="Weights of the three losses of the objective mlm.")
    train: Train = Field(description="Length, batches, optimizer and checkpoints.")
    evaluate: Evaluate = Field(Evaluate(), description="Labelled tasks for teacher and student.")
    export: Export = Field(Export(), description="ONNX artefacts of the student.")
    profile: Profile = Field(Profile(), description="What is profiled, and on which devices.")

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        if self.objective.similarity and self.train.micro_batch < LEAST_COMPARED_TEXTS:
            raise ValueError(
                "objective.similarity compares a text with at least two others of its micro-batch;"
                f" train.micro_batch is {self.train.micro_batch}; set it to {LEAST_COMPARED_TEXTS}"
                " or more"
            )
        if self.teacher.answers is None:
            return self
        if self.objective.kind == "mlm":
            raise ValueError('teacher.answers has vectors, and objective.kind is "mlm"')
        for name in ("states", "layers", "relations"):
            if getattr(self.objective, name):
                raise ValueError(
                    f"teacher.answers has vectors only, and objective.{name} compares token"
                    f" states; set objective.{name} = 0"
                )
        return self

    @property
    def sha256(self) -> str:
        """Digest of the recipe with every default written out."""
        return text_sha256(dump_recipe(self))


# --- reading and writing -----------------------------------------------------------------------


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe file, or a shipped recipe by its name (`recipes/tiny.toml`, `tiny`).

    Args:
        path: The user's own file has precedence over a shipped one of the same name.
        overrides: `key=value` strings, dotted keys, TOML values: `train.tokens=1000`, `name="x"`.
    Raises:
        RecipeError: The file is missing or not valid TOML (with line and column), or has
            problems; all of them are listed, with "did you mean".
    """
    file = find_shipped("recipes", str(path))
    if file is None:
        names = shipped_recipes()
        advice = did_you_mean(plain_name("recipes", str(path)), names)
        raise RecipeError(
            f"unknown recipe '{echo(path)}'{advice}",
            hint=f"expected a TOML file or one of: {', '.join(names)}",
        )
    data = read_toml(file, error=RecipeError, name=str(path))
    # Problems of these keys name the argument: the file does not have such a line.
    arguments = {}
    for override in overrides or []:
        key = apply_override(data, override, exclusive=[f"train.{name}" for name in RUN_LENGTHS])
        arguments[key] = f"--set {echo(override)}"
    return parse_recipe(data, where=str(path), arguments=arguments)


def parse_recipe(
    data: dict[str, Any], *, where: str, arguments: Mapping[str, str] | None = None
) -> Recipe:
    """Returns the recipe in parsed TOML.

    Args:
        data: Parsed TOML.
        where: Start of the message, usually the file's name.
        arguments: Dotted key → argument of the command line that set it.
    Raises:
        RecipeError: All problems, one line for each.
    """
    return parse_section(Recipe, data, where=where, error=RecipeError, arguments=arguments)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every default written out; keys without a value are left out."""
    return tomlkit.dumps(recipe.model_dump(mode="json", exclude_none=True))


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Writes a recipe with every default."""
    write_text(path, dump_recipe(recipe))


def shipped_recipes() -> list[str]:
    """Names of the shipped and the user's own recipes."""
    return shipped_names("recipes")

"""`edgedistil inspect`: what a model folder holds, and what can be done with it; loads no weights.

Everything comes from config.json, the tokenizer's files and the headers of the weights, by the
readers that the other commands use, so that their errors are the reasons here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import EdgeDistilError, ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.core.model_folder import ModelFolder, read_model_folder
from edgedistil.core.model_source import find_model
from edgedistil.core.sentence_modules import find_transformer, read_modules
from edgedistil.core.task import ENCODER_TASK, SENTENCE_TASK, TASKS
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_match import warn_of_doubts
from edgedistil.core.weight_headers import Shape, read_tensors, weight_files
from edgedistil.export.sentence_modules import omitted_parts
from edgedistil.export.source import read_source, why_no_sentence_vectors

# Activations that are one operator of a graph, by a pass of ours or in ONNX itself.
_FUSED_ACTIVATIONS = ("gelu", "gelu_python", "silu", "swish")
_PLAIN_ACTIVATIONS = ("relu", "tanh", "sigmoid", "leaky_relu", "hardswish", "linear")


@dataclass(frozen=True)
class Answer:
    """Whether something can be done with the model.

    Attributes:
        possible: Whether it can.
        reason: Why not, or what it needs; empty where there is nothing to say.
    """

    possible: bool
    reason: str = ""


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer as transformers reads it.

    Attributes:
        kind: WordPiece, BPE, Unigram or WordLevel.
        class_name: Class of transformers; None if tokenizer.json is read as it is.
        size: Number of ids.
        special: Role → token.
        max_length: Tokens of the longest text, by tokenizer and model; None without a limit.
        padding_side: right or left.
        frame: Special tokens in front of a text, and behind it.
        doubts: Facts for which it may be another model's.
    """

    kind: str
    class_name: str | None
    size: int
    special: dict[str, str]
    max_length: int | None
    padding_side: str
    frame: tuple[list[str], list[str]]
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What a model folder holds, and what can be done with it.

    Attributes:
        model: As the user called it.
        folder: Folder of config.json and weights.
        family: `model_type`.
        architectures: Classes that config.json names.
        shape: Name of a size → its value.
        parameters: Part of the model → stored parameters.
        file_bytes: Size of the weight files.
        dtypes: Type of the stored numbers → parameters.
        tokenizer: None if it cannot be read; `export` has the reason.
        tasks: Task → whether the folder has all weights for it.
        distil: Whether a student can be made of it.
        export: Whether it can be exported, for its own task.
        fused: Part of the graph → what the export makes of it; empty without an export.
        modules: Modules of sentence-transformers, in order.
        omitted: Parts of the folder that no export contains.
    """

    model: str
    folder: str
    family: str
    architectures: list[str]
    shape: dict[str, int]
    parameters: dict[str, int]
    file_bytes: int
    dtypes: dict[str, int]
    tokenizer: TokenizerFacts | None
    tasks: dict[str, Answer]
    distil: Answer
    export: Answer
    fused: dict[str, str] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    omitted: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns the facts as JSON has them."""
        return asdict(self)


def inspect_model(model: str) -> Inspection:
    """Reads what a model holds and what can be done with it.

    Args:
        model: Folder, hub id, or `asset:NAME`.
    Raises:
        ModelError: There is no such model, or it is not supported or damaged.
        OfflineError: The hub cannot be reached.
    """
    package_folder = find_model(model)
    source = read_model_folder(find_transformer(package_folder))
    # Shapes come from the headers of the files, so no weight is read.
    numbers = _float_shapes(source)
    tokenizer, tokenizer_problem = _attempt(lambda: read_tokenizer(source.folder, abridged=True))
    export = _export_answer(package_folder, tokenizer, tokenizer_problem)
    modules = [module.class_name for module in read_modules(package_folder)]
    return Inspection(
        model=model,
        folder=str(source.folder),
        family=source.family.model_type,
        architectures=source.architectures,
        shape=_shape(source),
        parameters=count_by_part(numbers, source.family),
        file_bytes=sum(file.stat().st_size for file in weight_files(source.folder)),
        dtypes=_dtypes(source, numbers),
        tokenizer=None if tokenizer is None else _tokenizer_facts(tokenizer),
        tasks=_task_answers(source, package_folder, tokenizer_problem),
        distil=_distil_answer(source, tokenizer_problem),
        export=export,
        fused=_fused(source) if export.possible else {},
        modules=modules,
        omitted=omitted_parts(package_folder, has_modules=bool(modules)),
    )


def _attempt(read: Callable[[], TextTokenizer]) -> tuple[TextTokenizer | None, str]:
    """Returns a tokenizer, or None and why it cannot be read."""
    try:
        return read(), ""
    except ModelError as error:
        return None, str(error.message)


# --- sizes ---------------------------------------------------------------------------------------


def _shape(source: ModelFolder) -> dict[str, int]:
    family, config = source.family, source.config
    sizes = {
        "layers": family.layers(config),
        "hidden": family.hidden(config),
        "heads": family.heads(config),
        "intermediate": int(config[family.keys.intermediate]),
        "vocabulary": family.vocabulary(config),
        "positions": family.positions_limit(config),
        "token types": family.segments(config),
    }
    if family.factorises(config):
        sizes["embedding"] = family.word_width(config)
    return sizes


def count_by_part(shapes: Mapping[str, Shape], family: FamilyInfo) -> dict[str, int]:
    """Returns the stored parameters of each part of a model, by the names of the weights.

    Args:
        shapes: Name of each weight → its shape.
        family: Family of the model.
    """
    names = family.names
    parts = {"word embeddings": 0, "other embeddings": 0, "layers": 0, "pooler": 0, "head": 0}
    for weight, shape in shapes.items():
        # A head alone is saved without the encoder's prefix, an encoder alone too.
        name = weight.removeprefix(f"{family.module_prefix}.")
        if name.startswith(f"{names.word_embedding}."):
            part = "word embeddings"
        elif name.startswith(f"{names.layers.split('.')[0]}."):
            part = "layers"
        elif name.startswith("pooler."):
            part = "pooler"
        elif name.startswith((f"{names.embeddings}.", "embeddings_project.")):
            part = "other embeddings"
        else:
            part = "head" if name == weight else "layers"
        parts[part] += math.prod(shape)
    return {part: count for part, count in parts.items() if count}


def _float_shapes(source: ModelFolder) -> dict[str, Shape]:
    """Shapes of the weights, without the position ids that older versions stored with them."""
    return {name: shape for name, shape in source.shapes.items() if "position_ids" not in name}


def _dtypes(source: ModelFolder, numbers: Mapping[str, Shape]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in weight_files(source.folder):
        for name, tensor in read_tensors(file).items():
            if name in numbers:
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return counts


# --- tokenizer -----------------------------------------------------------------------------------


def _tokenizer_facts(tokenizer: TextTokenizer) -> TokenizerFacts:
    limits = [n for n in (tokenizer.max_length, tokenizer.positions) if n is not None]
    before, after = (
        [str(tokenizer.backend.id_to_token(token_id)) for token_id in ids]
        for ids in tokenizer.framing
    )
    return TokenizerFacts(
        kind=type(tokenizer.backend.model).__name__,
        class_name=tokenizer.class_name,
        size=tokenizer.size,
        special={
            name.removesuffix("_token"): token for name, token in sorted(tokenizer.roles.items())
        },
        max_length=min(limits, default=None),
        padding_side=tokenizer.padding_side,
        frame=(before, after),
        doubts=tokenizer.doubts,
    )


# --- what can be done ----------------------------------------------------------------------------


def _export_answer(
    package_folder: Path, tokenizer: TextTokenizer | None, tokenizer_problem: str
) -> Answer:
    try:
        read_source(package_folder, name="model", role="other", task=None, tokenizer=tokenizer)
    except EdgeDistilError as error:
        reason = tokenizer_problem or str(error.message)
        return Answer(False, reason if error.hint is None else f"{reason} ({error.hint})")
    return Answer(True)


def _task_answers(
    source: ModelFolder, package_folder: Path, tokenizer_problem: str
) -> dict[str, Answer]:
    """Whether each task can be exported: by the weights, by the modules, and by the tokenizer."""
    answers = {**_tasks(source), SENTENCE_TASK: _sentence_answer(package_folder)}
    if not tokenizer_problem:
        return answers
    unread = Answer(False, "its tokenizer cannot be used")
    return {task: unread if answer.possible else answer for task, answer in answers.items()}


def _sentence_answer(package_folder: Path) -> Answer:
    """Whether the graph of an encoder has sentence vectors."""
    reason = why_no_sentence_vectors(package_folder)
    return Answer(reason is None, reason or "sentence vectors, by its modules")


def _tasks(source: ModelFolder) -> dict[str, Answer]:
    """Whether the folder has the weights that each task needs."""
    answers: dict[str, Answer] = {}
    for name, task in TASKS.items():
        ending = task.architectures[0]
        declared = any(own.endswith(task.architectures) for own in source.architectures)
        if ending in source.family.missing_heads:
            answer = Answer(False, f"transformers has no such head of {source.family.model_type}")
        elif name == ENCODER_TASK or (declared and _has_head(source)):
            answer = Answer(True)
        else:
            answer = Answer(False, "the folder has no weights of this head")
        answers[name] = answer
    return answers


def _has_head(source: ModelFolder) -> bool:
    return "head" in count_by_part(source.shapes, source.family)


def _distil_answer(source: ModelFolder, tokenizer_problem: str) -> Answer:
    """Whether the model can be a teacher of masked words."""
    family = source.family
    if tokenizer_problem:
        return Answer(False, tokenizer_problem)
    head = family.mlm_head
    if head is None:
        return Answer(False, f"transformers has no masked-LM head of {family.model_type}")
    projects = f"{head.dense or head.projection}.weight"
    if projects not in source.shapes:
        return Answer(True, "it has no masked-LM head: distil fits one first")
    return Answer(True)


def _fused(source: ModelFolder) -> dict[str, str]:
    """What the export makes of the parts of a layer."""
    layers = source.family.layers(source.config)
    activation = str(source.config[source.family.keys.activation])
    if activation in _FUSED_ACTIVATIONS:
        shown = "one operator"
    elif activation in _PLAIN_ACTIVATIONS:
        shown = "an operator of ONNX"
    else:
        shown = "several operators: no runtime has one for it"
    return {"attention": f"one operator in each of {layers} layers", activation: shown}


# --- on the terminal -----------------------------------------------------------------------------


def show_inspection(inspection: Inspection) -> None:
    """Prints an inspection as tables."""
    classes = ", ".join(inspection.architectures) or "no class named"
    total = sum(inspection.parameters.values())
    proof = FAMILIES[inspection.family].proof_in_words
    rows = [["family", f"{inspection.family} ({classes})"], ["this tool's tests", proof]]
    rows += [[name, f"{value:,}"] for name, value in inspection.shape.items()]
    rows += [[f"parameters, {part}", f"{count:,}"] for part, count in inspection.parameters.items()]
    stored = ", ".join(f"{dtype} {count / total:.0%}" for dtype, count in inspection.dtypes.items())
    rows.append(["parameters, all", f"{total:,}: {inspection.file_bytes / 1e6:,.1f} MB ({stored})"])
    if inspection.modules:
        rows.append(["sentence-transformers", ", ".join(inspection.modules)])
    console.table(inspection.model, ["", ""], rows)
    if inspection.tokenizer is not None:
        console.table("Tokenizer", ["", ""], _tokenizer_rows(inspection.tokenizer))
        warn_of_doubts(inspection.model, inspection.tokenizer.doubts)
    console.table("What can be done", ["", "", ""], _answer_rows(inspection))
    for part in inspection.omitted:
        console.warn(f"no export contains {part}")


def _tokenizer_rows(facts: TokenizerFacts) -> list[list[str]]:
    before, after = facts.frame
    length = "no limit" if facts.max_length is None else f"{facts.max_length:,} tokens"
    special = ", ".join(f"{role} {token}" for role, token in facts.special.items())
    return [
        ["kind", f"{facts.kind} ({facts.class_name or 'tokenizer.json as it is'})"],
        ["ids", f"{facts.size:,}"],
        ["special tokens", special or "none named"],
        ["a text", " ".join([*before, "text", *after])],
        ["longest text", length],
        ["padding", facts.padding_side],
    ]


def _answer_rows(inspection: Inspection) -> list[list[str]]:
    rows = [_answer_row("distil", inspection.distil), _answer_row("export", inspection.export)]
    rows += [
        _answer_row(f"export --task {task}", answer) for task, answer in inspection.tasks.items()
    ]
    rows += [[f"fused: {part}", "", form] for part, form in inspection.fused.items()]
    return rows


def _answer_row(name: str, answer: Answer) -> list[str]:
    return [name, "yes" if answer.possible else "no", answer.reason]

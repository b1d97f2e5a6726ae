"""Builds the contract of an export folder from its graphs, config and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx

from edgedistil.core.contract import (
    FORMAT,
    INPUT_MEANINGS,
    SENTENCE_MEANING,
    Contract,
    FramePart,
    SpecialToken,
    TensorContract,
    TokenizerContract,
)
from edgedistil.core.errors import ModelError
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.task import (
    SENTENCE_OUTPUT,
    TASKS,
    Task,
    label_names,
    problem_type_of,
)
from edgedistil.core.tokenizer import Frame, TextPlace, TextTokenizer, read_tokenizer

_DTYPES: dict[int, Literal["int64", "float32"]] = {
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.FLOAT: "float32",
}


def build_contract(
    folder: Path,
    *,
    task: Task,
    config: Mapping[str, Any],
    max_length: int,
    vector: SentenceVector | None,
    unsupported: str | None,
) -> Contract:
    """Returns the contract of a package.

    Args:
        folder: Holds `onnx/` and the tokenizer's files.
        task: What the graphs compute.
        config: config.json of the package.
        max_length: Tokens of an input at most.
        vector: How an encoder makes sentence vectors; None for other tasks, and where the graph
            cannot.
        unsupported: Why the graph cannot.
    Raises:
        ModelError: The graphs have different inputs or outputs, or one without a meaning.
    """
    # Every precision's graph has to agree on inputs and outputs.
    inputs, outputs = read_tensors(folder, task)
    row = TASKS[task]
    # Only scores of sequences and tokens have names.
    labels = label_names(config) if row.level in ("sequence", "token") else []
    return Contract(
        format=FORMAT,
        task=task,
        inputs=inputs,
        outputs=outputs,
        tokenizer=tokenizer_contract(read_tokenizer(folder), max_length),
        problem_type=problem_type_of(task, config.get("problem_type"), len(labels)),
        labels=labels,
        sentence_vector=vector,
        unsupported=unsupported,
    )


def read_tensors(folder: Path, task: Task) -> tuple[list[TensorContract], list[TensorContract]]:
    """Returns inputs and outputs of the graphs in a package, which are the same for all.

    Raises:
        ModelError: They differ, or one has no known meaning.
    """
    row = TASKS[task]
    meanings = dict(zip(row.outputs, row.meanings, strict=True))
    meanings[SENTENCE_OUTPUT] = SENTENCE_MEANING
    tensors: list[tuple[list[TensorContract], list[TensorContract]]] = []
    paths = sorted((folder / "onnx").glob("*.onnx"))
    for path in paths:
        graph = onnx.load(path, load_external_data=False).graph
        inputs = _tensors(graph.input, INPUT_MEANINGS, path)
        tensors.append((inputs, _tensors(graph.output, meanings, path)))
        if tensors[-1] != tensors[0]:
            raise ModelError(f"{path} has other inputs or outputs than {paths[0]}")
    return tensors[0]


def _tensors(
    values: Sequence[onnx.ValueInfoProto], meanings: Mapping[str, str], path: Path
) -> list[TensorContract]:
    tensors = []
    for value in values:
        kind = value.type.tensor_type
        if value.name not in meanings or kind.elem_type not in _DTYPES:
            raise ModelError(
                f"{path} has the input or output '{value.name}' of type {kind.elem_type}; "
                f"expected {', '.join(meanings)} in {', '.join(_DTYPES.values())}"
            )
        tensors.append(
            TensorContract(
                name=value.name,
                dtype=_DTYPES[kind.elem_type],
                shape=[dim.dim_param or dim.dim_value for dim in kind.shape.dim],
                meaning=meanings[value.name],
            )
        )
    return tensors


def tokenizer_contract(tokenizer: TextTokenizer, max_length: int) -> TokenizerContract:
    """Returns how a tokenizer's texts become inputs of at most `max_length` tokens."""
    special = {}
    for name, token in sorted(tokenizer.roles.items()):
        role = name.removesuffix("_token")
        special[role] = SpecialToken(token=token, id=tokenizer.require(role))
    single, pair = (_parts(frame) for frame in tokenizer.frames)
    return TokenizerContract(
        max_length=max_length,
        truncation_side=tokenizer.truncation_side,
        padding_side=tokenizer.padding_side,
        pad_id=tokenizer.pad_id,
        splits_special_tokens=tokenizer.backend.encode_special_tokens,
        special_tokens=special,
        single=single,
        pair=pair,
    )


def _parts(frame: Frame) -> list[FramePart]:
    parts = []
    for part in frame:
        if isinstance(part, TextPlace):
            parts.append(FramePart(text=part.number, id=None, type_id=part.type_id))
        else:
            parts.append(FramePart(text=None, id=part.token_id, type_id=part.type_id))
    return parts

"""Encoders with a head for a labelled task: build, save, load and run them in PyTorch."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from edgedistil.core.errors import ModelError
from edgedistil.core.model_folder import read_model_folder
from edgedistil.core.rundir import replacing, tree_manifest
from edgedistil.core.task import TASKS
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.evaluate.cells import KEY_FILE, WeightsStamp
from edgedistil.evaluate.encode import Encoded, Ids, open_tokenizer, pad_id
from edgedistil.evaluate.kind import TaskKind, TrainingRow
from edgedistil.evaluate.scoring import Forward, Logits, all_logits
from edgedistil.models.loading import draw_head, load_config, load_weights
from edgedistil.models.quiet import quiet
from edgedistil.models.reduced import build_from_config, class_for

# The arrays of a batch, as the arguments of transformers' models are called.
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

# Sizes of a model's tables in its configuration: the unit of a table, and what to do about it.
_MEANING = {
    "max_position_embeddings": "positions",
    "vocab_size": "token ids",
    "type_vocab_size": "token types",
}
_SAME_SOURCE = "take tokenizer and model from the same source"
_REMEDY = {
    "max_position_embeddings": "lower max_length in the task's file",
    "vocab_size": _SAME_SOURCE,
    "type_vocab_size": _SAME_SOURCE,
}


# --- files ---------------------------------------------------------------------------------------


def build_task_model(
    folder: Path,
    kind: TaskKind,
    *,
    classes: Sequence[str],
    seed: int,
    random_weights: bool = False,
) -> PreTrainedModel:
    """Builds a model from an encoder and a new head.

    Args:
        folder: Folder of the encoder, with weights in safetensors.
        kind: Kind of the task, which decides the head.
        classes: Names of the classes; empty where labels are not classes.
        seed: Seed of all weights that are initialized at random.
        random_weights: Also initialize the encoder at random.
    Returns:
        Model in float32.
    Raises:
        ModelError: The folder has no model that can be fine-tuned, or one that is damaged.
    """
    source = read_model_folder(folder)
    config = load_config(source)
    kind.configure(config, classes)
    # Everything that follows draws from this seed: head, dropout and the order of the data.
    set_seed(seed)
    auto_class = _auto_class(kind)
    if random_weights:
        return _draw_model(auto_class, config)
    # A checkpoint may have a head of its own, for another task or other labels.
    loaded = load_weights(auto_class, source, config, fresh_head=True)
    draw_head(loaded)
    task_model: PreTrainedModel = loaded.model
    return task_model


def _draw_model(auto_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    model_class = class_for(auto_class, config)
    return build_from_config(model_class, config, dtype=torch.float32)


def save_task_model(
    model: PreTrainedModel, tokenizer_folder: Path, folder: Path, *, key: str
) -> None:
    """Saves a fine-tuned model with its tokenizer, as a folder that transformers loads.

    The folder appears complete or not at all.

    Args:
        model: The model.
        tokenizer_folder: Folder that the tokenizer's files are copied from.
        folder: Folder to write.
        key: Digest of the cell's inputs, written next to the weights with their digests.
    """
    with replacing(folder) as aside, quiet():
        # transformers writes weights and configuration; the tokenizer is copied unchanged.
        model.save_pretrained(aside)
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, aside / name)
        stamp = WeightsStamp(key=key, files=tree_manifest(aside))
        (aside / KEY_FILE).write_text(stamp.model_dump_json(), encoding="utf-8")


def load_task_model(folder: Path, kind: TaskKind) -> PreTrainedModel:
    """Loads a model that `save_task_model` wrote, in eval mode."""
    source = read_model_folder(folder)
    loaded = load_weights(_auto_class(kind), source, load_config(source))
    model: PreTrainedModel = loaded.model
    return model.eval()


def _auto_class(kind: TaskKind) -> Any:
    return getattr(transformers, TASKS[kind.task].auto_class)


def check_fits(model: PreTrainedModel, sequences: Sequence[Encoded]) -> None:
    """Raises ModelError if sequences have ids or positions that the model's tables do not have.

    torch would stop in the middle of training, and on a GPU without a message.
    """
    sizes = {
        "max_position_embeddings": max(len(sequence.input_ids) for sequence in sequences),
        "vocab_size": 1 + max(chain.from_iterable(sequence.input_ids for sequence in sequences)),
    }
    # DistilBERT takes no token types.
    if "token_type_ids" in accepted_inputs(model):
        sizes["type_vocab_size"] = 1 + max(
            chain.from_iterable(sequence.type_ids for sequence in sequences)
        )
    for key, size in sizes.items():
        limit = getattr(model.config, key, None)
        if isinstance(limit, int) and size > limit:
            raise ModelError(
                f"a sequence of the task needs {size:,} {_MEANING[key]}, "
                f"and the model has {limit:,} ({key})",
                hint=_REMEDY[key],
            )


# --- running -------------------------------------------------------------------------------------


def torch_forward(model: PreTrainedModel, kind: TaskKind) -> Forward:
    """Returns a function that runs batches in float32 and eval mode, on the model's device."""
    model.eval()
    accepted = accepted_inputs(model)

    @torch.inference_mode()
    def forward(input_ids: Ids, mask: Ids, type_ids: Ids) -> Logits:
        batch = batch_tensors((input_ids, mask, type_ids), accepted)
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        outputs = model(**inputs)
        return tuple(outputs[name].float().cpu().numpy() for name in kind.outputs)

    return forward


def accepted_inputs(model: PreTrainedModel) -> set[str]:
    """Returns the names of the forward arguments that the model has tables for."""
    names = set(inspect.signature(model.forward).parameters)
    # DistilBERT takes no token types, and a model with a single segment has one row for them.
    if getattr(model.config, "type_vocab_size", 1) == 1:
        names.discard("token_type_ids")
    return names


def batch_tensors(batch: tuple[Ids, Ids, Ids], accepted: set[str]) -> dict[str, Tensor]:
    """Returns input ids, attention mask and token types as tensors, without those not accepted."""
    # The same arrays feed the ONNX artefact, by the same names.
    named = dict(zip(_MODEL_INPUTS, batch, strict=True))
    return {name: torch.from_numpy(array) for name, array in named.items() if name in accepted}


def teacher_logits(
    folder: Path, rows: Sequence[TrainingRow], kind: TaskKind, tokenizer: TextTokenizer
) -> list[Logits]:
    """Computes the soft targets of training rows.

    Args:
        folder: Folder of the fine-tuned teacher.
        rows: Rows that the student is trained on.
        kind: Kind of the task.
        tokenizer: The student's tokenizer.
    Returns:
        The teacher's outputs for each row.
    Raises:
        ModelError: The vocabularies of teacher and student differ.
    """
    # The teacher reads the student's token ids, so the ids have to mean the same tokens.
    if open_tokenizer(folder).backend.get_vocab() != tokenizer.backend.get_vocab():
        raise ModelError(
            f"the vocabulary of the teacher in {folder} differs from the student's: "
            "soft targets need the same token ids"
        )
    model = load_task_model(folder, kind)
    check_fits(model, [row.encoded for row in rows])
    # The Trainer moves the student by itself; this model is only run.
    if torch.cuda.is_available():
        model.to("cuda")
    return all_logits(
        torch_forward(model, kind),
        [row.encoded for row in rows],
        pad_id(tokenizer),
        per_token=kind.per_token,
        label="soft targets",
    )


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Sets the number of PyTorch's threads inside the block; None leaves it unchanged."""
    # The setting is global to the process, so it is restored.
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    # After a fork the tokenizers library asks for an explicit choice and warns without one.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""The teacher: a BERT from a pinned package, a folder, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.model_folder import ModelFolder, read_model_folder
from edgedistil.core.model_source import ASSET_PREFIX, find_model
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.models.loading import listed, load_config, load_weights
from edgedistil.models.tokenizer import warn_if_read_otherwise

# Tokens that masked-language modelling needs; what frames a text is the tokenizer's own.
_SPECIAL_TOKENS = ("pad", "mask")


@dataclass(frozen=True)
class Teacher:
    """A model to distil; its MLM head may still have to be fitted.

    Attributes:
        model: In float32 and eval mode; its head is untrained where `has_mlm_head` is false.
        tokenizer: Its tokenizer, which has a padding and a mask token.
        folder: Safetensors, config and tokenizer files, which other stages read.
        has_mlm_head: Whether the checkpoint has a trained MLM head.
        name: Last part of the source, for records.
    """

    model: PreTrainedModel
    tokenizer: TextTokenizer
    folder: Path
    has_mlm_head: bool
    name: str


def load_teacher(source: str, *, revision: str | None, cache: Path) -> Teacher:
    """Loads a teacher, downloading it first if it is not on this machine.

    Args:
        source: `asset:NAME`, a folder, or a hub id.
        revision: Commit or tag of a hub model.
        cache: Root of the cache; assets are unpacked below it.
    Raises:
        ModelError: The model does not exist, is of a family that is not supported, has no weights
            in safetensors, is damaged, or has a tokenizer of a larger vocabulary.
        OfflineError: The model must be downloaded and cannot be.
    """
    folder = find_model(source, revision=revision, cache=cache)
    name = source.removeprefix(ASSET_PREFIX).rstrip("/").rsplit("/", 1)[-1]
    return read_teacher(folder, name=name)


def read_teacher(folder: Path, *, name: str) -> Teacher:
    """Reads the teacher in a folder.

    Args:
        folder: Safetensors, config and tokenizer files.
        name: Name in records.
    Raises:
        ModelError: As in `load_teacher`.
    """
    # The cheap checks come first: reading the weights takes seconds.
    source = read_model_folder(folder, subject="the teacher")
    _check_tied(source)
    tokenizer = read_tokenizer(folder)
    for kind in _SPECIAL_TOKENS:
        tokenizer.require(kind)
    warn_if_read_otherwise(tokenizer)
    has_head = _has_head(source)
    model = _read_model(source, has_head)
    return Teacher(model, tokenizer, folder, has_head, name)


def _has_head(source: ModelFolder) -> bool:
    """Whether a checkpoint has a trained MLM head; sentence encoders come without one."""
    names = source.family.mlm_head
    if names is None:
        return False
    dense = names.dense or names.projection
    # DeBERTa's other head.
    others = ["lm_predictions.lm_head.dense"] if source.config.get("legacy") is False else []
    return any(f"{module}.weight" in source.shapes for module in [dense, *others])


def _check_tied(source: ModelFolder) -> None:
    """Raises ModelError if the head projects with another matrix than a student's would."""
    names = source.family.mlm_head
    # Of the other families a student has the teacher's own class, with whatever head it has.
    if source.family.model_type != "bert" or names is None:
        return
    own_projection = f"{names.projection}.weight"
    # A DistilBERT has one matrix for both, and would be trained on the outputs of another head.
    if source.config.get("tie_word_embeddings") is False and own_projection in source.shapes:
        raise ModelError(
            f"the teacher in {source.folder} has an MLM head with a matrix of its own "
            "(tie_word_embeddings = false); supported: heads tied to the word embeddings"
        )


def _read_model(source: ModelFolder, has_head: bool) -> PreTrainedModel:
    """Reads the weights; a head that is not among them is drawn."""
    config = load_config(source)
    if source.family.model_type == "bert":
        config.tie_word_embeddings = True
    with torch.random.fork_rng(devices=[]):
        # A head that is still to be fitted starts the same in every run and process.
        torch.manual_seed(0)
        loaded = load_weights(AutoModelForMaskedLM, source, config)
    missing = loaded.missing
    if not has_head:
        encoder = f"{loaded.model.base_model_prefix}."
        missing = [name for name in missing if name.startswith(encoder)]
    # transformers draws missing weights with a warning only.
    if missing:
        raise ModelError(
            f"the weights in {source.folder} lack {listed(missing)}; "
            f"expected all weights of a {source.family.model_type}"
        )
    model: PreTrainedModel = loaded.model.eval()
    return model

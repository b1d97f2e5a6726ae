"""Loads checked model folders with transformers; every way in which that fails is one error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.library_errors import library_errors
from edgedistil.core.model_folder import ModelFolder, shape_mismatch
from edgedistil.models.quiet import quiet
from edgedistil.models.reduced import class_for

# Missing weights that an error lists by name.
_LISTED_WEIGHTS = 3
_DAMAGED_HINT = "the file may be truncated or damaged: copy or download it again"


@dataclass(frozen=True)
class LoadedModel:
    """A model and where its weights come from.

    Attributes:
        folder: Where the files are.
        model: In float32.
        missing: Names of weights that the files lack; they are drawn at random.
        mismatched: Names of weights that the files have in another shape; drawn at random, too.
    """

    folder: Path
    model: Any
    missing: list[str]
    mismatched: list[str]


def load_config(source: ModelFolder) -> PreTrainedConfig:
    """Returns transformers' config of a checked folder, with the outputs that our code reads.

    Raises:
        ModelError: transformers cannot read it.
    """
    with library_errors(f"cannot read {source.folder / 'config.json'}"), quiet():
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    # A config may ask for tuples, for more outputs, or for a slower path with the same result.
    config.return_dict = True
    config.output_hidden_states = config.output_attentions = False
    config.chunk_size_feed_forward = 0
    return config


def load_weights(
    model_class: Any,
    source: ModelFolder,
    config: PreTrainedConfig,
    *,
    fresh_head: bool = False,
) -> LoadedModel:
    """Loads the weights of a checked folder into a model, in float32.

    Args:
        model_class: Class, or auto class, of transformers.
        source: The folder.
        config: Its config; it decides the shapes.
        fresh_head: Whether weights outside the encoder may have another shape in the files; they
            are drawn then.
    Raises:
        ModelError: The files cannot be read, hold NaN or infinite values, or have a weight in
            another shape.
    """
    folder = source.folder
    with library_errors(f"cannot read the weights in {folder}", hint=_DAMAGED_HINT), quiet():
        model, report = class_for(model_class, config).from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            # A folder with safetensors only: nothing is downloaded, and no pickle is read.
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            # The report names the weight and both shapes; the exception does not.
            ignore_mismatched_sizes=True,
        )
    mismatched = []
    for name, stored, expected in sorted(report["mismatched_keys"]):
        if not fresh_head or name.startswith(f"{model.base_model_prefix}."):
            raise shape_mismatch(folder, name, stored=stored, expected=expected)
        mismatched.append(name)
    _check_finite(model, source)
    return LoadedModel(folder, model, sorted(report["missing_keys"]), mismatched)


def listed(weights: list[str]) -> str:
    """Returns names of weights for a message: the first ones, and how many more there are."""
    names = ", ".join(weights[:_LISTED_WEIGHTS])
    if len(weights) > _LISTED_WEIGHTS:
        names += f" and {len(weights) - _LISTED_WEIGHTS} more"
    return names


def draw_head(loaded: LoadedModel) -> None:
    """Draws the weights outside the encoder that came from the files.

    A head of the same shape is one for other labels all the same. Weights that the files lack have
    been drawn already, so a checkpoint without a head is left as it is.

    Raises:
        ModelError: The files lack weights of the encoder.
    """
    model = loaded.model
    encoder = f"{model.base_model_prefix}."
    # Every BERT has a pooler, and few checkpoints have its weights.
    lacking = [name for name in loaded.missing if name.startswith(encoder)]
    lacking = [name for name in lacking if "pooler." not in name]
    if lacking:
        raise ModelError(
            f"the weights in {loaded.folder} lack {listed(lacking)}; expected all of the encoder's"
        )
    drawn = {*loaded.missing, *loaded.mismatched}
    for name, parameter in model.named_parameters():
        if name.startswith(encoder) or name in drawn:
            continue
        # As transformers initialises the linear layers of its heads.
        if name.endswith(".bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=model.config.initializer_range)


def drop_missing_pooler(loaded: LoadedModel) -> None:
    """Removes a pooler whose weights are not in the files, so that it counts as no part of it."""
    model: PreTrainedModel = loaded.model.base_model
    if getattr(model, "pooler", None) is None:
        return
    if any("pooler." in name for name in loaded.missing):
        model.pooler = None


def _check_finite(model: nn.Module, source: ModelFolder) -> None:
    """Raises ModelError if a weight holds NaN or infinite values."""
    for name, parameter in model.named_parameters():
        bad = parameter.numel() - int(torch.isfinite(parameter).sum())
        if bad:
            raise ModelError(
                f"the model in {source.folder} is damaged: {bad:,} of {parameter.numel():,} values "
                f"of '{name}' are NaN or infinite",
                hint="its training diverged, or the file is damaged: take an earlier checkpoint",
            )

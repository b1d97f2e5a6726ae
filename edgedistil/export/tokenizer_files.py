"""Tokenizer files of a package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.family import FAMILIES
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_save import save_tokenizer


def write_tokenizer(
    folder: Path,
    source_folder: Path,
    config: Mapping[str, Any],
    *,
    input_names: Sequence[str],
    longest: int | None = None,
) -> int:
    """Writes the tokenizer files of a package.

    Args:
        folder: The package; holds config.json.
        source_folder: Holds the model's tokenizer.
        config: config.json of the package.
        input_names: Inputs of the graph; clients must not feed any other.
        longest: Tokens at which sentence-transformers cuts texts; None if it does not say.
    Returns:
        Tokens that a client truncates to.
    Raises:
        ModelError: The folder has no tokenizer that can be read.
    """
    tokenizer = read_tokenizer(source_folder)
    family = FAMILIES[config["model_type"]]
    # A tokenizer may declare no limit, and a model has positions for so many tokens only.
    positions = family.positions_limit(config)
    max_length = min(tokenizer.max_length or positions, positions, longest or positions)
    save_tokenizer(
        tokenizer,
        folder,
        class_name=family.tokenizer_class,
        input_names=input_names,
        max_length=max_length,
    )
    return max_length

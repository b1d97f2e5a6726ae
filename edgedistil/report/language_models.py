"""Parameter counts of published language models, as in figure 1 of Sanh et al. 2019."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from edgedistil.report.table import TableData


@dataclass(frozen=True)
class LanguageModel:
    """A published model.

    Attributes:
        name: Name in plots.
        year: Year of its first public version.
        parameters: Number of parameters, in millions.
        source: Paper, and what confirmed the count.
    """

    name: str
    year: int
    parameters: float
    source: str


def language_models() -> list[LanguageModel]:
    """Reads the list that is part of the package."""
    path = resources.files("edgedistil.report").joinpath("language_models.toml")
    # The file is part of the package and covered by tests, so it is not validated here.
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["model"]
    return [LanguageModel(**row) for row in rows]


def language_model_table(models: Sequence[LanguageModel]) -> TableData:
    """Published models, smallest first, each with the source of its count."""
    rows = [
        [model.name, str(model.year), f"{model.parameters:,g}", model.source]
        # Smallest first, as in the plot from bottom to top.
        for model in sorted(models, key=lambda model: model.parameters)
    ]
    columns = ["model", "year", "million parameters", "source"]
    return TableData("Published language models", columns, rows)

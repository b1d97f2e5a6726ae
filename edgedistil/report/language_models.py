"""Parameter counts of well-known language models: what figure 1 of Sanh et al. 2019 puts a student beside."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from edgedistil.report.tables import TableData


@dataclass(frozen=True)
class LanguageModel:
    """A published model. `parameters` in millions, `year` of its first public version."""

    name: str
    year: int
    parameters: float
    source: str


def language_models() -> list[LanguageModel]:
    """The packaged list."""
    text = (
        resources.files("edgedistil.report")
        .joinpath("language_models.toml")
        .read_text(encoding="utf-8")
    )
    return [LanguageModel(**row) for row in tomllib.loads(text)["model"]]


def language_model_table(models: Sequence[LanguageModel]) -> TableData:
    """Smallest first, each with where its count was found."""
    rows = [
        [m.name, str(m.year), f"{m.parameters:,g}", m.source]
        for m in sorted(models, key=lambda m: m.parameters)
    ]
    return TableData(
        "Language models in the picture", ["model", "year", "million parameters", "source"], rows
    )

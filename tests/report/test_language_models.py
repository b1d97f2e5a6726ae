"""The data behind the plot of parameter counts: complete, sourced, with the paper's two models."""

import tomllib
from pathlib import Path

import edgedistil.report

ROWS = tomllib.loads((Path(edgedistil.report.__file__).parent / "language_models.toml").read_text(encoding="utf-8"))


def test_every_model_has_a_year_a_count_and_a_source() -> None:
    assert len(ROWS["model"]) >= 10
    for row in ROWS["model"]:
        assert set(row) == {"name", "year", "parameters", "source"}
        assert 2018 <= row["year"] <= 2026
        assert row["parameters"] > 0
        assert "et al." in row["source"]


def test_the_papers_pair_is_there() -> None:
    counts = {row["name"]: row["parameters"] for row in ROWS["model"]}
    assert (counts["BERT-base"], counts["DistilBERT"]) == (110, 66)

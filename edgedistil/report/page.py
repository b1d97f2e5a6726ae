"""The report as one self-contained page: no network, no script, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edgedistil.core.version import __version__
from edgedistil.report import sections
from edgedistil.report.load import RunFacts
from edgedistil.report.tables import TableData
from edgedistil.report.verdicts import Verdict


def render(facts: RunFacts, judged: Sequence[Verdict], compared: TableData | None) -> str:
    """The page as HTML. Everything that comes from a record is escaped; only our own pictures are markup."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["picture"] = Markup  # SVG that plots.py drew itself
    environment.filters["is_figure"] = _is_figure
    template = environment.from_string(
        resources.files("edgedistil.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        name=facts.name,
        verdicts=judged,
        compared=compared,
        sections=sections.all_sections(facts),
        recipe=facts.recipe,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _is_figure(cell: str) -> bool:
    """A number with its sign, unit or interval, or the dash that stands for an absent one."""
    return cell == "–" or (
        any(c.isdigit() for c in cell) and not cell.strip("0123456789.,+−-–<>~()%eExMK/ ")
    )

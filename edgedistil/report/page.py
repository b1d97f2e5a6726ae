"""The report as one self-contained HTML page, without scripts or network access."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edgedistil.core.echo import printable
from edgedistil.core.format import ABSENT
from edgedistil.core.version import __version__
from edgedistil.report.load import RunResults
from edgedistil.report.sections import all_sections
from edgedistil.report.table import TableData
from edgedistil.report.verdicts import Verdict

# Characters of a cell that is right-aligned: digits with signs, units, intervals and exponents.
_FIGURE_CHARACTERS = "0123456789.,+−-–…<>~()%eExMK/ "


def render(results: RunResults, verdicts: Sequence[Verdict], comparison: TableData | None) -> str:
    """Renders the page; everything that comes from a record is escaped."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_control_characters,
    )
    # Only SVG that plots.py drew may pass as markup.
    environment.filters["picture"] = Markup
    environment.filters["is_figure"] = is_figure
    template = resources.files("edgedistil.report").joinpath("page.html.j2")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        name=results.name,
        verdicts=verdicts,
        comparison=comparison,
        sections=all_sections(results),
        recipe=results.recipe,
        version=__version__,
        generated=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _without_control_characters(value: object) -> object:
    """Returns a value of the template as it is, and text that is not ours printable."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def is_figure(cell: str) -> bool:
    """Whether a cell holds a figure, or the dash of an absent one, and is right-aligned."""
    if cell == ABSENT:
        return True
    # A word such as "Ex" consists of these characters too, so a digit is required.
    has_digit = any(character.isdigit() for character in cell)
    return has_digit and not cell.strip(_FIGURE_CHARACTERS)

"""A table in the form that the page, the Markdown report and the terminal share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TableData:
    """A table of formatted cells.

    Attributes:
        title: Title above the table.
        columns: Column heads.
        rows: Rows of cells, each as long as `columns`.
        notes: Sentences below the table.
    """

    title: str
    columns: Sequence[str]
    # Cells are formatted already, so that no output can format a figure in its own way.
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

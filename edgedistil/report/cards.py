"""Complete model cards of a run's export folders, with the profiles that the run has."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.card_inputs import read_card_inputs
from edgedistil.core.model_card import render_card
from edgedistil.core.rundir import RunDir, write_text


def write_cards(run: RunDir) -> list[Path]:
    """Writes the complete card of every export folder into the report's own folder.

    The folders themselves are not changed: a stage never rewrites the files of an earlier one.

    Returns:
        The cards.
    Raises:
        StorageError: A record or a file of an export folder is corrupt or of another version.
    """
    cards = []
    for provenance in sorted(run.exports.glob("*/provenance.json")):
        folder = provenance.parent
        card = run.report_card(folder.name)
        write_text(card, render_card(read_card_inputs(run, folder)))
        cards.append(card)
    return cards

"""Comparison of the figures of two runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgedistil.core.distill_records import HeldoutVectors
from edgedistil.core.format import ABSENT, artefact_name, form_name, number, percent, plural
from edgedistil.core.profile_records import ProfileRow
from edgedistil.report.load import RunResults
from edgedistil.report.table import TableData


@dataclass(frozen=True)
class _Figure:
    """A figure that two runs can have in common."""

    name: str
    value: float
    formatter: Callable[[float], str]

    def __str__(self) -> str:
        return self.formatter(self.value)


def compare_runs(this: RunResults, other: RunResults) -> TableData:
    """Figures that at least one of two runs has, and the change from the other to this one."""
    this_figures = {figure.name: figure for figure in _figures(this)}
    other_figures = {figure.name: figure for figure in _figures(other)}
    # Names are the keys: figures of the same name have the same unit and conditions.
    rows = []
    for name in dict.fromkeys([*this_figures, *other_figures]):
        mine = this_figures.get(name)
        theirs = other_figures.get(name)
        rows.append([name, str(mine or ABSENT), str(theirs or ABSENT), _change(mine, theirs)])
    # The other run is the reference of the change.
    columns = ["figure", this.name, other.name, "change"]
    return TableData(f"{this.name} compared with {other.name}", columns, rows)


def _change(this: _Figure | None, other: _Figure | None) -> str:
    # A change relative to zero has no meaning.
    if this is None or other is None or other.value == 0:
        return ABSENT
    return f"{this.value / other.value - 1:+.1%}"


def _figures(results: RunResults) -> Iterator[_Figure]:
    yield from _distill_figures(results)
    if results.evaluation is not None:
        for summary in results.evaluation.summaries:
            name = f"{summary.task} {summary.model} {summary.artefact} ({summary.metric})"
            yield _Figure(name, summary.median, percent)
    # Sizes are compared for every artefact, whether or not it passed the parity check.
    for export in results.exports:
        mebibytes = sum(file.bytes for file in export.files) / 2**20
        yield _Figure(f"{artefact_name(export)} (MiB)", mebibytes, _one_decimal)
    for profile in results.profiles:
        for row in profile.rows:
            yield from _latency_figures(row)


def _distill_figures(results: RunResults) -> Iterator[_Figure]:
    record = results.distill
    if record is None:
        return
    yield _Figure("student parameters (M)", record.student.parameters / 1e6, _one_decimal)
    yield _Figure("training tokens (M)", record.tokens_seen / 1e6, _two_decimals)
    for heldout in record.heldout:
        # Step 0 is the student before training; the teacher does not depend on the recipe.
        if heldout.model != "student" or heldout.step == 0:
            continue
        if isinstance(heldout, HeldoutVectors):
            yield _Figure("held-out rank correlation", heldout.rank_correlation, number)
            continue
        yield _Figure("held-out MLM loss (nats)", heldout.mlm_loss_nats, number)
        yield _Figure("held-out top-1", heldout.top1, percent)
        # Agreement is absent where the vocabularies of teacher and student differ.
        if isinstance(heldout.agreement, float):
            yield _Figure("held-out agreement", heldout.agreement, percent)


def _latency_figures(row: ProfileRow) -> Iterator[_Figure]:
    # A predicted band has no single value that could change, and a disturbed row no sound one.
    if row.usable and isinstance(row.latency_ms, float):
        conditions = (
            f"{row.device} {row.method}, {plural(row.threads, 'thread')}, length {row.length}"
        )
        yield _Figure(f"{form_name(row)} p50 (ms), {conditions}", row.latency_ms, _two_decimals)


def _one_decimal(value: float) -> str:
    return f"{value:.1f}"


def _two_decimals(value: float) -> str:
    return f"{value:.2f}"

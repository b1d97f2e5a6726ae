"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgedistil.core.format import ABSENT, number, percent
from edgedistil.report.load import RunFacts
from edgedistil.report.tables import TableData

Figures = dict[str, tuple[float, Callable[[float], str]]]


def comparison(this: RunFacts, other: RunFacts) -> TableData:
    """Every figure that at least one of two runs has: this run's, the other's, and the change."""
    ours, theirs = dict(_figures(this)), dict(_figures(other))
    rows = []
    for name in dict.fromkeys([*ours, *theirs]):
        mine, yours = ours.get(name), theirs.get(name)
        show = (mine or yours or (0.0, str))[1]
        change = f"{mine[0] / yours[0] - 1:+.1%}" if mine and yours and yours[0] else ABSENT
        rows.append(
            [name, show(mine[0]) if mine else ABSENT, show(yours[0]) if yours else ABSENT, change]
        )
    return TableData(
        f"{this.name} against {other.name}", ["figure", this.name, other.name, "change"], rows
    )


def _figures(facts: RunFacts) -> Iterator[tuple[str, tuple[float, Callable[[float], str]]]]:
    if facts.distill:
        yield "student parameters (M)", (facts.distill.student.parameters / 1e6, _one)
        yield "training tokens (M)", (facts.distill.tokens_seen / 1e6, _two)
        for held in facts.distill.heldout:
            if held.model == "student" and held.step:
                yield "held-out MLM loss (nats)", (held.mlm_loss_nats, number)
                yield "held-out top-1", (held.top1, percent)
                if isinstance(held.agreement, float):
                    yield "held-out agreement", (held.agreement, percent)
    for summary in facts.evaluation.summaries if facts.evaluation else []:
        yield (
            f"{summary.task} {summary.model} {summary.artefact} ({summary.metric})",
            (summary.median, percent),
        )
    for export in facts.exports:
        size = sum(f.bytes for f in export.files) / 2**20
        yield f"{export.model} {export.task} {export.precision} (MiB)", (size, _one)
    for profile in facts.profiles:
        for row in profile.rows:
            if row.valid and isinstance(row.latency_ms, float):
                threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
                where = f"{row.device} {row.method}, {threads}, length {row.length}"
                yield (
                    f"{row.model} {row.task} {row.precision} p50 (ms), {where}",
                    (row.latency_ms, _two),
                )


def _one(value: float) -> str:
    return f"{value:.1f}"


def _two(value: float) -> str:
    return f"{value:.2f}"

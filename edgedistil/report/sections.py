"""What the report says, in order: one section a stage, with its tables and pictures, or why it is absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgedistil.core import format as wording
from edgedistil.core.format import mebibytes
from edgedistil.core.records import EvaluationRecord, ParityRecord, ProfileRecord, Provenance
from edgedistil.report import plots, profile_tables, tables
from edgedistil.report.language_models import language_model_table, language_models
from edgedistil.report.load import RunFacts
from edgedistil.report.tables import TableData

SHORT_HASH = 12


@dataclass(frozen=True)
class Section:
    """A part of the report. `absent` says what would fill it."""

    title: str
    anchor: str
    lead: str = ""
    tables: Sequence[TableData] = ()
    pictures: Sequence[tuple[str, str]] = ()
    absent: str = ""
    folded: Sequence[TableData] = field(default=())


def all_sections(facts: RunFacts) -> list[Section]:
    return [
        distilling(facts),
        size(facts),
        quality(facts),
        artefacts(facts),
        speed(facts),
        origins(facts),
    ]


def distilling(facts: RunFacts) -> Section:
    title, anchor = "Distillation", "distillation"
    record = facts.distill
    if record is None:
        return Section(title, anchor, absent="Not done in this run: edgedistil distill RECIPE")
    pictures = [
        (
            plots.loss_curves(facts.trace),
            "The three losses while training; faint: every step, bold: smoothed.",
        ),
        (
            plots.heldout_curves(facts.heldout_trace, record),
            "Masked words of held-out text, while training.",
        ),
    ]
    lead = (
        f"{record.steps} steps over {record.tokens_seen / 1e6:.2f} million tokens in {wording.duration(record.seconds)}"
        f" ({record.tokens_per_s:,.0f} tokens a second); {tables.started_from(record)}."
    )
    shown = [
        tables.heldout_table(record.heldout),
        tables.model_table([("teacher", record.teacher), ("student", record.student)]),
    ]
    return Section(title, anchor, lead, shown, [(p, c) for p, c in pictures if p])


def size(facts: RunFacts) -> Section:
    """Figure 1 of the paper with this run's two models on it."""
    title, anchor = "Size among language models", "size"
    if facts.distill is None:
        return Section(
            title, anchor, absent="Nothing was distilled in this run: edgedistil distill RECIPE"
        )
    teacher, student = facts.distill.teacher, facts.distill.student
    known = language_models()
    picture = plots.parameter_counts(known, teacher=teacher.parameters, student=student.parameters)
    caption = "After figure 1 of Sanh et al. 2019: published counts by year, and this run's teacher and student."
    return Section(
        title,
        anchor,
        f"The student has {wording.millions(student.parameters)} parameters and the teacher"
        f" {wording.millions(teacher.parameters)}, counted from their weights. The table below says where each of the"
        " other counts is from.",
        pictures=[(picture, caption)],
        folded=[language_model_table(known)],
    )


def quality(facts: RunFacts) -> Section:
    title, anchor = "Quality on tasks", "quality"
    ablation = [tables.ablation_table(facts.ablation)] if facts.ablation else []
    if facts.evaluation is None:
        return Section(
            title, anchor, tables=ablation, absent="Not measured in this run: edgedistil evaluate"
        )
    priced = "Fine-tuned models as PyTorch and as artefacts, the score against what it costs: "
    drawn = [
        (
            plots.scores(facts.evaluation),
            "Each model fine-tuned with the same budget; student-step0 is the student before distillation.",
        ),
        (plots.score_against(facts.evaluation, "latency"), f"{priced}time."),
        (plots.score_against(facts.evaluation, "size"), f"{priced}bytes."),
    ]
    return Section(
        title,
        anchor,
        "Teacher and student were fine-tuned alike. Retention is student / teacher; because much of a score can be had"
        " without any skill, the share of what lies above a constant prediction stands beside it.",
        [*_evaluation_tables(facts.evaluation), *ablation],
        [(picture, caption) for picture, caption in drawn if picture],
    )


def _evaluation_tables(record: EvaluationRecord) -> list[TableData]:
    """What the terminal shows, in its order."""
    return [
        *([tables.task_table(record)] if record.tasks else []),
        tables.evaluation_table(record),
        *([tables.macro_table(record)] if record.macros else []),
        *([tables.artefact_score_table(record)] if record.artefacts else []),
    ]


def artefacts(facts: RunFacts) -> Section:
    title, anchor = "Artefacts and parity", "artefacts"
    if not facts.exports:
        return Section(title, anchor, absent="Not done in this run: edgedistil export")
    by_artefact = {(p.model, p.task, p.precision): p for p in facts.parities}
    pairs = [
        (export, by_artefact[key])
        for export in facts.exports
        if (key := (export.model, export.task, export.precision)) in by_artefact
    ]
    folded = [
        each
        for parity in facts.parities
        for each in (tables.parity_length_table(parity), tables.tolerance_table(parity))
    ]
    return Section(
        title,
        anchor,
        "Real held-out text went through PyTorch and through each artefact, padded, at several lengths.",
        [tables.export_table(pairs), agreement_table(facts.parities), parts_table(facts)],
        folded=folded,
    )


def agreement_table(parities: Sequence[ParityRecord]) -> TableData:
    """Largest error per artefact and length, at a glance."""
    lengths = sorted({f.length for p in parities for f in p.by_length if isinstance(f.length, int)})
    rows = []
    for parity in parities:
        errors = {f.length: f.max_abs for f in parity.by_length if isinstance(f.length, int)}
        cells = [
            f"{errors[length]:.2g}" if length in errors else wording.ABSENT for length in lengths
        ]
        rows.append([f"{parity.model} {parity.task}", parity.precision, *cells])
    return TableData(
        "Largest error by sequence length", ["artefact", "precision", *map(str, lengths)], rows
    )


def parts_table(facts: RunFacts) -> TableData:
    """Where the bytes are."""
    parts = list(dict.fromkeys(part for e in facts.exports for part in e.bytes_by_part))
    rows = [
        [
            f"{e.model} {e.task}",
            e.precision,
            *(mebibytes(e.bytes_by_part.get(part, 0)) for part in parts),
        ]
        for e in facts.exports
    ]
    return TableData("MiB by part", ["artefact", "precision", *parts], rows)


def speed(facts: RunFacts) -> Section:
    title, anchor = "Latency and memory", "latency"
    if not facts.profiles:
        return Section(title, anchor, absent="Not measured in this run: edgedistil profile")
    pictures = [
        (plots.size_against_latency(facts.profiles), _at(facts.profiles, "Size against latency")),
        (plots.latency_distributions(facts.profiles), _at(facts.profiles, "Every measured call")),
    ]
    claims = [claim for profile in facts.profiles for claim in profile.claims]
    return Section(
        title,
        anchor,
        "Each row says how it was found. Measured: on that machine. Emulated: its kernels, no time at all."
        " Predicted: a cost model's band, no board was involved.",
        [
            *([profile_tables.claims_table(claims)] if claims else []),
            *(table for profile in facts.profiles for table in profile_tables.main_tables(profile)),
        ],
        [(p, c) for p, c in pictures if p],
        folded=[
            profile_tables.profile_table(profile) for profile in facts.profiles if profile.rows
        ],
    )


def _at(profiles: Sequence[ProfileRecord], what: str) -> str:
    rows = plots.measured_rows(profiles)
    if not rows:
        return what
    row = rows[0]
    threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
    return f"{what}: measured on {row.device}, {threads}, batch {row.batch}, {row.length} tokens, {row.runtime}."


def origins(facts: RunFacts) -> Section:
    """Sources, versions, hashes: what one needs to get the same figures again."""
    found = []
    if facts.corpus:
        rows = [
            [
                s.name,
                s.licence,
                s.origin,
                str(s.documents),
                f"{s.text_bytes / 1e6:.1f}",
                s.sha256[:SHORT_HASH],
            ]
            for s in facts.corpus.sources
        ]
        columns = ["source", "licence", "origin", "documents", "MB", "sha256"]
        notes = [
            f"{facts.corpus.train_tokens / 1e6:.2f}M tokens to train on,"
            f" {facts.corpus.heldout_tokens / 1e3:.1f}K held out before training"
        ]
        found.append(TableData("Text", columns, rows, notes))
    files = [
        [f"{e.model}-{e.task}/{f.path}", mebibytes(f.bytes), f.sha256[:SHORT_HASH]]
        for e in facts.exports
        for f in e.files
    ]
    if files:
        found.append(TableData("Files", ["file", "MiB", "sha256"], files))
    found.append(_versions(facts))
    return Section("Where it comes from", "origins", tables=found)


def _versions(facts: RunFacts) -> TableData:
    stages: list[tuple[str, Provenance]] = []
    if facts.distill:
        stages.append(("distill", facts.distill.provenance))
    if facts.evaluation:
        stages.append(("evaluate", facts.evaluation.provenance))
    if facts.ablation:
        stages.append(("ablation", facts.ablation.provenance))
    if facts.exports:
        stages.append(("export", facts.exports[0].provenance))
    stages += [(f"profile {p.device} {p.method}", p.provenance) for p in facts.profiles]
    rows = [
        [
            stage,
            p.created_utc,
            p.command,
            f"{p.host.cpu}, {p.host.cores} cores",
            ", ".join(f"{name} {version}" for name, version in p.versions.items()),
        ]
        for stage, p in stages
    ]
    return TableData("Commands and versions", ["stage", "UTC", "command", "host", "versions"], rows)

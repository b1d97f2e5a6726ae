"""Sections of the report, in order: one per stage, with its tables and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgedistil.core.distill_records import CorpusRecord
from edgedistil.core.export_records import ExportRecord
from edgedistil.core.format import duration, mebibytes, millions, plural
from edgedistil.core.records import Provenance
from edgedistil.report import plots, training_plots
from edgedistil.report.distill_tables import (
    describe_initialization,
    heldout_table,
    model_table,
)
from edgedistil.report.embedding_tables import cost_table
from edgedistil.report.evaluation_tables import ablation_table, evaluation_tables
from edgedistil.report.export_tables import (
    error_by_length_table,
    export_table,
    parity_length_table,
    parts_table,
    ranking_table,
    tolerance_table,
)
from edgedistil.report.language_models import language_model_table, language_models
from edgedistil.report.load import RunResults
from edgedistil.report.profile_tables import claims_table, main_tables, profile_table
from edgedistil.report.table import TableData
from edgedistil.report.trim_tables import trim_baseline_table, trim_tables

# Enough characters to recognise a file; the JSON report has the complete digest.
_SHORT_SHA256 = 12


@dataclass(frozen=True)
class Picture:
    """A plot as an SVG element, and the caption below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class ReportSection:
    """One section of the report.

    Attributes:
        title: Heading.
        anchor: Id of the heading in the page.
        lead: Paragraph below the heading.
        tables: Tables that are always shown.
        pictures: Plots, shown in the page only.
        absent: Why there are no results, and the command that makes them.
        folded: Tables that the page shows on demand; the Markdown report leaves them out.
    """

    title: str
    anchor: str
    lead: str = ""
    tables: Sequence[TableData] = ()
    pictures: Sequence[Picture] = ()
    absent: str = ""
    folded: Sequence[TableData] = ()


def all_sections(results: RunResults) -> list[ReportSection]:
    """Builds all sections; a stage that has not run has a section that says so."""
    return [
        distillation_section(results),
        size_section(results),
        quality_section(results),
        artefact_section(results),
        profile_section(results),
        provenance_section(results),
    ]


def _pictures(plots_and_captions: Iterable[tuple[str | None, str]]) -> list[Picture]:
    """Keeps the plots that have data."""
    return [Picture(svg, caption) for svg, caption in plots_and_captions if svg is not None]


# --- distillation --------------------------------------------------------------------------------


def distillation_section(results: RunResults) -> ReportSection:
    """Losses and held-out evaluations of the distillation."""
    title, anchor = "Distillation", "distillation"
    record = results.distill
    if record is None:
        absent = "Not run: edgedistil distill RECIPE"
        return ReportSection(title, anchor, absent=absent)
    lead = (
        f"{record.steps} steps over {record.tokens_seen / 1e6:.2f} million tokens in"
        f" {duration(record.seconds)} ({record.tokens_per_s:,.0f} tokens/s);"
        f" {describe_initialization(record)}."
    )
    pictures = _pictures(
        [
            (
                training_plots.loss_curves(results.trace),
                "The training losses; faint: each step, bold: moving average.",
            ),
            (
                training_plots.heldout_curves(results.heldout_trace, record),
                "Agreement on held-out text during training.",
            ),
        ]
    )
    # Results first, then the models they belong to.
    models = model_table([("teacher", record.teacher), ("student", record.student)])
    tables = [heldout_table(record.heldout), models]
    return ReportSection(title, anchor, lead, tables, pictures)


# A trimmed student differs from its teacher in two ways at once.
_TRIM_BASELINES = (
    " The vocabulary was trimmed: what that alone costs, and what distilling alone costs, is in"
    " the table “Cost of trimming and of distilling” of the section Quality on tasks."
)
_TRIM_UNEVALUATED = (
    " The vocabulary was trimmed: edgedistil evaluate measures what that alone costs, and what"
    " distilling alone costs."
)


def size_section(results: RunResults) -> ReportSection:
    """Figure 1 of the paper with the models of this run added."""
    title, anchor = "Size among language models", "size"
    record = results.distill
    if record is None:
        absent = "Not run: edgedistil distill RECIPE"
        return ReportSection(title, anchor, absent=absent)
    teacher, student = record.teacher.parameters, record.student.parameters
    # The paper's figure 1 puts DistilBERT among the models of its time.
    published = language_models()
    picture = Picture(
        plots.parameter_counts(published, teacher=teacher, student=student),
        "After figure 1 of Sanh et al. 2019: published parameter counts by year,"
        " and this run's teacher and student.",
    )
    lead = (
        f"The student has {millions(student)} parameters and the teacher {millions(teacher)},"
        " counted from their weights. The sources of the other counts are in the table below."
    )
    if results.trim is not None:
        lead += _TRIM_UNEVALUATED if results.evaluation is None else _TRIM_BASELINES
    return ReportSection(
        title,
        anchor,
        lead,
        tables=trim_tables(results.trim) if results.trim is not None else [],
        pictures=[picture],
        folded=[language_model_table(published)],
    )


# --- evaluation ----------------------------------------------------------------------------------

# Defines both columns of retention, which are easy to confuse.
_RETENTION = (
    "All models were fine-tuned with the same budget. Retention is a model's score divided by that"
    " of the teacher as the user named it; where a head was fitted to it, the fitted copy is a row"
    " of its own (teacher). A baseline already reaches much of a score, so retention above baseline"
    " is shown too: (model − baseline) / (teacher − baseline)."
)
_SEARCH = (
    "The encoders were scored as they are, without fine-tuning. The share is a model's nDCG@10"
    " divided by the teacher's, on the same queries."
)


def quality_section(results: RunResults) -> ReportSection:
    """Scores on labelled tasks, and the ablation study."""
    title, anchor = "Quality on tasks", "quality"
    ablation = []
    if results.ablation is not None:
        ablation.append(ablation_table(results.ablation))
    record = results.evaluation
    if record is None:
        # An ablation study evaluates its own runs, so it can exist without an evaluation.
        absent = "Not run: edgedistil evaluate"
        return ReportSection(title, anchor, tables=ablation, absent=absent)
    pictures = _pictures(
        [
            (
                plots.scores(record),
                "Models fine-tuned with the same budget; student-step0 is the student before"
                " distillation.",
            ),
            (
                plots.score_against_cost(record, "latency"),
                "Fine-tuned models in PyTorch and as artefacts: score against latency.",
            ),
            (
                plots.score_against_cost(record, "size"),
                "Fine-tuned models in PyTorch and as artefacts: score against file size.",
            ),
        ]
    )
    trimming = [] if results.trim is None else [trim_baseline_table(record)]
    tables = [*evaluation_tables(record), *trimming, *ablation]
    cost = cost_table(record, plots.measured_rows(results.profiles))
    if cost is not None:
        tables.append(cost)
    # An encoder's search is scored as it is: nothing is fine-tuned.
    lead = _RETENTION if record.tasks else _SEARCH
    return ReportSection(title, anchor, lead, tables, pictures)


# --- export --------------------------------------------------------------------------------------


def artefact_section(results: RunResults) -> ReportSection:
    """Exported artefacts with their parity checks."""
    title, anchor = "Artefacts and parity", "artefacts"
    if not results.exports:
        return ReportSection(title, anchor, absent="Not run: edgedistil export")
    # Pair each artefact with its parity check; one without a check is left out.
    parities = {(p.model, p.task, p.precision): p for p in results.parities}
    pairs = []
    for export in results.exports:
        parity = parities.get((export.model, export.task, export.precision))
        if parity is not None:
            pairs.append((export, parity))
    folded = []
    # Two tables per artefact: too long to be shown at first.
    for parity in results.parities:
        folded += [parity_length_table(parity), tolerance_table(parity)]
    ranking = ranking_table(results.parities)
    rankings = [] if ranking is None else [ranking]
    return ReportSection(
        title,
        anchor,
        "PyTorch and each artefact ran on the same held-out text, in padded batches of several"
        " lengths.",
        [
            export_table(pairs),
            *rankings,
            error_by_length_table(results.parities),
            parts_table(results.exports),
        ],
        folded=folded,
    )


# --- profile -------------------------------------------------------------------------------------

_METHODS = (
    "Each row names its method. Measured: on the device. Emulated: the device's kernels under an"
    " emulator, no latency. Predicted: a band from a cost model, without the device."
)


def profile_section(results: RunResults) -> ReportSection:
    """Latency, memory and claims, one table per device and method."""
    title, anchor = "Latency and memory", "latency"
    if not results.profiles:
        return ReportSection(title, anchor, absent="Not run: edgedistil profile")
    # A latency without its conditions cannot be compared with another one.
    conditions = _plot_conditions(results)
    pictures = _pictures(
        [
            (
                plots.size_against_latency(results.profiles),
                f"Size against latency{conditions}.",
            ),
            (
                plots.latency_distributions(results.profiles),
                f"Latency of every measured call{conditions}.",
            ),
        ]
    )
    claims = [claim for profile in results.profiles for claim in profile.claims]
    tables = []
    if claims:
        tables.append(claims_table(claims))
    # One table per profile, so that methods never mix.
    for profile in results.profiles:
        tables += main_tables(profile)
    return ReportSection(
        title,
        anchor,
        _METHODS,
        tables,
        pictures,
        folded=[profile_table(profile) for profile in results.profiles if profile.rows],
    )


def _plot_conditions(results: RunResults) -> str:
    """Conditions of the rows that the latency plots show; empty if none was measured."""
    rows = plots.measured_rows(results.profiles)
    if not rows:
        return ""
    # All rows of the plots share these conditions.
    row = rows[0]
    return (
        f": measured on {row.device}, {plural(row.threads, 'thread')}, batch {row.batch},"
        f" {row.length} tokens, {row.runtime}"
    )


# --- provenance ----------------------------------------------------------------------------------


def provenance_section(results: RunResults) -> ReportSection:
    """Sources, files and versions: what is needed to reproduce the figures."""
    tables = []
    if results.corpus is not None:
        tables.append(corpus_table(results.corpus))
    if results.exports:
        tables.append(file_table(results.exports))
    # Always there: any run has at least one result.
    tables.append(version_table(results))
    return ReportSection("Provenance", "provenance", tables=tables)


def corpus_table(corpus: CorpusRecord) -> TableData:
    """Sources of the training text."""
    rows = [
        [
            source.name,
            source.licence,
            source.origin,
            str(source.documents),
            f"{source.text_bytes / 1e6:.1f}",
            # The digest pins the text even if the origin changes.
            source.sha256[:_SHORT_SHA256],
        ]
        for source in corpus.sources
    ]
    columns = ["source", "licence", "origin", "documents", "MB", "sha256"]
    note = (
        f"{corpus.train_tokens / 1e6:.2f}M tokens for training,"
        f" {corpus.heldout_tokens / 1e3:.1f}K held out before training"
    )
    return TableData("Text", columns, rows, [note])


def file_table(exports: Sequence[ExportRecord]) -> TableData:
    """Exported files with their digests."""
    rows = []
    for export in exports:
        for file in export.files:
            path = f"{export.model}-{export.task}/{file.path}"
            rows.append([path, mebibytes(file.bytes), file.sha256[:_SHORT_SHA256]])
    return TableData("Files", ["file", "MiB", "sha256"], rows)


def version_table(results: RunResults) -> TableData:
    """Command, host and package versions of every stage."""
    rows = [[stage, *_provenance_cells(provenance)] for stage, provenance in _provenances(results)]
    columns = ["stage", "UTC", "command", "host", "versions"]
    return TableData("Commands and versions", columns, rows)


def _provenance_cells(provenance: Provenance) -> list[str]:
    versions = [f"{name} {version}" for name, version in provenance.versions.items()]
    return [
        provenance.created_utc,
        provenance.command,
        f"{provenance.host.cpu}, {plural(provenance.host.cores, 'core')}",
        ", ".join(versions),
    ]


def _provenances(results: RunResults) -> list[tuple[str, Provenance]]:
    """(stage, provenance) of every result, in the order of the stages."""
    stages = []
    if results.distill is not None:
        stages.append(("distill", results.distill.provenance))
    if results.evaluation is not None:
        stages.append(("evaluate", results.evaluation.provenance))
    if results.ablation is not None:
        stages.append(("ablate", results.ablation.provenance))
    # One export command writes all artefacts, so the first record represents all.
    if results.exports:
        stages.append(("export", results.exports[0].provenance))
    profiles = [(f"profile {p.device} {p.method}", p.provenance) for p in results.profiles]
    return [*stages, *profiles]

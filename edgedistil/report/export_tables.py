"""Tables of exported artefacts and of their parity with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.export_records import (
    ExportRecord,
    ParityFigures,
    ParityRecord,
    RankFigures,
    ToleranceResult,
)
from edgedistil.core.format import (
    ABSENT,
    artefact_name,
    change_by_neighbours,
    mebibytes,
    model_and_task,
    number,
    percent,
    significant,
)
from edgedistil.report.table import TableData

_RANK_COLUMNS = ("top-10 overlap", "rank correlation")


def export_table(artefacts: Sequence[tuple[ExportRecord, ParityRecord]]) -> TableData:
    """Artefacts with their size, errors over all probes and result of the parity check."""
    rows = [_artefact_cells(export, parity) for export, parity in artefacts]
    columns = [
        "artefact",
        "precision",
        "MiB",
        "max error",
        "mean error",
        "min cosine",
        "agreement",
        "change by neighbours",
        "parity",
    ]
    return TableData("Artefacts and their parity with PyTorch", columns, rows)


def _artefact_cells(export: ExportRecord, parity: ParityRecord) -> list[str]:
    # Over all probes; the figures of each length are in a table of their own.
    figures = parity.overall
    return [
        model_and_task(export),
        export.precision,
        # A large graph has its weights in a second file.
        mebibytes(sum(file.bytes for file in export.files)),
        significant(figures.max_abs),
        significant(figures.mean_abs),
        number(figures.cosine_min, 5),
        percent(figures.agreement),
        change_by_neighbours(parity.invariance),
        "passed" if parity.passed else "FAILED",
    ]


def ranking_table(parities: Sequence[ParityRecord]) -> TableData | None:
    """Agreement of sentence vectors and rankings with PyTorch's; None without encoders."""
    rows = []
    for parity in parities:
        ranking = parity.ranking
        if isinstance(ranking, RankFigures):
            rows.append(
                [
                    model_and_task(parity),
                    parity.precision,
                    number(ranking.vector_cosine_min, 5),
                    number(ranking.vector_cosine_mean, 5),
                    percent(ranking.top10_overlap),
                    number(ranking.rank_correlation, 4),
                    str(ranking.texts),
                ]
            )
    if not rows:
        return None
    columns = ["artefact", "precision", "min cosine", "mean cosine", *_RANK_COLUMNS, "texts"]
    notes = [
        "each text as a query among the others: the share of PyTorch's 10 nearest texts that"
        " the artefact has too, and Spearman's correlation of all similarities"
    ]
    return TableData("Sentence vectors and their rankings", columns, rows, notes)


def error_by_length_table(parities: Sequence[ParityRecord]) -> TableData:
    """Largest error of each artefact at each sequence length."""
    all_lengths: set[int] = set()
    for parity in parities:
        all_lengths |= set(_errors_by_length(parity))
    lengths = sorted(all_lengths)
    rows = []
    for parity in parities:
        errors = _errors_by_length(parity)
        cells = [significant(errors[at]) if at in errors else ABSENT for at in lengths]
        rows.append([model_and_task(parity), parity.precision, *cells])
    # A dash marks a length at which an artefact was not compared.
    columns = ["artefact", "precision", *map(str, lengths)]
    return TableData("Largest error by sequence length", columns, rows)


def _errors_by_length(parity: ParityRecord) -> dict[int, float]:
    return {
        figures.length: figures.max_abs
        for figures in parity.by_length
        # Probes of mixed lengths have no column.
        if isinstance(figures.length, int)
    }


def parity_length_table(record: ParityRecord) -> TableData:
    """All parity figures of one artefact, one row per sequence length."""
    rows = [_length_cells(figures) for figures in record.by_length]
    columns = [
        "length",
        "sequences",
        "max error",
        "mean error",
        "min cosine",
        "mean cosine",
        "KL (nats)",
        "agreement",
    ]
    return TableData(f"{artefact_name(record)}: parity by length", columns, rows)


def _length_cells(figures: ParityFigures) -> list[str]:
    return [
        str(figures.length) if isinstance(figures.length, int) else "mixed",
        str(figures.sequences),
        significant(figures.max_abs),
        significant(figures.mean_abs),
        number(figures.cosine_min, 5),
        # Five decimals, because the cosines of correct artefacts are close to 1.
        number(figures.cosine_mean, 5),
        number(figures.kl_nats, 5),
        percent(figures.agreement),
    ]


def tolerance_table(record: ParityRecord) -> TableData:
    """Bounds that the parity check applied to one artefact, each with its reason."""
    rows = [_tolerance_cells(result) for result in record.results]
    columns = ["figure", "bound", "measured", "result", "reason for the bound"]
    return TableData(f"{artefact_name(record)}: tolerances", columns, rows)


def _tolerance_cells(result: ToleranceResult) -> list[str]:
    tolerance = result.tolerance
    return [
        tolerance.figure,
        f"{tolerance.bound} {tolerance.value:g}",
        # Three digits, because a figure can be close to its bound.
        significant(result.got, 3),
        "passed" if result.holds else "FAILED",
        tolerance.reason,
    ]


def parts_table(exports: Sequence[ExportRecord]) -> TableData:
    """Size of each artefact by part of the model: embeddings, attention and so on."""
    # Artefacts of different tasks have different heads, so their parts differ.
    parts: list[str] = []
    for export in exports:
        parts += [part for part in export.bytes_by_part if part not in parts]
    rows = []
    for export in exports:
        sizes = [mebibytes(export.bytes_by_part.get(part, 0)) for part in parts]
        rows.append([model_and_task(export), export.precision, *sizes])
    return TableData("MiB by part", ["artefact", "precision", *parts], rows)

"""The model card: what lies in the folder, how far it is from PyTorch, how fast it was where, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.family import FAMILIES
from edgedistil.core.precision import EXAMPLE_PRECISIONS, PRECISIONS
from edgedistil.core.records import (
    Band,
    ExportRecord,
    NotMeasured,
    ParityFigures,
    ParityRecord,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.task import ENCODER_TASK, find_task


def model_card(
    folder: Path,
    *,
    model_name: str,
    task: str,
    config: dict[str, Any],
    longest: int,
    licence: str | None,
    records: Sequence[ExportRecord],
    parities: Sequence[ParityRecord],
    profiles: Sequence[ProfileRecord],
    command: str,
) -> str:
    """Markdown with the front matter that the hub reads."""
    parts = [
        _front_matter(task, licence),
        f"# {model_name} · {task}",
        _summary(config, longest, records),
        "## Files",
        _table(("file", "precision", "MB", "opset", "made for"), _file_rows(records)),
        "## Parity",
        *_parity(parities),
        *_profile(profiles, records),
        "## Load it",
        *_loading(folder.name, task, records),
        "## Make it again",
        f"```\n{command}\n```",
        "Versions, the sha256 of the source and of every file, and the reason of each choice are in `provenance.json`;"
        " the recommended onnxruntime session options, with reasons, in `session.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(task: str, licence: str | None) -> str:
    lines = [
        "---",
        f"pipeline_tag: {task}",
        "library_name: transformers.js",
        "tags:",
        "- onnx",
        "- edgedistil",
    ]
    if task == ENCODER_TASK:
        lines.append("- sentence-transformers")
    if licence:
        lines.insert(1, f"license: {json.dumps(licence)}")
    return "\n".join([*lines, "---"])


def _summary(config: dict[str, Any], longest: int, records: Sequence[ExportRecord]) -> str:
    family = FAMILIES[config["model_type"]]
    layers, width = family.layers(config), family.hidden(config)
    parameters = f"{records[0].parameters / 1e6:.1f}M parameters, " if records else ""
    return (
        f"`{config['architectures'][0]}`: {parameters}{layers} layers, {width} wide, vocabulary"
        f" {config['vocab_size']:,}, up to {longest} tokens. ONNX, made by EdgeDistil."
    )


def _file_rows(records: Sequence[ExportRecord]) -> Iterator[tuple[str, ...]]:
    for record in records:
        size = sum(file.bytes for file in record.files) / 1e6
        yield (
            f"`{record.files[0].path}`",
            record.precision,
            f"{size:.1f}",
            str(record.opset),
            record.target_device,
        )


# --- parity ----------------------------------------------------------------------------------------


def _parity(parities: Sequence[ParityRecord]) -> Iterator[str]:
    if not parities:
        yield "Not proven: these files were made without a parity check."
        return
    sequences = parities[0].overall.sequences
    lengths = ", ".join(str(row.length) for row in parities[0].by_length)
    yield (
        f"Against PyTorch in float32 on {sequences} sequences of held-out text, single and in padded batches, at"
        f" {lengths} tokens. Agreement: the same word, label or span. Cosine: of output rows."
    )
    figures = (
        "largest difference",
        "mean difference",
        "KL, nats",
        "smallest cosine",
        "mean cosine",
        "agreement",
    )
    head = ("precision", *figures, "verdict")
    yield _table(
        head,
        (
            (p.precision, *_figures(p.overall), "passed" if p.passed else "**refused**")
            for p in parities
        ),
    )
    yield "By length:"
    head = ("precision", "tokens", *figures)
    yield _table(
        head,
        (
            (p.precision, _plain(row.length), *_figures(row))
            for p in parities
            for row in p.by_length
        ),
    )
    yield "Tolerances, and why:"
    yield "\n".join(
        f"- {p.precision}: {r.tolerance.figure} {r.tolerance.bound} {r.tolerance.value:g} (got {r.got:.3g}):"
        f" {r.tolerance.reason}"
        for p in parities
        for r in p.results
    )


def _figures(figures: ParityFigures) -> tuple[str, ...]:
    agreement = figures.agreement
    return (
        f"{figures.max_abs:.2g}",
        f"{figures.mean_abs:.2g}",
        "–" if isinstance(figures.kl_nats, NotMeasured) else f"{figures.kl_nats:.2g}",
        "–" if isinstance(figures.cosine_min, NotMeasured) else f"{figures.cosine_min:.6f}",
        "–" if isinstance(figures.cosine_mean, NotMeasured) else f"{figures.cosine_mean:.6f}",
        "–" if isinstance(agreement, NotMeasured) else f"{agreement:.2%} of {figures.decisions}",
    )


# --- profile ---------------------------------------------------------------------------------------


def _profile(profiles: Sequence[ProfileRecord], records: Sequence[ExportRecord]) -> Iterator[str]:
    ours = {(record.model, record.task, record.precision) for record in records}
    rows = [
        row
        for profile in profiles
        for row in profile.rows
        if (row.model, row.task, row.precision) in ours
    ]
    if not rows:
        return
    yield "## Speed and memory"
    yield "Every row says how it was had: measured on the device, or predicted for it (a band, never a bare number)."
    head = ("device", "how", "precision", "threads", "tokens", "p50, ms", "load, ms", "peak, MiB")
    yield _table(head, (_profile_row(row) for row in rows))


def _profile_row(row: ProfileRow) -> tuple[str, ...]:
    return (
        row.device,
        row.method if row.valid else f"{row.method}, not valid: {row.invalid_reason}",
        row.precision,
        str(row.threads),
        str(row.length),
        _plain(row.latency_ms),
        _plain(row.load_ms),
        _plain(row.peak_memory_bytes, scale=2**20),
    )


def _plain(figure: float | int | Band | NotMeasured, *, scale: float = 1.0) -> str:
    if isinstance(figure, NotMeasured):
        return f"– ({figure.not_measured})"
    if isinstance(figure, Band):
        return f"{figure.low / scale:.3g} to {figure.high / scale:.3g}"
    return str(figure) if isinstance(figure, int) and scale == 1.0 else f"{figure / scale:.3g}"


# --- loading ---------------------------------------------------------------------------------------


def _loading(name: str, task: str, records: Sequence[ExportRecord]) -> Iterator[str]:
    precisions = [record.precision for record in records]
    best = next((p for p in EXAMPLE_PRECISIONS if p in precisions), precisions[0])
    dtype = PRECISIONS[best].js_dtype or "fp32"
    path = next(record.files[0].path for record in records if record.precision == best)
    row = find_task(task)
    assert row is not None, "packaged_config has refused unknown tasks"
    yield (
        "```js\n// transformers.js\n"
        f"const run = await pipeline('{task}', '{name}', {{ dtype: '{dtype}' }});\n```"
    )
    yield (
        "```python\n# optimum\n"
        f"model = {row.ort_class}.from_pretrained('{name}', subfolder='onnx', file_name='{Path(path).name}')\n```"
    )
    if task == ENCODER_TASK:
        yield (
            "```python\n# sentence-transformers: the mean of the attended positions\n"
            f"model = SentenceTransformer('{name}', backend='onnx', model_kwargs={{'file_name': '{path}'}})\n```"
        )
    yield (
        "```python\n# onnxruntime and tokenizers, nothing else\n"
        f"session = onnxruntime.InferenceSession('{name}/{path}')\n"
        f"tokenizer = tokenizers.Tokenizer.from_file('{name}/tokenizer.json')\n```"
    )


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )

"""The model card of an export folder, rendered from records only.

`export` writes the card into its folder. `report` renders the same card again with the profiles of
the run, and writes it into a folder of its own; `export --push` uploads the card with the profiles
that exist by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgedistil.core import markdown
from edgedistil.core.card_inputs import CardInputs, describe_model
from edgedistil.core.contract import CONTRACT_FILE
from edgedistil.core.echo import one_line
from edgedistil.core.export_records import (
    ExportRecord,
    ParityFigures,
    ParityRecord,
    ProbeText,
    RankFigures,
    ToleranceResult,
)
from edgedistil.core.family import FAMILIES
from edgedistil.core.format import (
    ABSENT,
    change_by_neighbours,
    millions,
    number,
    percent,
    precision_and_form,
    significant,
)
from edgedistil.core.head_words import head_in_words
from edgedistil.core.precision import EXAMPLE_PRECISIONS, PRECISIONS
from edgedistil.core.profile_records import ProfileRow
from edgedistil.core.records import Band, NotMeasured
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.session import SESSION_FILE
from edgedistil.core.task import ENCODER_TASK, SENTENCE_OUTPUT, TASKS

# The hub shows this file of a repository.
CARD_FILE = "README.md"


def render_card(inputs: CardInputs) -> str:
    """Returns the card: Markdown with the front matter that the hub reads."""
    parts = [
        _front_matter(inputs),
        f"# {markdown.escaped(inputs.title)} · {inputs.contract.task}",
        _summary(inputs),
        *_sentence_vector(inputs),
        *_head(inputs),
        *_omitted(inputs),
        "## Files",
        _file_table(inputs.exports),
        "## Parity",
        *_parity(inputs.parities, inputs.exports),
        *_profile(inputs.rows),
        "## Usage",
        *_examples(inputs),
        "## Reproduction",
        markdown.code_block(inputs.command),
        "Inputs, outputs, tokenizer and sentence vector are described in "
        f"`{CONTRACT_FILE}`, for programs. Versions, the sha256 of the source and of every file, "
        "and the reason for each decision are in `provenance.json`; recommended onnxruntime "
        f"session options, with reasons, are in `{SESSION_FILE}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(inputs: CardInputs) -> str:
    # Quoted: the licence is text from the source's card, and may hold anything.
    lines = ["---"]
    if inputs.licence:
        lines.append(f"license: {json.dumps(one_line(inputs.licence))}")
    lines += [
        f"pipeline_tag: {inputs.contract.task}",
        "library_name: transformers.js",
        "tags:",
        "- onnx",
        "- edgedistil",
    ]
    if inputs.contract.task == ENCODER_TASK:
        lines.append("- sentence-transformers")
    return "\n".join([*lines, "---"])


def _summary(inputs: CardInputs) -> str:
    parameters = ""
    if inputs.exports:
        parameters = f"{millions(inputs.exports[0].parameters)} parameters, "
    architecture, sizes = describe_model(inputs.config)
    longest = markdown.escaped(str(inputs.contract.tokenizer.max_length))
    return (
        f"{markdown.code(architecture)}: {parameters}{sizes}, "
        f"up to {longest} tokens per sequence. Exported to ONNX by EdgeDistil."
    )


def _sentence_vector(inputs: CardInputs) -> Iterator[str]:
    """Yields how a sentence vector is made, and its prompts, for an encoder."""
    contract = inputs.contract
    vector = contract.sentence_vector
    if contract.unsupported is not None:
        reason = markdown.escaped(one_line(contract.unsupported))
        yield (
            f"Sentence vector: computed by the client (`modules.json`): {reason} is not supported "
            "in a graph."
        )
    if vector is None:
        return
    steps = markdown.escaped(vector.in_words())
    place = "computed by the client (`modules.json`)"
    if contract.gives_vectors:
        place = f"the graph's output `{SENTENCE_OUTPUT}`"
    yield (
        f"Sentence vector: {steps}, {place}. {vector.dimension} values, compared by "
        f"{vector.similarity}."
    )
    if vector.prompts:
        yield "Prompts that are put before a text (without them the vectors are worse):"
        yield "\n".join(_prompt(vector, name) for name in vector.prompts)


def _prompt(vector: SentenceVector, name: str) -> str:
    default = ", the default" if name == vector.default_prompt else ""
    text = vector.prompts[name]
    shown = markdown.code(text) if text else "nothing"
    return f"- {markdown.paragraph(name)}{default}: {shown}"


def _head(inputs: CardInputs) -> Iterator[str]:
    """Yields how the outputs of a classifier are read."""
    contract = inputs.contract
    words = head_in_words(contract.labels, contract.problem_type, inputs.config)
    if words:
        yield f"Outputs: {words}"


def _omitted(inputs: CardInputs) -> Iterator[str]:
    """Yields the parts of the source that a user could expect here."""
    if inputs.omitted:
        parts = "\n".join(f"- {markdown.paragraph(part)}" for part in inputs.omitted)
        yield f"Parts of the source that are not in this folder:\n\n{parts}"


def _file_table(exports: Sequence[ExportRecord]) -> str:
    rows = []
    for record in exports:
        # Decimal megabytes, as the hub shows file sizes.
        megabytes = sum(file.bytes for file in record.files) / 1e6
        graph = markdown.code(record.files[0].path)
        target = record.target_device
        rows.append((graph, record.precision, f"{megabytes:.1f}", str(record.opset), target))
    return markdown.table(("file", "precision", "MB", "opset", "target device"), rows)


# --- parity --------------------------------------------------------------------------------------

_PARITY_COLUMNS = (
    "largest difference",
    "mean difference",
    "KL, nats",
    "smallest cosine",
    "mean cosine",
    "agreement",
)


_RANK_COLUMNS = ("smallest cosine", "mean cosine", "top-10 overlap", "rank correlation")

_PROBE_TEXTS: dict[ProbeText, str] = {
    "held-out": "held-out text",
    "user": "the exporter's own text",
    "built-in": "edgedistil's built-in text (prose in many languages, code, emoji)",
}


def _parity(parities: Sequence[ParityRecord], exports: Sequence[ExportRecord]) -> Iterator[str]:
    """Yields the paragraphs about the distance from PyTorch."""
    if not parities:
        yield "Not checked: these files were exported without a parity check."
        return
    # The probes of all precisions are the same.
    probe_text = exports[0].probe_text
    lengths = ", ".join(str(figures.length) for figures in parities[0].by_length)
    yield (
        f"Compared with PyTorch in float32 on {parities[0].overall.sequences} sequences of "
        f"{_PROBE_TEXTS[probe_text]}, single and in padded batches, at {lengths} tokens. "
        "Agreement: the same token, label or span. Cosine: of output rows. Change by neighbours: "
        "the largest change of a text's outputs when it is padded or in a batch with other texts; "
        "with none, stored vectors stay comparable."
    )
    yield _overall_table(parities)
    yield from _rankings(parities)
    yield "By length:"
    yield _length_table(parities)
    yield "Tolerances, and why:"
    tolerances: list[str] = []
    for parity in parities:
        tolerances += [_tolerance(parity, result) for result in parity.results]
    yield "\n".join(tolerances)


def _overall_table(parities: Sequence[ParityRecord]) -> str:
    rows = []
    for parity in parities:
        verdict = "passed" if parity.passed else markdown.bold("rejected")
        change = change_by_neighbours(parity.invariance)
        rows.append((parity.precision, *_parity_figures(parity.overall), change, verdict))
    columns = ("precision", *_PARITY_COLUMNS, "change by neighbours", "verdict")
    return markdown.table(columns, rows)


def _rankings(parities: Sequence[ParityRecord]) -> Iterator[str]:
    """Yields the table of sentence vectors and rankings, for an encoder."""
    rows = []
    for parity in parities:
        ranking = parity.ranking
        if isinstance(ranking, RankFigures):
            cells = (
                number(ranking.vector_cosine_min, 6),
                number(ranking.vector_cosine_mean, 6),
                percent(ranking.top10_overlap, 1),
                number(ranking.rank_correlation, 4),
            )
            rows.append((parity.precision, str(ranking.texts), *cells))
    if rows:
        yield (
            "Sentence vectors, and the order in which texts find each other (the share of "
            "PyTorch's 10 nearest texts, and Spearman's correlation of all similarities):"
        )
        yield markdown.table(("precision", "texts", *_RANK_COLUMNS), rows)


def _length_table(parities: Sequence[ParityRecord]) -> str:
    rows: list[tuple[str, ...]] = []
    for parity in parities:
        rows += [
            (parity.precision, _with_reason(figures.length), *_parity_figures(figures))
            for figures in parity.by_length
        ]
    return markdown.table(("precision", "tokens", *_PARITY_COLUMNS), rows)


def _tolerance(parity: ParityRecord, result: ToleranceResult) -> str:
    bound = result.tolerance
    text = markdown.paragraph(
        f"{parity.precision}: {bound.figure} {bound.bound} {bound.value:g} "
        f"(got {result.got:.3g}): {bound.reason}"
    )
    return f"- {text}"


def _parity_figures(figures: ParityFigures) -> tuple[str, ...]:
    """Cells of `_PARITY_COLUMNS`."""
    agreement = percent(figures.agreement, 2)
    if not isinstance(figures.agreement, NotMeasured):
        agreement += f" of {figures.decisions}"
    return (
        significant(figures.max_abs),
        significant(figures.mean_abs),
        significant(figures.kl_nats),
        number(figures.cosine_min, 6),
        number(figures.cosine_mean, 6),
        agreement,
    )


# --- profile -------------------------------------------------------------------------------------

_PROFILE_COLUMNS = (
    "device",
    "method",
    "precision",
    "threads",
    "tokens",
    "p50, ms",
    "load, ms",
    "peak, MiB",
)


def _profile(rows: Sequence[ProfileRow]) -> Iterator[str]:
    """Yields the section about speed and memory, if anything was profiled."""
    if not rows:
        return
    yield "## Speed and memory"
    yield (
        "The method says whether a row was measured on the device, emulated, or predicted for it; "
        "a prediction is a band."
    )
    yield markdown.table(_PROFILE_COLUMNS, [_profile_cells(row) for row in rows])


def _profile_cells(row: ProfileRow) -> tuple[str, ...]:
    """Cells of `_PROFILE_COLUMNS`."""
    # A row that is invalid or disturbed is shown with its reason, never hidden.
    method: str = row.method
    if not row.valid:
        method = f"{row.method}, invalid: {row.invalid_reason}"
    elif row.disturbed:
        method = f"{row.method}, disturbed: {row.disturbed}"
    return (
        row.device,
        method,
        precision_and_form(row),
        str(row.threads),
        str(row.length),
        _with_reason(row.latency_ms),
        _with_reason(row.load_ms),
        _with_reason(row.peak_memory_bytes, unit=2**20),
    )


def _with_reason(figure: float | Band | NotMeasured, *, unit: float = 1) -> str:
    """Formats a figure with three significant digits; an absent one with its reason."""
    if isinstance(figure, NotMeasured):
        return f"{ABSENT} ({figure.not_measured})"
    if isinstance(figure, Band):
        return f"{figure.low / unit:.3g}–{figure.high / unit:.3g}"
    if isinstance(figure, int) and unit == 1:
        return str(figure)  # a count of tokens has no rounding
    return f"{figure / unit:.3g}"


# --- examples ------------------------------------------------------------------------------------


def _examples(inputs: CardInputs) -> Iterator[str]:
    """Yields one code block for each client that can load the folder."""
    by_precision = {record.precision: record for record in inputs.exports}
    precisions = [name for name in EXAMPLE_PRECISIONS if name in by_precision]
    # int4 and int8-static only: the first artefact is as good as any.
    precision = precisions[0] if precisions else inputs.exports[0].precision
    path = by_precision[precision].files[0].path
    dtype = PRECISIONS[precision].js_dtype or "fp32"
    name, task = inputs.folder_name, TASKS[inputs.contract.task]
    # Names are any text that a folder may have.
    folder, file = markdown.quoted(name), markdown.quoted(Path(path).name)
    # transformers.js has no pipeline of multiple choice.
    if not task.has_choices:
        yield (
            "```js\n// transformers.js\n"
            f"const run = await pipeline('{task.name}', {folder}, {{ dtype: '{dtype}' }});\n```"
        )
    # sentence-transformers' ONNX backend is optimum's.
    in_optimum = FAMILIES[inputs.config["model_type"]].in_transformers_4
    if in_optimum:
        yield (
            "```python\n# optimum\n"
            f"model = {task.ort_class}.from_pretrained(\n"
            f"    {folder}, subfolder='onnx', file_name={file}\n)\n```"
        )
    if in_optimum and task.name == ENCODER_TASK:
        yield (
            "```python\n# sentence-transformers\n"
            f"model = SentenceTransformer(\n"
            f"    {folder}, backend='onnx', "
            f"model_kwargs={{'file_name': {markdown.quoted(path)}}}\n)\n```"
        )
    yield (
        "```python\n# only onnxruntime and tokenizers\n"
        f"session = onnxruntime.InferenceSession({markdown.quoted(f'{name}/{path}')})\n"
        f"tokenizer = tokenizers.Tokenizer.from_file({markdown.quoted(f'{name}/tokenizer.json')})\n"
        "```"
    )
    if task.has_choices:
        yield "Inputs are (batch, choices, sequence): all choices of a question, padded together."

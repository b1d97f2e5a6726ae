"""Options of the commands, each declared once.

The command line makes a flag of every field that carries a `Flag` (edgedistil/cli.py), the Python
API takes these objects, and docs/cli.md shows them. A field without a `Flag` is for callers in
Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from edgedistil.core.flag import CheckedOptions, Flag
from edgedistil.core.precision import Precision, PrecisionRequest
from edgedistil.core.sentence_vector import Pooling

ArtefactFormat = Literal["onnx", "ort"]
EmbedSide = Literal["query", "document"]
BundleLanguage = Literal["cpp", "python", "web"]
Browser = Literal["chromium"]
OtherRuntime = Literal["openvino"]

# The longest sequences of any encoder of these families; attention takes their square in memory.
MAX_LENGTH = 8192
# Above the cores of any machine; each thread and each process costs memory before it does work.
MAX_THREADS = 1024
MAX_JOBS = 256
# Texts of a call; far above what is fast, and below what exhausts a machine at few tokens.
MAX_BATCH = 4096
# An hour heats any device through.
MAX_SUSTAINED_S = 3600
# Wider than any encoder's vectors.
MAX_DIMENSION = 2**16
# A list of all cells is made first. More than a few dozen seeds change no interval.
MAX_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(CheckedOptions):
    """What `profile` measures, emulates or predicts, and on which device."""

    device: Annotated[
        str,
        Flag(
            "--device",
            "Target device: host, or a name that `edgedistil devices list` shows.",
            metavar="DEVICE",
        ),
    ] = "host"
    ssh: Annotated[
        str | None,
        Flag(
            "--ssh",
            "Measure on this board over SSH; without it a device other than host is predicted.",
            metavar="USER@HOST",
        ),
    ] = None
    emulate: Annotated[
        bool,
        Flag("--emulate", "Run the device's kernels under QEMU and check outputs; gives no times."),
    ] = False
    browser: Annotated[
        Browser | None,
        Flag(
            "--browser",
            "Measure in this browser on this machine, with WebAssembly; without it, in Python.",
        ),
    ] = None
    runtime: Annotated[
        OtherRuntime | None,
        Flag(
            "--runtime",
            "Measure in this runtime on this machine, and compare it with onnxruntime: fp32, bf16 "
            "where the processor has it, our int8, and NNCF's int8. Default: onnxruntime alone.",
        ),
    ] = None
    cpp: Annotated[
        Path | None,
        Flag("--cpp", "Also time this C++ bundle's tokenizer. Default: none.", metavar="FOLDER"),
    ] = None
    model: Annotated[
        Path | None,
        Flag(
            "--model",
            "Profile one ONNX file; without it, every artefact of the run.",
            metavar="FILE",
        ),
    ] = None
    threads: Annotated[
        Sequence[int] | None,
        Flag(
            "--threads",
            "Thread count; repeat for several. Default: 1 and all usable cores.",
            metavar="N",
            minimum=1,
            maximum=MAX_THREADS,
        ),
    ] = None
    lengths: Annotated[
        Sequence[int] | None,
        Flag(
            "--length",
            "Sequence length in tokens; repeat for several. Default: 16, 32, 64, 128, 256.",
            metavar="TOKENS",
            minimum=2,
            maximum=MAX_LENGTH,
        ),
    ] = None
    batches: Annotated[
        Sequence[int] | None,
        Flag(
            "--batch",
            "Measure calls with this many texts instead of single ones; several as 1,8,32. Rows "
            "of int8-dynamic say that its vectors depend on the batch. Default: single texts.",
            metavar="TEXTS",
            minimum=1,
            maximum=MAX_BATCH,
        ),
    ] = None
    text: Annotated[
        Path | None,
        Flag(
            "--text",
            "UTF-8 text, one sequence a line. Default: the run's held-out text.",
            metavar="FILE",
        ),
    ] = None
    memory_limit: Annotated[
        str | None,
        Flag(
            "--memory-limit",
            "Check whether each artefact runs within this memory, such as 512M, and write the "
            "largest batches that do to the export's session.json. Default: no limit.",
            metavar="SIZE",
        ),
    ] = None
    sustained: Annotated[
        int | None,
        Flag(
            "--sustained",
            "Also call each student this long without a pause: last minute against first. "
            "Default: no such series.",
            metavar="SECONDS",
            minimum=2,
            maximum=MAX_SUSTAINED_S,
        ),
    ] = None
    tune: Annotated[bool, Flag("--tune", "Also search for the fastest session options.")] = False
    bootstrap: Annotated[
        bool, Flag("--bootstrap", "With --ssh: install onnxruntime on the board if it is missing.")
    ] = False
    calibrate: Annotated[
        bool, Flag("--calibrate", "Fit the device's prediction constants to these measurements.")
    ] = False
    sentence_pairs: int = 1500
    claim_pairs: int = 60


@dataclass(frozen=True, kw_only=True)
class TaskOptions(CheckedOptions):
    """Which tasks are scored, how often, and on which data."""

    tasks: Annotated[
        Sequence[str] | None,
        Flag(
            "--task",
            "Task, group (glue, paper, retrieval), task file, folder of a BEIR collection, or "
            "sts:FILE with graded pairs; repeat for several. Default: the recipe's tasks.",
            metavar="TASK",
        ),
    ] = None
    seeds: Annotated[
        int | None,
        Flag(
            "--seeds",
            "Fine-tuning runs per task and model. Default: the recipe's number.",
            metavar="N",
            minimum=1,
            maximum=MAX_SEEDS,
        ),
    ] = None
    data: Annotated[
        Path | None,
        Flag(
            "--data",
            "Folder with the data sets' official files. Default: packaged data or the hub.",
            metavar="FOLDER",
        ),
    ] = None
    jobs: Annotated[
        int,
        Flag(
            "--jobs",
            "Cells that run at the same time.",
            metavar="N",
            minimum=1,
            maximum=MAX_JOBS,
        ),
    ] = 1


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(TaskOptions):
    """Which models `evaluate` compares, and whether exported artefacts are scored too."""

    models: Annotated[
        Sequence[str] | None,
        Flag(
            "--model",
            "A model of the run, or a folder; repeat for several. Default: the recipe's models.",
            metavar="MODEL",
        ),
    ] = None
    cell: Annotated[
        str | None,
        Flag("--cell", "Run this single cell. Default: all cells.", metavar="TASK:MODEL:SEED"),
    ] = None
    artefact: Annotated[
        Precision | None,
        Flag(
            "--artefact",
            "Also score the ONNX artefact of this precision. Default: PyTorch only.",
        ),
    ] = None
    untrimmed_run: Annotated[
        str | None,
        Flag(
            "--untrimmed-run",
            "Run of the same recipe without student.vocabulary, whose student is a baseline of "
            "this and later evaluations: student-untrimmed. Default: no such baseline.",
            metavar="RUN",
        ),
    ] = None
    seed_runs: Annotated[
        Sequence[str] | None,
        Flag(
            "--seed-run",
            "Run of the same recipe with another seed, whose student counts as another "
            "distillation in retrieval; repeat for several. Default: this run alone.",
            metavar="RUN",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class AnswersOptions(CheckedOptions):
    """Where `answers` writes a corpus's texts, and whether it writes vectors."""

    out: Annotated[
        Path | None,
        Flag(
            "--out",
            "New file: .jsonl, .parquet, or .npy with the texts in a .jsonl. Default: "
            "answers.jsonl.",
            metavar="FILE",
        ),
    ] = None
    texts_only: Annotated[
        bool,
        Flag(
            "--texts-only", "Write the texts without vectors, as .jsonl, for a teacher elsewhere."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(CheckedOptions):
    """Which exported encoder `embed` uses, and where the vectors are written."""

    out: Annotated[
        Path | None,
        Flag(
            "--out",
            "Write the vectors to this .npy file. Default: to standard output, one JSON list a "
            "line.",
            metavar="FILE",
        ),
    ] = None
    model: Annotated[
        str | None,
        Flag(
            "--model",
            "Export folder, or name of an exported model of the run. Default: the student.",
            metavar="MODEL",
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        Flag("--precision", "Precision of the artefact. Default: fp32."),
    ] = None
    side: Annotated[
        EmbedSide,
        Flag("--side", "Side of a search, which selects the model's prompt."),
    ] = "document"
    threads: Annotated[
        int | None,
        Flag(
            "--threads",
            "Thread count. Default: as the export recommends.",
            metavar="N",
            minimum=1,
            maximum=MAX_THREADS,
        ),
    ] = None
    max_length: Annotated[
        int | None,
        Flag(
            "--max-length",
            "Cut texts to this many tokens. Default: as many as the model reads.",
            metavar="TOKENS",
            minimum=3,
            maximum=MAX_LENGTH,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CheckedOptions):
    """Which models `export` writes, in which precisions, and for which device."""

    precisions: Annotated[
        Sequence[PrecisionRequest] | None,
        Flag(
            "--quantize",
            "Precision; repeat for several. Default: the recipe's precisions. "
            "fp32 is always written.",
        ),
    ] = None
    target: Annotated[
        str | None,
        Flag(
            "--target",
            "Device that the artefacts are made for. Default: the recipe's, otherwise host.",
            metavar="DEVICE",
        ),
    ] = None
    model: Annotated[
        str | None,
        Flag(
            "--model",
            "Folder, hub id, or asset:NAME of a model. Default: the run's student and teacher.",
            metavar="MODEL",
        ),
    ] = None
    task: Annotated[
        str | None,
        Flag("--task", "Task of --model. Default: inferred from its config.json.", metavar="TASK"),
    ] = None
    pooling: Annotated[
        Pooling | None,
        Flag(
            "--pooling",
            "How states become a sentence vector, of a model without modules.json. "
            "Default: no vector in the graph.",
        ),
    ] = None
    normalize: Annotated[
        bool, Flag("--normalize", "With --pooling: divide the vector by its L2 norm.")
    ] = False
    dimension: Annotated[
        int | None,
        Flag(
            "--dimension",
            "Cut sentence vectors to their first values, of a model that was trained for it. "
            "Default: all values.",
            metavar="N",
            minimum=1,
            maximum=MAX_DIMENSION,
        ),
    ] = None
    max_drop: Annotated[
        float,
        Flag(
            "--max-drop",
            "With --quantize auto: maximum drop in top-1 agreement; 0.01 is 1%.",
            metavar="SHARE",
            minimum=0,
            maximum=1,
        ),
    ] = 0.01
    explain: Annotated[bool, Flag("--explain", "Also report the error of every layer.")] = False
    text: Annotated[
        Path | None,
        Flag(
            "--text",
            "UTF-8 text for the parity check, one sequence a line. "
            "Default: the run's held-out text; with --model, a built-in text.",
            metavar="FILE",
        ),
    ] = None
    format: Annotated[
        ArtefactFormat,
        Flag("--format", "onnx, or ort to add a file for reduced builds of onnxruntime."),
    ] = "onnx"
    single_file: Annotated[
        bool,
        Flag(
            "--single-file", "Store the weights in the graph file. Default: in a file next to it."
        ),
    ] = False
    push: Annotated[
        str | None,
        Flag(
            "--push",
            "Upload the folder to this hub repository. Default: no upload.",
            metavar="REPO",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BundleOptions(CheckedOptions):
    """What `bundle` puts into a folder, and for which device."""

    language: Annotated[
        BundleLanguage,
        Flag("--for", "What runs the model: a program in C++ or Python, or a web page."),
    ] = "cpp"
    precision: Annotated[
        Precision | None,
        Flag("--precision", "Precision of the artefact. Default: fp32."),
    ] = None
    target: Annotated[
        str,
        Flag(
            "--target",
            "Device whose processor the library is for: host, or a name that `edgedistil devices "
            "list` shows.",
            metavar="DEVICE",
        ),
    ] = "host"
    model: Annotated[
        str | None,
        Flag(
            "--model",
            "Export folder, or name of an export of the run. Default: the student's encoder.",
            metavar="MODEL",
        ),
    ] = None
    out: Annotated[
        Path | None,
        Flag(
            "--out",
            "Folder to write. Default: the name of the export and the language, in the current "
            "folder.",
            metavar="FOLDER",
        ),
    ] = None

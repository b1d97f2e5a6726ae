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

from edgedistil.core.precision import Precision, PrecisionRequest

ArtefactFormat = Literal["onnx", "ort"]


@dataclass(frozen=True)
class Flag:
    """How a field is written on the command line.

    Attributes:
        name: The flag, `--length`.
        help: One sentence; says what happens if the flag is left out.
        metavar: Placeholder of the value; None for switches and choices.
        minimum: Smallest value of an integer.
    """

    name: str
    help: str
    metavar: str | None = None
    minimum: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
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
        ),
    ] = None
    lengths: Annotated[
        Sequence[int] | None,
        Flag(
            "--length",
            "Sequence length in tokens; repeat for several. Default: 16, 32, 64, 128, 256.",
            metavar="TOKENS",
            minimum=2,
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
            "Check whether each artefact runs within this memory, such as 512M. Default: no limit.",
            metavar="SIZE",
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
class TaskOptions:
    """Which tasks are scored, how often, and on which data."""

    tasks: Annotated[
        Sequence[str] | None,
        Flag("--task", "Task; repeat for several. Default: the recipe's tasks.", metavar="TASK"),
    ] = None
    seeds: Annotated[
        int | None,
        Flag(
            "--seeds",
            "Fine-tuning runs per task and model. Default: the recipe's number.",
            metavar="N",
            minimum=1,
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
        int, Flag("--jobs", "Cells that run at the same time.", metavar="N", minimum=1)
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


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
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
            "Folder or hub id of a model. Default: the run's student and teacher.",
            metavar="MODEL",
        ),
    ] = None
    task: Annotated[
        str | None,
        Flag("--task", "Task of --model. Default: inferred from its config.json.", metavar="TASK"),
    ] = None
    max_drop: Annotated[
        float,
        Flag(
            "--max-drop",
            "With --quantize auto: maximum drop in top-1 agreement.",
            metavar="SHARE",
        ),
    ] = 0.01
    explain: Annotated[bool, Flag("--explain", "Also report the error of every layer.")] = False
    text: Annotated[
        Path | None,
        Flag(
            "--text",
            "UTF-8 text for the parity check, one sequence a line. "
            "Default: the run's held-out text.",
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

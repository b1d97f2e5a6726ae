"""Options of the commands, each declared once.

The command line makes a flag of every field (`edgedistil/cli.py`), the Python API takes these objects, and
docs/cli.md shows them. A field made by `flag` has a command-line flag; any other field is for callers in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

DEFAULT_LENGTHS = (16, 32, 64, 128, 256)


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


def flag(
    default: Any, name: str, help: str, *, metavar: str | None = None, minimum: int | None = None
) -> Any:
    """Returns a dataclass field with a command-line flag."""
    return field(default=default, metadata={"flag": Flag(name, help, metavar, minimum)})


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """What `profile` measures, emulates or predicts, and on which device."""

    device: str = flag(
        "host",
        "--device",
        "Target device: host, or a name that `edgedistil devices list` shows.",
        metavar="DEVICE",
    )
    ssh: str | None = flag(
        None,
        "--ssh",
        "Measure on this board over SSH; without it a device other than host is predicted.",
        metavar="USER@HOST",
    )
    emulate: bool = flag(
        False, "--emulate", "Run the device's kernels under QEMU and check outputs; gives no times."
    )
    model: Path | None = flag(
        None,
        "--model",
        "Profile one ONNX file; without it, every artefact of the run.",
        metavar="FILE",
    )
    threads: Sequence[int] | None = flag(
        None,
        "--threads",
        "Thread count; repeat for several. Default: 1 and all usable cores.",
        metavar="N",
        minimum=1,
    )
    lengths: Sequence[int] | None = flag(
        None,
        "--length",
        "Sequence length in tokens; repeat for several. Default: 16, 32, 64, 128, 256.",
        metavar="TOKENS",
        minimum=2,
    )
    text: Path | None = flag(
        None,
        "--text",
        "UTF-8 text, one sequence a line. Default: the run's held-out text.",
        metavar="FILE",
    )
    memory_limit: str | None = flag(
        None,
        "--memory-limit",
        "Check whether each artefact runs within this memory, for example 512M. Default: no limit.",
        metavar="SIZE",
    )
    tune: bool = flag(False, "--tune", "Also search for the fastest session options.")
    bootstrap: bool = flag(
        False, "--bootstrap", "With --ssh: install onnxruntime on the board if it is missing."
    )
    calibrate: bool = flag(
        False, "--calibrate", "Fit the device's prediction constants to these measurements."
    )
    sentence_pairs: int = 1500
    claim_pairs: int = 200


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Which tasks, models and seeds `evaluate` runs, and where the labelled data are."""

    tasks: Sequence[str] | None = flag(
        None, "--task", "Task; repeat for several. Default: the recipe's tasks.", metavar="TASK"
    )
    seeds: int | None = flag(
        None,
        "--seeds",
        "Fine-tuning runs per task and model. Default: the recipe's number.",
        metavar="N",
        minimum=1,
    )
    models: Sequence[str] | None = flag(
        None,
        "--model",
        "A model of the run, or a folder; repeat for several. Default: the recipe's models.",
        metavar="MODEL",
    )
    cell: str | None = flag(
        None, "--cell", "Run this single cell. Default: all cells.", metavar="TASK:MODEL:SEED"
    )
    artefact: str | None = flag(
        None,
        "--artefact",
        "Also export the fine-tuned models at this precision and score them. Default: PyTorch only.",
        metavar="PRECISION",
    )
    data: Path | None = flag(
        None,
        "--data",
        "Folder with the data sets' official files. Default: packaged data or the hub.",
        metavar="FOLDER",
    )
    jobs: int = flag(1, "--jobs", "Cells that run at the same time.", metavar="N", minimum=1)

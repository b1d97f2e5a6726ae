"""Options of the commands that make or look for smaller models: `search` and `trim`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from edgedistil.core.flag import CheckedOptions, Flag
from edgedistil.core.options import MAX_LENGTH, MAX_THREADS

# Keys of [student] that are sizes.
StudentSize = Literal["layers", "intermediate", "heads", "embedding", "vocabulary"]
# Far above what one machine trains or measures in a day.
MAX_TRAINED = 64


@dataclass(frozen=True, kw_only=True)
class SearchOptions(CheckedOptions):
    """Device and budget of `search`."""

    device: Annotated[
        str,
        Flag(
            "--device",
            "Device whose time and memory are predicted, or host for this machine's device file.",
            metavar="DEVICE",
        ),
    ]
    under: Annotated[
        Sequence[str],
        Flag(
            "--under",
            "Limit on the time of a text (30ms) or on the file (40MB); repeat for both. "
            "Default: no limit.",
            metavar="LIMIT",
        ),
    ] = ()
    memory: Annotated[
        str | None,
        Flag(
            "--memory",
            "Limit on the peak memory of a process, such as 256MB. Default: no limit.",
            metavar="SIZE",
        ),
    ] = None
    length: Annotated[
        int,
        Flag("--length", "Tokens of a text.", metavar="TOKENS", minimum=2, maximum=MAX_LENGTH),
    ] = 64
    threads: Annotated[
        int,
        Flag("--threads", "Thread count.", metavar="N", minimum=1, maximum=MAX_THREADS),
    ] = 1
    keep: Annotated[
        Sequence[StudentSize],
        Flag(
            "--keep",
            "Size that all candidates have as the recipe's student does; repeat for several. "
            "Default: all sizes vary.",
        ),
    ] = ()
    measure: Annotated[
        int | None,
        Flag(
            "--measure",
            "Measure this many of the candidates with random weights, on this machine or with "
            "--ssh; about 20 seconds each. Default: predict all.",
            metavar="N",
            minimum=1,
            maximum=MAX_TRAINED,
        ),
    ] = None
    train: Annotated[
        int | None,
        Flag(
            "--train",
            "Train this many of the candidates by successive halving, and export the best one "
            "that meets the budget. Default: train nothing.",
            metavar="N",
            minimum=1,
            maximum=MAX_TRAINED,
        ),
    ] = None
    tokens: Annotated[
        int | None,
        Flag(
            "--tokens",
            "With --train: training tokens of all students together. Default: the recipe's "
            "train.tokens for each student.",
            metavar="N",
            minimum=1,
            maximum=10**15,
        ),
    ] = None
    ssh: Annotated[
        str | None,
        Flag(
            "--ssh",
            "With --measure and --train: measure on this board over SSH; without it a device "
            "other than host is predicted.",
            metavar="USER@HOST",
        ),
    ] = None
    bootstrap: Annotated[
        bool, Flag("--bootstrap", "With --ssh: install onnxruntime on the board if it is missing.")
    ] = False
    run: Annotated[
        str | None,
        Flag(
            "--run",
            "With --train: folder of the result. Default: the recipe's name and -search.",
            metavar="NAME",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrimOptions(CheckedOptions):
    """How small a vocabulary `trim` makes, and by which text."""

    text: Annotated[
        Path,
        Flag(
            "--text",
            "UTF-8 text whose tokens are counted, one sequence a line; a tenth is held out.",
            metavar="FILE",
        ),
    ]
    size: Annotated[
        int | None,
        Flag(
            "--size",
            "Number of tokens that stay. Default: as --coverage says.",
            metavar="N",
            minimum=1,
            maximum=10**7,
        ),
    ] = None
    coverage: Annotated[
        float | None,
        Flag(
            "--coverage",
            "Share of the text's tokens that stay as they are; 0.9995 is 99.95%. "
            "Default: as --size says.",
            metavar="SHARE",
            minimum=0,
            maximum=1,
        ),
    ] = None
    out: Annotated[
        Path | None,
        Flag(
            "--out",
            "Folder for the model and its record, which must not exist. "
            "Default: the model's name and the size.",
            metavar="FOLDER",
        ),
    ] = None
    device: Annotated[
        str | None,
        Flag(
            "--device",
            "Device on which the longer texts' time is predicted. Default: no prediction.",
            metavar="DEVICE",
        ),
    ] = None

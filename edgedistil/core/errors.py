"""The exception tree. The branch an exception grows on decides the exit code; only the command line exits.

A message says what, got, expected and what to do, on one line where it can. `hint` is the "what to do".
"""

from __future__ import annotations


class EdgeDistilError(Exception):
    """A failure that we foresaw. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class StorageError(EdgeDistilError):
    """The disk is full, a folder cannot be written, a file of ours is torn."""


class TrainingDiverged(EdgeDistilError):
    """The loss is NaN or infinite; says at which step and where the batch was saved."""


# --- the user's input: exit code 2 -------------------------------------------------------------


class InputError(EdgeDistilError):
    """Something that the user gave is wrong, missing or not supported."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe is missing, is no TOML, or has problems (all of them are told at once)."""


class DeviceFileError(InputError):
    """A device is unknown, or its file has problems."""


class RunError(InputError):
    """A run exists already, does not exist yet, or lacks what the command reads."""


class CorpusError(InputError):
    """A text source is missing, empty or not readable as text."""


class ModelError(InputError):
    """A model or tokenizer is missing, unsupported, unsafe (pickle) or does not fit its partner."""


class TaskError(InputError):
    """A labelled data set is missing, unknown or malformed; names file and line."""


class ChecksumError(InputError):
    """A fetched file is not the pinned one; it was removed."""


class OfflineError(InputError):
    """Something has to be fetched and cannot be; says what, and where to put it by hand."""


class ShapeError(InputError, ValueError):
    """Arrays whose shapes do not fit each other."""


# --- a gate said no: exit code 3 ---------------------------------------------------------------


class GateError(EdgeDistilError):
    """A measured figure is outside the bound that was asked for."""

    exit_code = 3


class ParityError(GateError):
    """An artefact's outputs are outside the tolerance of its precision."""


class ClaimError(GateError):
    """A claim given with `--require` does not hold or is inconclusive."""


# --- the device: exit code 4 -------------------------------------------------------------------


class TargetError(EdgeDistilError):
    """The device could not be reached, or could not run what was sent."""

    exit_code = 4


# --- interrupted: exit code 130 ----------------------------------------------------------------


class Interrupted(EdgeDistilError):
    """SIGINT or SIGTERM; what was done is saved, and the message says how to go on."""

    exit_code = 130

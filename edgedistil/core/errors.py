"""The exception tree; an exception's branch decides the exit code of the command line.

A message says what is wrong, what was expected, and what was found, on one line where possible. The
hint says what to do.
"""

from __future__ import annotations

from edgedistil.core.echo import bounded


class EdgeDistilError(Exception):
    """An anticipated failure.

    Attributes:
        message: What is wrong, expected and found; printable, and without long values.
        hint: What to do; None if the message suffices.
    """

    # Exit code of the command line.
    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        # Messages quote names and values from anywhere: no place that raises can forget the bounds.
        self.message = bounded(message)
        self.hint = None if hint is None else bounded(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        if self.hint is None:
            return self.message
        return f"{self.message}\n  {self.hint}"


class StorageError(EdgeDistilError):
    """The disk is full, a folder is not writable, or one of our files is corrupt."""


class TrainingDiverged(EdgeDistilError):
    """The loss is NaN or infinite; the message has the step and the file with the batch."""


# --- the user's input: exit code 2 ---------------------------------------------------------------


class InputError(EdgeDistilError):
    """Something that the user passed is wrong, missing or not supported."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe is missing, is not valid TOML, or has problems; all of them are listed."""


class DeviceFileError(InputError):
    """A device is unknown, or its file has problems."""


class RunError(InputError):
    """A run already exists, does not exist yet, or lacks what the command reads."""


class CorpusError(InputError):
    """A text source is missing, empty or not readable as text."""


class ModelError(InputError):
    """A model or tokenizer is missing, unsupported, unsafe (pickle) or does not match another."""


class TaskError(InputError):
    """A labelled data set is missing, unknown or malformed; the message has file and line."""


class ChecksumError(InputError):
    """A downloaded file is not the pinned one; it was removed."""


class OfflineError(InputError):
    """A download failed; the hint says which file to put where by hand."""


class ShapeError(InputError, ValueError):
    """Arrays have shapes that do not match."""


# --- a check failed: exit code 3 -----------------------------------------------------------------


class GateError(EdgeDistilError):
    """A measured figure is outside the requested bound."""

    exit_code = 3


class ParityError(GateError):
    """An artefact's outputs are outside the tolerances of its precision."""


class ClaimError(GateError):
    """A claim of `--require` does not hold or is inconclusive."""


# --- the device: exit code 4 ---------------------------------------------------------------------


class TargetError(EdgeDistilError):
    """The device could not be reached, or could not run what was sent to it."""

    exit_code = 4


# --- interrupted: exit code 130 ------------------------------------------------------------------


class Interrupted(EdgeDistilError):
    """SIGINT or SIGTERM; the work is saved, and the hint has the command that continues it."""

    # 128 + SIGINT, as shells report it.
    exit_code = 130

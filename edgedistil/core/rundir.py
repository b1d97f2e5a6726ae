"""The run directory: paths of a run's files, atomic writes, digests, and the latest run.

Every stage leaves its result here as a file, and the next stage reads that file. Only replaced
versions, remains of a killed preparation, and the teacher's states after the last step are deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.places import moving_advice, runs_root
from edgedistil.core.regular_file import open_regular, read_regular
from edgedistil.core.replacement import (
    close_scratch,
    open_scratch,
    recover_below,
    replace,
    without_scratch,
)
from edgedistil.core.strict_json import parse_json

LATEST = "latest"  # means the run that was finished last; a file of this name has that run's name
# A plain file name without characters that shells interpret.
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME_LIMIT_BYTES = 1000  # of a file with a name
# More than any file of ours has; parsed, it takes some ten times as much memory.
_JSON_LIMIT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class RunDir:
    """Paths of one run's files; a path may not exist yet."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    # --- distil ---

    @property
    def recipe(self) -> Path:
        """The recipe with every default written out."""
        return self.path / "recipe.toml"

    @property
    def corpus(self) -> Path:
        """CorpusRecord."""
        return self.path / "corpus.json"

    @property
    def heldout_text(self) -> Path:
        """Held-out text, UTF-8, one paragraph a line; used for probes, calibration and profiles."""
        return self.path / "heldout.txt"

    @property
    def initial_digests(self) -> Path:
        """sha256 of every file that the run starts from: teacher, student-step0, heldout.txt."""
        return self.path / "digests.json"

    @property
    def metrics(self) -> Path:
        """Training trace and held-out evaluations, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the training checkpoints."""
        return self.path / "checkpoints"

    @property
    def teacher(self) -> Path:
        """The teacher with its MLM head and tokenizer, in transformers' format."""
        return self.path / "teacher"

    @property
    def teacher_as_given(self) -> Path:
        """The teacher as it came; only there if `teacher` is a copy with a fitted head."""
        return self.path / "teacher-as-given"

    @property
    def teacher_trimmed(self) -> Path:
        """The teacher as given with the student's vocabulary; only there if that was trimmed."""
        return self.path / "teacher-trimmed"

    @property
    def teacher_states(self) -> Path:
        """The teacher's token states, while a run that reads its text again lasts."""
        return self.path / "teacher-states"

    @property
    def trim(self) -> Path:
        """TrimRecord of `teacher_trimmed`."""
        return self.path / "trim.json"

    @property
    def teachers(self) -> tuple[Path, ...]:
        """Folders of the teacher that the run has."""
        folders = (self.teacher, self.teacher_as_given, self.teacher_trimmed)
        return tuple(path for path in folders if path.exists())

    @property
    def student(self) -> Path:
        """The distilled student with its tokenizer, in transformers' format."""
        return self.path / "student"

    @property
    def student_step0(self) -> Path:
        """The initialized student, a baseline for distillation."""
        return self.path / "student-step0"

    @property
    def distill(self) -> Path:
        """DistillRecord."""
        return self.path / "distill.json"

    # --- evaluate ---

    @property
    def evaluation(self) -> Path:
        """EvaluationRecord."""
        return self.path / "evaluation.json"

    @property
    def ablation(self) -> Path:
        """AblationRecord, in the full recipe's run."""
        return self.path / "ablation.json"

    @property
    def cells(self) -> Path:
        """Folder with one file per task, model and seed of the evaluation."""
        return self.path / "evaluate"

    # --- export ---

    @property
    def exports(self) -> Path:
        """Folder of the export folders."""
        return self.path / "export"

    def export(self, model: str, task: str) -> Path:
        """Hub-ready folder of one model and task: `export/student-fill-mask`."""
        return self.exports / f"{model}-{task}"

    @property
    def rejected(self) -> Path:
        """Folder of the artefacts that failed the parity check, with their reports."""
        return self.path / "rejected"

    def parity(self, model: str, task: str, precision: str) -> Path:
        """ParityRecord of one artefact."""
        return self.path / "parity" / f"{model}-{task}.{precision}.json"

    def parity_on(self, device: str, model: str, task: str, precision: str) -> Path:
        """ParityRecord of one artefact under an emulated device's kernels."""
        return self.path / "parity" / device / f"{model}-{task}.{precision}.json"

    def probes(self, model: str, task: str) -> Path:
        """Inputs from held-out text and PyTorch's outputs (npz)."""
        return self.path / "parity" / f"{model}-{task}.probes.npz"

    # --- profile and report ---

    @property
    def profiles(self) -> Path:
        """Folder of the profile records."""
        return self.path / "profile"

    def profile(self, device: str, method: str) -> Path:
        """ProfileRecord of one device by one method (measured, emulated, predicted)."""
        return self.profiles / f"{device}.{method}.json"

    def profile_within(self, device: str, limit_bytes: int) -> Path:
        """ProfileRecord of the artefacts under a memory limit on one device."""
        return self.profiles / f"{device}.within-{limit_bytes / 2**20:.0f}MiB.json"

    @property
    def report(self) -> Path:
        """The page that `report` writes."""
        return self.path / "report.html"

    def report_card(self, folder: str) -> Path:
        """Model card of an export folder with the profiles of the run, written by `report`."""
        return self.path / "report" / "cards" / folder / "README.md"

    def require(self, path: Path, made_by: str) -> Path:
        """Returns `path` if it exists.

        Args:
            path: A path of this run.
            made_by: Command that writes it.
        Raises:
            RunError: The path does not exist yet.
        """
        if not path.exists():
            raise RunError(
                f"run '{self.name}' has no {path.relative_to(self.path)} yet",
                hint=f"create it with: {made_by}",
            )
        return path


# --- opening runs --------------------------------------------------------------------------------


def create_run(name: str, *, root: Path | None = None, resume: bool = False) -> RunDir:
    """Creates a run directory, or opens it to continue a run.

    Args:
        name: Name of the run.
        root: Folder of the runs; `runs_root()` by default.
        resume: Whether the run may exist already.
    Raises:
        RunError: The name is not a plain file name, or the run exists and `resume` is false.
        StorageError: The folder cannot be created.
    """
    path = (root or runs_root()) / checked_name(name)
    with storage_errors(path):
        exists = path.is_dir() and any(path.iterdir())
    if exists and not resume:
        raise RunError(
            f"run '{name}' already exists ({path})",
            hint="continue it with --resume, or start another one with --run NEW-NAME;"
            " nothing was changed",
        )
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    recover_below(path)
    return RunDir(path)


def open_run(name: str = LATEST, *, root: Path | None = None) -> RunDir:
    """Opens an existing run; `latest` is the one that completed a stage last.

    Raises:
        RunError: The run does not exist (the message lists the existing ones).
        StorageError: The folder of the runs cannot be searched.
    """
    base = root or runs_root()
    run_name = _read_latest(base) if name == LATEST else checked_name(name)
    path = base / run_name
    with storage_errors(path):
        exists = path.is_dir()
    if not exists:
        existing = ", ".join(run_names(base)) or "no runs yet"
        raise RunError(
            f"unknown run '{run_name}' in {base}; existing: {existing}",
            hint="create one with: edgedistil distill RECIPE",
        )
    recover_below(path)
    return RunDir(path)


def run_names(root: Path | None = None) -> list[str]:
    """Names of all runs, sorted; empty if their folder is missing or cannot be read."""
    base = root or runs_root()
    try:
        names = [path.name for path in base.iterdir() if path.is_dir()]
    except OSError:
        return []
    # Not the scratch folders of a killed process.
    return sorted(name for name in names if _RUN_NAME.fullmatch(name))


def mark_latest(run: RunDir) -> None:
    """Makes `--run latest` mean this run."""
    write_text(run.path.parent / LATEST, run.name + "\n")


def checked_name(name: str) -> str:
    """Returns a run's name unchanged.

    Raises:
        RunError: The name is not a plain file name, or is `latest`.
    """
    if name == LATEST or not _RUN_NAME.fullmatch(name):
        raise RunError(
            f"'{name}' is not a valid name of a run: expected at most 100 letters, digits,"
            f" '.', '_', '-', and not '{LATEST}'"
        )
    return name


def _read_latest(base: Path) -> str:
    path = base / LATEST
    unfinished = run_names(base)
    hint = "create one with: edgedistil distill RECIPE"
    if unfinished:
        hint = f"unfinished: {', '.join(unfinished)}; select one with --run"
    try:
        # The file may have been edited: its content must not lead out of the folder.
        return checked_name(read_regular(path, limit_bytes=_NAME_LIMIT_BYTES).decode().strip())
    except FileNotFoundError:
        raise RunError(f"{base} has no finished run yet", hint=hint) from None
    except (OSError, UnicodeDecodeError, RunError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        existing = ", ".join(unfinished) or "no runs yet"
        raise RunError(
            f"{path} does not contain the name of a run: {reason}",
            hint=f"select a run with --run (existing: {existing}); the next stage that completes"
            " writes the file again",
        ) from error


# --- files that appear complete or not at all ----------------------------------------------------


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Converts the operating system's errors about `path` into a StorageError with a hint."""
    try:
        yield
    except OSError as error:
        published = without_scratch(path)
        raise StorageError(
            f"cannot write {published}: {error.strerror or error}",
            hint=f"{moving_advice(published, error)}; existing files are unchanged",
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path for a file or folder; renames it to `path` if the body succeeds.

    The content is synced to disk before the rename, so that after a crash `path` is the old or the
    new version, complete. What killed processes left of an earlier replacement is removed first.
    """
    # In the same folder, because a rename is atomic within one file system only.
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch, descriptor = open_scratch(path)
    unfinished = scratch / path.name
    try:
        yield unfinished
        with storage_errors(path):
            _fsync_tree(unfinished)
            replace(unfinished, path)
            _fsync(path.parent)
    finally:
        with storage_errors(path):
            close_scratch(scratch, descriptor, path)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, complete or not at all."""
    with replacing(path) as unfinished, storage_errors(path):
        unfinished.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, complete or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, complete or not at all.

    Raises:
        ValueError: `value` contains NaN or an infinity; an absent figure is a NotMeasured.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, hint: str | None = None) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        hint: What to do if it cannot be read.
    Raises:
        StorageError: The file is missing, too large, or not valid JSON.
    """
    try:
        text = read_regular(path, limit_bytes=_JSON_LIMIT_BYTES).decode("utf-8")
        return parse_json(text)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}", hint=hint) from error
    except ValueError as error:
        raise StorageError(
            f"cannot read {path}: it is not valid JSON ({error})", hint=hint
        ) from error


def read_json_object(path: Path, *, hint: str | None = None) -> dict[str, Any]:
    """Reads a JSON file that contains an object; raises StorageError for anything else."""
    value = read_json(path, hint=hint)
    if not isinstance(value, dict):
        raise StorageError(
            f"{path} contains a JSON {type(value).__name__}; expected an object", hint=hint
        )
    return value


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_tree(path: Path) -> None:
    paths = [path]
    if path.is_dir():
        paths = [*path.rglob("*"), path]
    for item in paths:
        # A link is stored in its folder, and its target may not exist.
        if not item.is_symlink():
            _fsync(item)


# --- digests -------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    """Hex digest of a regular file's content, read in blocks."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artefact_files(graph: Path) -> list[Path]:
    """An ONNX graph and its external data: files named after it, such as `model.onnx_data`."""
    siblings = sorted(graph.parent.glob(f"{graph.name}*"))
    return [graph, *(path for path in siblings if path != graph and path.is_file())]


def artefact_sha256(graph: Path) -> str:
    """Digest of an artefact: its file's, or with external data of all files' names and digests."""
    files = artefact_files(graph)
    if len(files) == 1:
        return sha256_file(graph)
    lines = [f"{sha256_file(file)}  {file.name}\n" for file in files]
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def tree_manifest(folder: Path) -> dict[str, str]:
    """Relative path → digest of every file below a folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): sha256_file(file) for file in files}

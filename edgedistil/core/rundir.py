"""The run directory: the name of every artefact, atomic writes, the manifest, and which run is the latest.

Every stage leaves its result here as a file, and the next stage reads that file. Nothing in a run directory is ever
deleted by us except what we replace whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core.errors import RunError, StorageError

LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def runs_root() -> Path:
    """Folder that holds the runs: `$EDGEDISTIL_RUNS`, else `runs` in the working directory."""
    return Path(os.environ.get("EDGEDISTIL_RUNS") or "runs")


@dataclass(frozen=True)
class RunDir:
    """One run. Properties name what lies in it; they do not promise that it is there yet."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        """The resolved recipe, every default written out."""
        return self.path / "recipe.toml"

    @property
    def corpus(self) -> Path:
        """CorpusRecord: sources with licences, tokens, hashes, where the cached token shards lie."""
        return self.path / "corpus.json"

    @property
    def heldout_text(self) -> Path:
        """Held-out text, one paragraph a line, UTF-8: probes, calibration and profiling read it."""
        return self.path / "heldout.txt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: the training trace and the held-out evaluations."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def teacher(self) -> Path:
        """The teacher with its MLM head and tokenizer, as a folder that transformers loads."""
        return self.path / "teacher"

    @property
    def student(self) -> Path:
        """The distilled student with its tokenizer, as a folder that transformers loads."""
        return self.path / "student"

    @property
    def student_step0(self) -> Path:
        """The student as it was initialised: the baseline that distillation has to beat."""
        return self.path / "student-step0"

    @property
    def distill(self) -> Path:
        """DistillRecord."""
        return self.path / "distill.json"

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
        """One file per (task, model, seed) of the evaluation."""
        return self.path / "evaluate"

    @property
    def exports(self) -> Path:
        """One hub-ready folder per model and task: `student-fill-mask`, `teacher-feature-extraction` …"""
        return self.path / "export"

    def export(self, model: str, task: str) -> Path:
        return self.exports / f"{model}-{task}"

    @property
    def rejected(self) -> Path:
        """Artefacts that a parity gate refused, with their reports."""
        return self.path / "rejected"

    def parity(self, model: str, task: str, precision: str) -> Path:
        """ParityRecord of one artefact."""
        return self.path / "parity" / f"{model}-{task}.{precision}.json"

    def parity_on(self, device: str, model: str, task: str, precision: str) -> Path:
        """ParityRecord of one artefact under an emulated device's kernels."""
        return self.path / "parity" / device / f"{model}-{task}.{precision}.json"

    def probes(self, model: str, task: str) -> Path:
        """Real text and what PyTorch answers to it (npz)."""
        return self.path / "parity" / f"{model}-{task}.probes.npz"

    @property
    def profiles(self) -> Path:
        return self.path / "profile"

    def profile(self, device: str, method: str) -> Path:
        """ProfileRecord of one device by one method (measured, emulated, predicted)."""
        return self.profiles / f"{device}.{method}.json"

    def profile_within(self, device: str, limit_bytes: int) -> Path:
        """ProfileRecord of what fits into a memory limit on one device."""
        return self.profiles / f"{device}.within-{limit_bytes / 2**20:.0f}MiB.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def require(self, path: Path, made_by: str) -> Path:
        """`path`, which the command `made_by` writes.

        Raises:
            RunError: It is not there yet.
        """
        if not path.exists():
            raise RunError(
                f"run '{self.name}' has no {path.relative_to(self.path)} yet",
                hint=f"make it with: {made_by}",
            )
        return path


def create_run(name: str, *, root: Path | None = None, resume: bool = False) -> RunDir:
    """A run directory for writing.

    Raises:
        RunError: The name is not a plain file name, or a run of that name exists and `resume` is off.
        StorageError: The folder cannot be made.
    """
    path = (root or runs_root()) / checked_name(name)
    if path.exists() and not resume and any(path.iterdir()):
        raise RunError(
            f"run '{name}' exists already ({path})",
            hint="continue it with --resume, or start another one with --run NEW-NAME; nothing was changed",
        )
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return RunDir(path)


def open_run(name: str = LATEST, *, root: Path | None = None) -> RunDir:
    """An existing run; `latest` is the one that a stage completed last.

    Raises:
        RunError: There is no such run (says which ones there are).
    """
    base = root or runs_root()
    chosen = _read_latest(base) if name == LATEST else checked_name(name)
    path = base / chosen
    if not path.is_dir():
        there = ", ".join(run_names(base)) or "none"
        raise RunError(
            f"no run '{chosen}' in {base} (there: {there})",
            hint="edgedistil distill RECIPE makes one",
        )
    return RunDir(path)


def run_names(root: Path | None = None) -> list[str]:
    base = root or runs_root()
    return sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []


def mark_latest(run: RunDir) -> None:
    """Let `--run latest` mean this run from now on."""
    write_text(run.path.parent / LATEST, run.name + "\n")


def checked_name(name: str) -> str:
    """`name`, if it is a plain file name that is not `latest`.

    Raises:
        RunError: It is not.
    """
    if name == LATEST or not _NAME.fullmatch(name):
        raise RunError(
            f"'{name}' cannot name a run: expected letters, digits, '.', '_', '-', at most 100, not '{LATEST}'"
        )
    return name


def _read_latest(base: Path) -> str:
    try:
        return checked_name((base / LATEST).read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        there = run_names(base)
        raise RunError(
            f"there is no finished run in {base} yet",
            hint=f"unfinished: {', '.join(there)}; name one with --run"
            if there
            else "edgedistil distill RECIPE makes one",
        ) from None


# --- files that appear whole or not at all -------------------------------------------------------


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system says about `path` into a StorageError with a sentence."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free some space or choose another folder; what was there before is unchanged",
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A sibling path to write to; it takes the name `path` only if the body ends well (write aside, fsync, rename).

    For a file, or for a folder: an old folder is moved aside and removed after the new one has its name.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    aside = scratch / path.name
    try:
        yield aside
        with storage_errors(path):
            _fsync_tree(aside)
            if path.is_dir() and not path.is_symlink():
                path.rename(scratch / "old")
            aside.replace(path)
            _fsync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as aside, storage_errors(path):
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all.

    Raises:
        ValueError: `value` holds NaN or an infinity: such a figure must be an absence with a reason.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artefact_files(graph: Path) -> list[Path]:
    """An ONNX graph and its external data: the files beside it that are named after it (`model.onnx_data`)."""
    return [
        graph,
        *sorted(p for p in graph.parent.glob(f"{graph.name}*") if p != graph and p.is_file()),
    ]


def artefact_sha256(graph: Path) -> str:
    """Digest of an artefact: the file's own sha256, or with external data that of all its files' names and digests."""
    files = artefact_files(graph)
    if len(files) == 1:
        return sha256_file(graph)
    lines = [f"{sha256_file(file)}  {file.name}\n" for file in files]
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def tree_manifest(folder: Path) -> dict[str, str]:
    """sha256 by relative path of every file below `folder`, in sorted order."""
    return {
        str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_tree(path: Path) -> None:
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        if not each.is_symlink():  # a link is on the disk with its folder, and may point nowhere
            _fsync(each)

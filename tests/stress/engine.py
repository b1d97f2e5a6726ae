"""Runs cases one after the other, each in folders of its own, and records what came of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.stress import processes, warm
from tests.stress.case import Case, Outcome
from tests.stress.world import ROOT, VECTORS, World, write_inputs

TIMEOUT_S = 60.0
LIMIT_BYTES = 4 * 2**30
# Sound inputs have no limit worth the name: a loaded machine is not a fault of theirs.
_BUILD_TIMEOUT_S = 900.0
# For the children of a command that has ended.
_GRACE_S = 5.0
# Variables of the caller that would change what a case sees.
_DROPPED = ("EDGEDISTIL_RUNS", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "COLUMNS", "PYTHONPATH")


@dataclass(frozen=True)
class Folders:
    """Folders of one case.

    Attributes:
        base: Contains the others and nothing else.
        work: The working folder.
        cache: EDGEDISTIL_CACHE.
        tmp: TMPDIR.
        home: HOME; nothing may be written there.
    """

    base: Path
    work: Path
    cache: Path
    tmp: Path
    home: Path

    @classmethod
    def create(cls, base: Path) -> Folders:
        """Makes the folders, all empty."""
        shutil.rmtree(base, ignore_errors=True)
        folders = cls(base, *(base / name for name in ("work", "cache", "tmp", "home")))
        for path in (folders.work, folders.cache, folders.tmp, folders.home):
            path.mkdir(parents=True)
        return folders


class Engine:
    """Runs command lines in forks of this process, or in processes of their own."""

    def __init__(self, root: Path) -> None:
        """Prepares this process: call it once, before anything computes.

        Args:
            root: Empty folder for everything that is written.
        """
        self.root = root
        self.shared = root / "shared"
        self.shared.mkdir(parents=True)
        # Libraries read these when they are imported.
        os.environ.update(self._library_environment())
        warm.import_everything()
        processes.adopt_orphans()
        self.world = World(root / "world")

    def _library_environment(self) -> dict[str, str]:
        return {
            "HF_HOME": str(self.shared / "hf"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "MPLCONFIGDIR": str(self.shared / "matplotlib"),
            "OMP_NUM_THREADS": "1",
            # As `edgedistil` sets it; otherwise the import of onnxruntime starts a thread.
            "ORT_DISABLE_TELEMETRY": "1",
            # PyTorch creates its cache of compiled models at its import, in TMPDIR by default.
            "TORCHINDUCTOR_CACHE_DIR": str(self.shared / "inductor"),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            "PYTHONPATH": str(ROOT),
        }

    # --- the world ---------------------------------------------------------------------------

    def build_world(self, *, with_run: bool = True) -> None:
        """Writes the sound inputs, and makes a complete run of them.

        Raises:
            RuntimeError: A command failed.
        """
        self._in_fork(lambda: write_inputs(self.world.path))
        if with_run:
            folders = Folders.create(self.root / "building")
            self.world.copy(
                folders.work, "teacher", "corpus.txt", "task.toml", "train.csv", "dev.csv"
            )
            self.world.copy(folders.work, "recipe.toml")
            case = Case("world", "run", ("run", "recipe.toml"), (0,))
            outcome = self.run_in(case, folders, timeout_s=_BUILD_TIMEOUT_S)
            if outcome.code != 0:
                raise RuntimeError(f"the sound run failed: {outcome.output.decode()[-2000:]}")
            shutil.copytree(folders.work / "runs", self.world.path / "runs")
            shutil.copytree(folders.cache, self.world.path / "cache")
            self._build_vectors(folders)

    def _build_vectors(self, folders: Folders) -> None:
        """Exports the encoder for sentence vectors."""
        self.world.copy(folders.work, "encoder", "text.txt")
        arguments = ("export", "--model", "encoder", "--text", "text.txt", "--quantize", "fp32")
        case = Case("world", "vectors", (*arguments, "--run", "vectors"), (0,))
        outcome = self.run_in(case, folders, timeout_s=_BUILD_TIMEOUT_S)
        if outcome.code != 0:
            raise RuntimeError(f"the sound export failed: {outcome.output.decode()[-2000:]}")
        (package,) = (folders.work / "runs" / "vectors" / "export").iterdir()
        shutil.copytree(package, self.world.path / VECTORS)

    def _in_fork(self, work: Callable[[], None]) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the sound inputs could not be written")

    # --- one case ----------------------------------------------------------------------------

    def run(self, case: Case, seed: int, base: Path) -> Outcome:
        """Prepares a case in new folders and runs it."""
        folders = Folders.create(base)
        try:
            case.prepare(folders.work, case.random(seed))
        except Exception as error:
            return Outcome(None, b"", 0.0, ended_for=f"prepare: {error!r:.300}")
        outcome = self.run_in(case, folders)
        if case.check is None or outcome.code != 0:
            return outcome
        return replace(outcome, wrong_files=tuple(case.check(folders.work)))

    def run_in(self, case: Case, folders: Folders, *, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Runs a case in folders that are prepared."""
        before = _listing(folders)
        started = time.monotonic()
        output, outside = folders.base / "output", folders.base / "outside"
        outside.touch()
        pid = self.start(case, folders, output)
        status, peak, cpu_s = processes.wait_for(pid, timeout_s=timeout_s, limit_bytes=LIMIT_BYTES)
        seconds = time.monotonic() - started
        ended_for = ""
        if status is None:
            reason = "no end" if peak <= LIMIT_BYTES else "memory"
            ended_for = f"{reason}: after {seconds:.0f} s, {peak / 2**30:.1f} GiB"
            processes.end_descendants(os.getpid())
        remaining = processes.survivors(os.getpid(), within_s=_GRACE_S)
        lines = tuple(map(processes.command_line, remaining))
        processes.end_descendants(os.getpid())
        changed = [path for path in _listing(folders) if path not in before]
        return Outcome(
            code=None if status is None else os.waitstatus_to_exitcode(status),
            output=output.read_bytes() if output.exists() else b"",
            seconds=seconds,
            cpu_seconds=cpu_s,
            peak_bytes=peak,
            ended_for=ended_for,
            outside=(*outside.read_text(errors="replace").splitlines(), *changed),
            leftovers=tuple(sorted(os.listdir(folders.tmp))),  # noqa: PTH208
            processes=lines,
        )

    def start(self, case: Case, folders: Folders, output: Path) -> int:
        """Starts a case; returns the process id of its session's leader."""
        environment = self.environment(folders, case.environment)
        if case.alone:
            return self._start_alone(case, folders, output, environment)
        pid = os.fork()
        if pid == 0:
            try:
                warm.run_in_child(
                    case.arguments,
                    work=folders.work,
                    environment=environment,
                    output=output,
                    writable=[folders.work, folders.cache, folders.tmp, self.shared],
                    outside=folders.base / "outside",
                )
            finally:
                os._exit(70)
        return pid

    def environment(self, folders: Folders, further: Mapping[str, str]) -> dict[str, str]:
        """Returns the environment variables of a case."""
        environment = {key: value for key, value in os.environ.items() if key not in _DROPPED}
        environment |= {
            **self._library_environment(),
            "EDGEDISTIL_CACHE": str(folders.cache),
            "TMPDIR": str(folders.tmp),
            "HOME": str(folders.home),
        }
        places = {"work": folders.work, "path": os.environ["PATH"]}
        filled = {key: value.format(**places) for key, value in further.items()}
        return environment | filled

    def _start_alone(
        self, case: Case, folders: Folders, output: Path, environment: dict[str, str]
    ) -> int:
        with output.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgedistil", *case.arguments],
                cwd=folders.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # It is waited for by its process id; otherwise the object would warn.
        process.returncode = 0
        return process.pid


def _listing(folders: Folders) -> set[str]:
    """Returns the paths in a case's folders that nothing may write."""
    outer = [path for path in folders.base.iterdir() if path.name not in _own_names()]
    return {str(path) for path in (*outer, *folders.home.rglob("*"))}


def _own_names() -> set[str]:
    return {"work", "cache", "tmp", "home", "output", "outside"}


def end_with_terminal(folder: Path | None) -> None:
    """Lets SIGINT and SIGTERM kill the present case's processes and remove a folder."""

    def stop(_number: int, _frame: object) -> None:
        processes.end_descendants(os.getpid())
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(130)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

"""Runs command lines in forks of one process that has imported everything.

A fork starts in milliseconds, an interpreter with PyTorch in seconds. It is sound because the warm
process only imports: it computes nothing, opens no session, and has a single thread (checked).
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any, NoReturn

import edgedistil

# Libraries that a command imports while it works. Modules of the product are all imported.
_LIBRARIES = (
    "accelerate.tracking",
    "accelerate.utils",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "onnx_ir.passes.common",
    "onnxruntime.quantization",
    "onnxruntime.tools.ort_format_model",
    "optimum.exporters.tasks",
    "safetensors.torch",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.metrics",
    "tokenizers",
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.distilbert.modeling_distilbert",
)
# These start threads when they are imported; a fork would have their locks, but not the threads.
# The modules that need them are imported by the forks.
_WITH_THREADS = ("datasets", "pyarrow")
# The first one runs on boards, the other one is the entry point itself.
_NOT_IMPORTED = ("edgedistil.runtime.runner", "edgedistil.__main__")
# Events of Python's audit hooks that change the file system, with the places of their paths.
_WRITES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
}
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _BlockedError(ImportError):
    """An import was refused."""


class _Blocker(MetaPathFinder):
    """Refuses to import the libraries that start threads."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in _WITH_THREADS:
            raise _BlockedError(name)


def import_everything() -> None:
    """Imports all modules of the commands, except those that need a library with threads.

    Raises:
        RuntimeError: An import started a thread, so that forks would not be sound.
    """
    blocker = _Blocker()
    sys.meta_path.insert(0, blocker)
    modules = [info.name for info in walk_packages(edgedistil.__path__, "edgedistil.")]
    for name in (*_LIBRARIES, *modules):
        if name not in _NOT_IMPORTED:
            with suppress(_BlockedError):
                import_module(name)
    sys.meta_path.remove(blocker)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads != 1:
        raise RuntimeError(f"{threads} threads run after the imports; a fork needs exactly one")
    gc.collect()
    gc.freeze()


def run_in_child(
    arguments: Iterable[str],
    *,
    work: Path,
    environment: Mapping[str, str],
    output: Path,
    writable: Iterable[Path],
    outside: Path,
) -> NoReturn:
    """Becomes a process that runs one command line; call it in a fresh fork.

    Args:
        arguments: Arguments of the command line.
        work: Its working folder.
        environment: Its environment variables, all of them.
        output: File for stdout and stderr.
        writable: Folders that it may write.
        outside: File for the paths elsewhere that it writes.
    """
    os.setsid()
    _redirect(output)
    os.chdir(work)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["edgedistil", *arguments]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The folder of temporary files is looked up once per process.
    import tempfile

    tempfile.tempdir = None
    # Processes that multiprocessing spawns import the main module.
    main_module = ModuleType("__main__")
    main_module.__spec__ = find_spec("edgedistil.__main__")
    sys.modules["__main__"] = main_module
    _watch_writes(writable, outside)
    code = _call_main()
    # As the interpreter's own end: threads, then exit functions. `sys.exit` would unwind into the
    # warm process's frames.
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    os._exit(code)


def _redirect(output: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, null), (1, file), (2, file)):
        os.dup2(source, target)
    os.close(null)
    os.close(file)


def _call_main() -> int:
    from edgedistil.cli import main

    try:
        main()
    except SystemExit as stop:
        if stop.code is None:
            return 0
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _watch_writes(writable: Iterable[Path], outside: Path) -> None:
    """Appends the path of every write outside of `writable` to a file."""
    log = os.open(outside, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    allowed = tuple(os.fspath(path.resolve()) for path in writable)

    def note(path: Any) -> None:
        # Descriptors were opened by an earlier event.
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        full = os.path.realpath(os.fsdecode(path))
        # A memory limit is a control group of its own, which is a folder there.
        is_device = full.startswith(("/dev/", "/proc/", "/sys/fs/cgroup/"))
        if not is_device and not any(full == p or full.startswith(p + "/") for p in allowed):
            os.write(log, full.encode("utf-8", "replace") + b"\n")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # A path that the system refuses (NUL, too long) is written nowhere.
        with suppress(ValueError, OSError):
            if event == "open":
                path, mode, flags = arguments
                if (mode and set(mode) & set("wax+")) or (flags and flags & _WRITE_FLAGS):
                    note(path)
            elif event in _WRITES:
                for place in _WRITES[event]:
                    note(arguments[place])

    sys.addaudithook(hook)

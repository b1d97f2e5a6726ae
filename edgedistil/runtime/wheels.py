"""Pinned numpy, onnxruntime and tokenizers for 64-bit ARM Linux.

Emulation, `--bootstrap` and bundles use them.

A wheel is a zip file: pip downloads it on any host and checks its sha256; nothing of it is
installed or run on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.fetch import PinnedPackage, check_sha256, pip_download
from edgedistil.core.places import cache_root

# Platform tags that the pinned wheels may carry; the first one needs glibc 2.28 on the board.
PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux2014_aarch64",
    "manylinux_2_17_aarch64",
)

# The newest pair that has wheels for each Python that a board may have (3.9 is Debian 11's, 3.13 is
# Debian 13's). onnxruntime 1.21.0 is here so that its crash on ARMv8.0 can be reproduced under
# emulation (docs/log.md#onnxruntime-121-on-armv80); it follows the newer version of its Python, so
# it is never the default. Columns: Python, package, version, bytes, sha256.
_PINNED = """
3.9  numpy       2.0.2  13912596 1e795a8be3ddbac43274f18588329c72939870a16cae810c2b73461c40718ab1
3.9  onnxruntime 1.19.2 11498178 df2a94179a42d530b936f154615b54748239c2908ee44f0d722cb4df10670f68
3.10 numpy       2.2.6  14297320 efd28d4e9cd7d7a8d39074a4d44c63eda73401580c5c76acda2ce969e0a38e83
3.10 onnxruntime 1.23.2 15219883 8f7d1fe034090a1e371b7f3ca9d3ccae2fabae8c1d8844fb7371d1ea38e8e8d2
3.11 numpy       2.4.6  15966692 0ab0a9c4ffb1a6d95ef519fe4247dba8eb6b18ad93999f76b7f657039acabd47
3.11 onnxruntime 1.32.0 23195070 2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c
3.11 onnxruntime 1.21.0 14159570 7f9156cf6f8ee133d07a751e6518cf6f84ed37fbf8243156bd4a2c4ee6e073c8
3.12 numpy       2.4.6  15671012 5f9fb9157b4ce2971008323afe46053787b526ef624fea915b261468a8421a0f
3.12 onnxruntime 1.32.0 23196724 e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054
3.12 onnxruntime 1.21.0 14159975 37b7445c920a96271a8dfa16855e258dc5599235b41c7bbde0d262d55bcc105f
3.13 numpy       2.4.6  15669392 72fbe16c6fac95aedf5937fa873445cec2110be35d8a4e9433d7501fd98dae6b
3.13 onnxruntime 1.32.0 23195811 54d02baff2df38777b4c3cc7af326406fe8b8a48f54720f4c446d2d327920a79
3.13 onnxruntime 1.21.0 14160534 94dff3a61538f3b7b0ea9a06bc99e1410e90509c76e3a746f039e417802a12ae
3.14 numpy       2.4.6  15685197 40fdc1ae7125e518ea98e53e69a4ebc27e1fd50510c47b7ea130cf21e5e1d42b
3.14 onnxruntime 1.32.0 23197888 4135431395c1f37de0811f452c20a8b774f51812fda6c49611ed9899bbdbeeb4
"""


@dataclass(frozen=True)
class Wheel:
    """One pinned package file for aarch64.

    Attributes:
        python: Python version that it is for: "3.11".
        package: Name of the package.
        version: Version of the package.
        bytes: Size of the file.
        sha256: Digest of the file.
    """

    python: str
    package: str
    version: str
    bytes: int
    sha256: str

    @property
    def folder(self) -> Path:
        """Its folder in the cache."""
        return cache_root() / "wheels" / self.sha256[:16]

    @property
    def pin(self) -> PinnedPackage:
        """The file as pip downloads it."""
        flags = ["--implementation", "cp", "--python-version", self.python]
        for platform in PLATFORMS:
            flags += ["--platform", platform]
        tag = self.python.replace(".", "")
        return PinnedPackage(
            package=self.package,
            version=self.version,
            sha256=self.sha256,
            file=f"the cp{tag} aarch64 wheel of {self.package} {self.version}",
            pip_flags=tuple(flags),
        )

    def find_cached(self) -> Path | None:
        """Returns its cached file, unchecked; None if it is missing."""
        return next(iter(sorted(self.folder.glob("*.whl"))), None)


def _parse_table(table: str) -> tuple[Wheel, ...]:
    wheels = []
    for line in table.strip().splitlines():
        python, package, version, size, sha256 = line.split()
        wheels.append(Wheel(python, package, version, int(size), sha256))
    return tuple(wheels)


PINNED = _parse_table(_PINNED)
# Of bundles in Python; one file for all Pythons from 3.10.
TOKENIZERS = Wheel(
    python="3.11",
    package="tokenizers",
    version="0.23.3",
    bytes=3_519_944,
    sha256="ec82e80e65a862275b97c3d90b7a523df8d9519ee48aeb4e9625b2cc909274e0",
)


def arm64_wheels(python: str, *, onnxruntime: str | None = None) -> tuple[Wheel, Wheel]:
    """Returns the pinned numpy and onnxruntime for a Python version.

    Args:
        python: Python version: "3.11".
        onnxruntime: Version of onnxruntime; the newest if missing.
    Raises:
        InputError: No such pair is pinned.
    """
    wheels = [wheel for wheel in PINNED if wheel.python == python]
    numpys = [wheel for wheel in wheels if wheel.package == "numpy"]
    runtimes = [wheel for wheel in wheels if wheel.package == "onnxruntime"]
    if not numpys:
        pythons = dict.fromkeys(wheel.python for wheel in PINNED)
        raise InputError(
            f"no aarch64 wheels for Python {python}: expected one of {', '.join(pythons)}"
        )
    # The first row of a Python is its newest version.
    for runtime in runtimes:
        if onnxruntime in (None, runtime.version):
            return numpys[0], runtime
    versions = ", ".join(runtime.version for runtime in runtimes)
    raise InputError(
        f"no aarch64 wheel of onnxruntime {onnxruntime} for Python {python}: "
        f"expected one of {versions}"
    )


def fetch_wheels(wheels: tuple[Wheel, ...]) -> list[Path]:
    """Returns the wheel files, downloaded if they are not cached.

    Raises:
        OfflineError: A wheel is not cached and cannot be downloaded.
        ChecksumError: A file is not the pinned one (a cached one is removed).
    """
    missing = [wheel for wheel in wheels if wheel.find_cached() is None]
    if missing:
        total = sum(wheel.bytes for wheel in missing)
        with console.progress("downloading aarch64 wheels", total, unit="bytes") as bar:
            for wheel in missing:
                bar.note(f"{wheel.package} {wheel.version}")
                pip_download(wheel.pin, wheel.folder)
                bar.advance(wheel.bytes)
    return [_checked_file(wheel) for wheel in wheels]


def _checked_file(wheel: Wheel) -> Path:
    path = wheel.find_cached() or pip_download(wheel.pin, wheel.folder)
    # A file may have been put into the cache manually, as the offline message suggests.
    check_sha256(path, wheel.pin)
    return path

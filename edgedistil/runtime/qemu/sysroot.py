"""A root file system of 64-bit ARM Linux with Python, numpy and onnxruntime, built once, for qemu-user to run.

No foreign dpkg and no debootstrap: apt, with a private state of architecture arm64, resolves and fetches the packages
from the sources that this machine is set up with (and checks their signatures); `dpkg-deb -x` unpacks them into a
folder. The host's packages, its apt state and its architectures are not touched. Snapshots of a distribution vanish,
so what is pinned is the list of packages, and the version and sha256 of every file that came is on record beside it.
Wheels are pinned by sha256 (`wheels.py`).

    <cache>/sysroot/<distribution>-<key>/root         the file system
    <cache>/sysroot/<distribution>-<key>/sysroot.json what it is made of
    <cache>/sysroot/site-py3.11-onnxruntime-…-<key>/  unpacked wheels
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from edgedistil.core import console
from edgedistil.core.assets import cache_root
from edgedistil.core.errors import InputError, OfflineError, StorageError
from edgedistil.core.rundir import read_json, replacing, sha256_file, storage_errors, write_json
from edgedistil.runtime.wheels import arm64_wheels, fetch_wheels

FORMAT = 1
PACKAGES = (
    "python3-minimal",
    "libpython3-stdlib",
    "libc6",
    "libstdc++6",
    "libgcc-s1",
    "libgomp1",
    "zlib1g",
)
OWN_ROOT = "EDGEDISTIL_ARM64_ROOT"
_EM_AARCH64 = 183
_BY_HAND = (
    f"any arm64 root with Python serves: `docker create --platform linux/arm64 python:3.11-slim`, `docker export` it "
    f"into a folder, and set {OWN_ROOT} to that folder"
)


@dataclass(frozen=True)
class Sysroot:
    """An arm64 root file system, and the Python in it."""

    root: Path
    interpreter: Path
    python: str
    description: str

    @property
    def home(self) -> Path:
        """What PYTHONHOME has to be for that interpreter."""
        return self.interpreter.parent.parent


@dataclass(frozen=True)
class Site:
    """A folder with numpy and onnxruntime for a sysroot's Python."""

    path: Path
    numpy: str
    onnxruntime: str


def ensure_sysroot() -> Sysroot:
    """The sysroot in the cache, built first if it is not there; or the folder that `EDGEDISTIL_ARM64_ROOT` names.

    Raises:
        OfflineError: It is not built yet, and this machine has no apt, or apt cannot fetch the packages.
        InputError: `EDGEDISTIL_ARM64_ROOT` names no arm64 root with Python.
    """
    own = os.environ.get(OWN_ROOT)
    if own:
        return _examine(Path(own).resolve(), f"{OWN_ROOT}={own}")
    folder = _sysroots() / f"{_distribution()}-{_key()}"
    if not (folder / "sysroot.json").is_file():
        with _only_builder(folder):
            if not (
                folder / "sysroot.json"
            ).is_file():  # another process may have built it while this one waited
                _build(folder)
    record = read_json(folder / "sysroot.json")
    return _examine(
        folder / "root", f"{record['distribution']}, {len(record['packages'])} arm64 packages"
    )


def ensure_site(python: str, *, onnxruntime: str | None = None) -> Site:
    """numpy and onnxruntime for the sysroot's Python, unpacked in the cache; the newest pinned pair if none is named.

    Raises:
        OfflineError: They are not cached and cannot be fetched.
        InputError: That version is not pinned for that Python.
    """
    wheels = arm64_wheels(python, onnxruntime=onnxruntime)
    numpy, runtime = wheels
    key = hashlib.sha256("".join(wheel.sha256 for wheel in wheels).encode()).hexdigest()[:8]
    folder = _sysroots() / f"site-py{python}-onnxruntime-{runtime.version}-{key}"
    if not folder.is_dir():
        files = fetch_wheels(wheels)
        with _only_builder(folder):
            if not folder.is_dir():
                with replacing(folder) as aside:
                    for file in files:
                        with zipfile.ZipFile(file) as wheel:
                            wheel.extractall(aside)
    return Site(folder, numpy.version, runtime.version)


# --- what a root is ------------------------------------------------------------------------------------


def _examine(root: Path, description: str) -> Sysroot:
    candidates = [
        path
        for folder in ("usr/local/bin", "usr/bin")
        for path in sorted((root / folder).glob("python3.*"))
    ]
    for path in candidates:
        version = re.fullmatch(r"python(3\.\d+)", path.name)
        if version and path.is_file() and _is_aarch64(path):
            return Sysroot(root, path, version[1], description)
    found = ", ".join(str(path.relative_to(root)) for path in candidates) or "none at all"
    raise InputError(
        f"{root} holds no 64-bit ARM Python: expected usr/bin/python3.N or usr/local/bin/python3.N, found {found}",
        hint=_BY_HAND,
    )


def _is_aarch64(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(20)
    return (
        len(head) == 20
        and head[:4] == b"\x7fELF"
        and struct.unpack("<H", head[18:20])[0] == _EM_AARCH64
    )


def _sysroots() -> Path:
    return cache_root() / "sysroot"


def _distribution() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "linux"
    return "-".join(
        re.sub(r"[^a-z0-9.]+", "", release.get(key, "").lower()) or "x"
        for key in ("ID", "VERSION_ID")
    )


def _key() -> str:
    return hashlib.sha256(repr((FORMAT, PACKAGES)).encode()).hexdigest()[:8]


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Lets one process at a time build `folder`; the lock goes with the process that held it."""
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- building one ----------------------------------------------------------------------------------------


def _build(folder: Path) -> None:
    missing = [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]
    if missing:
        raise OfflineError(
            f"the arm64 sysroot for emulation is built with apt, and this machine has no {' and no '.join(missing)}",
            hint=_BY_HAND,
        )
    console.say(
        "building the arm64 sysroot for emulation (once; about 16 MB of packages and 40 MB of wheels)"
    )
    with tempfile.TemporaryDirectory(prefix="edgedistil-apt-") as state, replacing(folder) as aside:
        files = _fetch_packages(Path(state))
        (aside / "root").mkdir(parents=True)
        for file in files:
            _unpack(file, aside / "root")
        _merge_usr(aside / "root")
        _examine(aside / "root", "")
        write_json(
            aside / "sysroot.json",
            {"format": FORMAT, "distribution": _distribution(), "packages": _facts(files)},
        )


def _fetch_packages(state: Path) -> list[Path]:
    for part in ("lists/partial", "cache/archives/partial", "log"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    configuration = state / "apt.conf"
    configuration.write_text(_apt_configuration(state))
    with console.progress("fetching arm64 packages", 200, unit="%") as bar:
        _apt(configuration, ["update"], bar)
        _apt(
            configuration,
            ["install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES],
            bar,
        )
    files = sorted((state / "cache" / "archives").glob("*.deb"))
    if not files:
        raise OfflineError("apt brought no arm64 packages", hint=_BY_HAND)
    return files


def _apt_configuration(state: Path) -> str:
    """What apt reads and writes about installed packages is private; sources, keys and proxies are the host's."""
    return f"""
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Log "{state}/log";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "";
APT::Update::Post-Invoke-Success "";
Acquire::Languages "none";
Acquire::Retries "2";
"""


def _apt(configuration: Path, arguments: list[str], bar: console.Bar) -> None:
    reading, writing = os.pipe()
    command = ["apt-get", "--quiet", "--option", f"APT::Status-Fd={writing}", *arguments]
    environment = {
        **os.environ,
        "APT_CONFIG": str(configuration),
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=(writing,),
        )
        os.close(writing)
        try:
            _follow(reading, bar)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        said.seek(0)
        lines = said.read().splitlines()
    if code != 0:
        errors = [line for line in lines if line.startswith("E:")] or lines[-1:] or ["nothing"]
        raise OfflineError(
            f"cannot fetch the arm64 packages of the sysroot: apt-get {arguments[0]} says: {errors[0]}",
            hint=f"apt needs a network and sources that carry arm64; else {_BY_HAND}",
        )


def _follow(descriptor: int, bar: console.Bar) -> None:
    """Moves the bar as apt tells its progress: lines of `dlstatus:ITEM:PERCENT:WORDS`."""
    done = 0.0
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            told = re.match(r"dlstatus:\d+:([\d.]+):", line)
            if told and float(told[1]) > done:
                bar.advance(float(told[1]) - done)
                done = float(told[1])


def _unpack(package: Path, root: Path) -> None:
    command = ["dpkg-deb", "--extract", str(package), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode != 0:
        raise StorageError(f"cannot unpack {package.name} into {root}: {done.stderr.strip()}")


def _merge_usr(root: Path) -> None:
    """What the package base-files would do: /lib is /usr/lib where the distribution puts everything there.

    An empty ld.so.cache keeps the guest's loader from reading the host's.
    """
    for name in ("bin", "sbin", "lib"):
        if not (root / name).exists() and (root / "usr" / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "ld.so.cache").touch()


def _facts(files: list[Path]) -> list[dict[str, str]]:
    """Name, version and sha256 of every package; apt writes them into the file names, quoted."""
    facts = []
    for file in files:
        name, version, _ = file.name.split("_")
        facts.append({"package": name, "version": unquote(version), "sha256": sha256_file(file)})
    return facts

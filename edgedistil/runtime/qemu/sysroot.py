"""Root file system of 64-bit ARM Linux with Python, for qemu-user.

It is built once, without debootstrap and without a foreign dpkg: apt, with a private state of
architecture arm64, resolves and downloads the packages from the sources of this machine (and checks
their signatures), and `dpkg-deb --extract` unpacks them into a folder. The host's packages, its apt
state and its architectures do not change
(docs/decisions.md#a-sysroot-from-apt-with-a-private-state). Wheels are pinned by sha256
(`runtime/wheels.py`).

    <cache>/sysroot/<distribution>-<key>/root          the file system
    <cache>/sysroot/<distribution>-<key>/sysroot.json  version and sha256 of every package in it
    <cache>/sysroot/site-py3.11-onnxruntime-…-<key>/   unpacked wheels
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from edgedistil.core import console
from edgedistil.core.errors import InputError, OfflineError, StorageError
from edgedistil.core.fetch import cache_lock
from edgedistil.core.places import cache_root
from edgedistil.core.records import Record, read_record, write_record
from edgedistil.core.rundir import replacing, sha256_file
from edgedistil.core.scratch import scratch_folder
from edgedistil.runtime.wheels import arm64_wheels, fetch_wheels

FORMAT = 1
_FACTS = "sysroot.json"
# Names only: snapshots of a distribution vanish, so a pinned version could not be built next month.
# The versions that apt brought are in this file.
PACKAGES = (
    "python3-minimal",
    "libpython3-stdlib",
    "libc6",
    "libstdc++6",
    "libgcc-s1",
    "libgomp1",
    "zlib1g",
)
ROOT_VARIABLE = "EDGEDISTIL_ARM64_ROOT"
# ELF machine number of 64-bit ARM.
_EM_AARCH64 = 183
_MANUAL_ROOT = (
    f"any arm64 root with Python works: `docker create --platform linux/arm64 python:3.11-slim`, "
    f"`docker export` it into a folder, and set {ROOT_VARIABLE} to that folder"
)


@dataclass(frozen=True)
class Sysroot:
    """An arm64 root file system with Python.

    Attributes:
        root: Folder of the file system.
        interpreter: Path of its Python.
        python: Version of its Python: "3.11".
        description: Where it comes from, for records.
    """

    root: Path
    interpreter: Path
    python: str
    description: str

    @property
    def home(self) -> Path:
        """PYTHONHOME of the interpreter."""
        return self.interpreter.parent.parent


@dataclass(frozen=True)
class Site:
    """A folder with numpy and onnxruntime for a sysroot's Python."""

    path: Path
    numpy: str
    onnxruntime: str


def ensure_sysroot() -> Sysroot:
    """Returns the sysroot, built first if it is not in the cache.

    The environment variable EDGEDISTIL_ARM64_ROOT selects another root.

    Raises:
        OfflineError: It is not built yet, and this machine has no apt, or apt cannot download the
            packages.
        InputError: EDGEDISTIL_ARM64_ROOT is not an arm64 root with Python.
    """
    configured = os.environ.get(ROOT_VARIABLE)
    if configured:
        return _find_python(Path(configured).resolve(), f"{ROOT_VARIABLE}={configured}")
    folder = _sysroots() / f"{_distribution()}-{_key()}"
    facts = _read_facts(folder, warn=False)
    if facts is None:
        with cache_lock(folder):
            # Another process may have built it while this one waited.
            facts = _read_facts(folder)
            if facts is None:
                _build(folder)
                facts = read_record(folder / _FACTS, _SysrootFacts)
    packages = len(facts.packages)
    return _find_python(folder / "root", f"{facts.distribution}, {packages} arm64 packages")


def ensure_site(python: str, *, onnxruntime: str | None = None) -> Site:
    """Returns numpy and onnxruntime for a sysroot's Python, unpacked in the cache.

    Args:
        python: Version of the sysroot's Python: "3.11".
        onnxruntime: Version of onnxruntime; the newest pinned one if missing.
    Raises:
        OfflineError: They are not cached and cannot be downloaded.
        InputError: That version is not pinned for that Python.
    """
    wheels = arm64_wheels(python, onnxruntime=onnxruntime)
    numpy, runtime = wheels
    digests = "".join(wheel.sha256 for wheel in wheels)
    key = hashlib.sha256(digests.encode()).hexdigest()[:8]
    folder = _sysroots() / f"site-py{python}-onnxruntime-{runtime.version}-{key}"
    if not folder.is_dir():
        files = fetch_wheels(wheels)
        with cache_lock(folder):
            if not folder.is_dir():
                _unpack_wheels(files, folder)
    return Site(folder, numpy.version, runtime.version)


class _SysrootFacts(Record):
    """What a sysroot was built from: `sysroot.json`."""

    format: int
    distribution: str
    # Name, version and sha256 of each package.
    packages: list[dict[str, str]]


def _read_facts(folder: Path, *, warn: bool = True) -> _SysrootFacts | None:
    """Reads sysroot.json; None if the sysroot has to be built: it is missing or corrupt."""
    path = folder / _FACTS
    if not path.is_file():
        return None
    try:
        return read_record(path, _SysrootFacts)
    except StorageError as error:
        if warn:
            console.warn(f"the cached sysroot is corrupt and will be rebuilt: {error.message}")
        return None


def _unpack_wheels(files: list[Path], folder: Path) -> None:
    with replacing(folder) as unfinished:
        for file in files:
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(unfinished)


# --- examining a root ----------------------------------------------------------------------------


def _find_python(root: Path, description: str) -> Sysroot:
    """Returns a folder as sysroot; raises InputError without an arm64 Python."""
    # Images of python.org's Python have it in /usr/local, where it comes first on the PATH.
    candidates: list[Path] = []
    for folder in ("usr/local/bin", "usr/bin"):
        candidates += sorted((root / folder).glob("python3.*"))
    for path in candidates:
        version = re.fullmatch(r"python(3\.\d+)", path.name)
        if version and path.is_file() and _is_aarch64(path):
            return Sysroot(root, path, version[1], description)
    names = ", ".join(str(path.relative_to(root)) for path in candidates) or "nothing"
    raise InputError(
        f"{root} contains no 64-bit ARM Python: expected usr/bin/python3.N or "
        f"usr/local/bin/python3.N, found {names}",
        hint=_MANUAL_ROOT,
    )


def _is_aarch64(path: Path) -> bool:
    """Whether a file is a 64-bit ARM program, by its ELF header."""
    with path.open("rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return False
    (machine,) = struct.unpack("<H", header[18:20])
    return bool(machine == _EM_AARCH64)


def _sysroots() -> Path:
    return cache_root() / "sysroot"


def _distribution() -> str:
    """Returns "debian-12"; the packages come from the sources of this distribution."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "linux"
    parts = []
    for key in ("ID", "VERSION_ID"):
        part = re.sub(r"[^a-z0-9.]+", "", release.get(key, "").lower())
        parts.append(part or "x")
    return "-".join(parts)


def _key() -> str:
    return hashlib.sha256(repr((FORMAT, PACKAGES)).encode()).hexdigest()[:8]


# --- building ------------------------------------------------------------------------------------


def _build(folder: Path) -> None:
    missing = [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]
    if missing:
        raise OfflineError(
            f"the arm64 sysroot for emulation is built with apt, and this machine has no "
            f"{' and no '.join(missing)}",
            hint=_MANUAL_ROOT,
        )
    # docs/log.md#building-the-sysroot
    console.say(
        "building the arm64 sysroot for emulation (once; about 16 MB of packages and 40 MB of "
        "wheels)"
    )
    with (
        scratch_folder("apt") as state,
        replacing(folder) as unfinished,
    ):
        root = unfinished / "root"
        root.mkdir(parents=True)
        packages = _fetch_packages(state)
        for package in packages:
            _unpack(package, root)
        _complete(root)
        # A root without a working Python must not get into the cache.
        _find_python(root, "")
        facts = _SysrootFacts(
            format=FORMAT,
            distribution=_distribution(),
            packages=[_describe_package(package) for package in packages],
        )
        write_record(unfinished / _FACTS, facts)


def _fetch_packages(state: Path) -> list[Path]:
    """Downloads the packages and what they depend on into apt's private state."""
    for part in ("lists/partial", "cache/archives/partial", "log"):
        (state / part).mkdir(parents=True)
    # An empty status file: apt believes that nothing is installed and downloads everything.
    (state / "status").touch()
    configuration = state / "apt.conf"
    configuration.write_text(_apt_configuration(state))
    install = ["install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES]
    # 100% each for the package lists and for the packages.
    with console.progress("downloading arm64 packages", 200, unit="%") as bar:
        _apt(configuration, ["update"], bar)
        _apt(configuration, install, bar)
    packages = sorted((state / "cache" / "archives").glob("*.deb"))
    if not packages:
        raise OfflineError("apt downloaded no arm64 packages", hint=_MANUAL_ROOT)
    return packages


def _apt_configuration(state: Path) -> str:
    """Returns an apt.conf with private state and the host's sources."""
    # Sandbox: apt's own user could not write into our folder. Post-Invoke: a hook of the host,
    # which would change the host's caches. Languages: no translations of descriptions.
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
    """Runs apt-get and moves the bar by up to 100%."""
    reading, writing = os.pipe()
    command = ["apt-get", "--quiet", "--option", f"APT::Status-Fd={writing}", *arguments]
    environment = {
        **os.environ,
        "APT_CONFIG": str(configuration),
        # English messages: the lines with `E:` are shown to the user and looked for below.
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
        )
        # Our copy of the writing end must be closed, or the reading end never ends.
        os.close(writing)
        try:
            _follow(reading, bar)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        lines = output.read().splitlines()
    if status != 0:
        errors = [line for line in lines if line.startswith("E:")]
        reason = (errors or lines[-1:] or ["no message"])[0]
        raise OfflineError(
            f"cannot download the arm64 packages of the sysroot: apt-get {arguments[0]} failed: "
            f"{reason}",
            hint=f"apt needs a network and sources with arm64 packages; otherwise {_MANUAL_ROOT}",
        )


def _follow(descriptor: int, bar: console.Bar) -> None:
    """Moves the bar by apt's progress: lines of `dlstatus:ITEM:PERCENT:TEXT`."""
    done = 0.0
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            status = re.match(r"dlstatus:\d+:([\d.]+):", line)
            if status is None:
                continue
            percent = float(status[1])
            # apt's percentage may also fall; the bar only moves forward.
            if percent > done:
                bar.advance(percent - done)
                done = percent


def _unpack(package: Path, root: Path) -> None:
    command = ["dpkg-deb", "--extract", str(package), str(root)]
    done = subprocess.run(  # noqa: S603 - our own arguments
        command, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StorageError(f"cannot unpack {package.name} into {root}: {done.stderr.strip()}")


def _complete(root: Path) -> None:
    """Adds the links of the package base-files: /lib to /usr/lib."""
    for name in ("bin", "sbin", "lib"):
        if not (root / name).exists() and (root / "usr" / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    # qemu takes paths that are missing here from the host: an empty file keeps the guest's loader
    # from reading the host's cache of libraries.
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "ld.so.cache").touch()


def _describe_package(package: Path) -> dict[str, str]:
    """Returns name, version and sha256 of a package file."""
    # apt writes name and version, quoted, into the file name.
    name, version, _ = package.name.split("_")
    return {"package": name, "version": unquote(version), "sha256": sha256_file(package)}

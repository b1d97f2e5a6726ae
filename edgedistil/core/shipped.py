"""Locations of recipes and device files: the user's own, then the shipped ones."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.paths import is_user_file

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(kind: str) -> Path:
    """Folder of the shipped `recipes` or `devices`."""
    # Inside the package when installed from a wheel, next to the package in a checkout.
    installed = _PACKAGE / "shipped_files" / kind
    if installed.is_dir():
        return installed
    return _PACKAGE.parent / kind


def plain_name(kind: str, name: str) -> str:
    """Returns the name in `tiny`, `tiny.toml` or `recipes/tiny.toml`."""
    return str(Path(name)).removeprefix(f"{kind}/").removesuffix(".toml")


def find_shipped(kind: str, name: str) -> Path | None:
    """Returns the file of a name, or None if no file has it.

    The order is: the path itself, `kind/name.toml` in the working directory, the shipped file.

    Args:
        kind: `recipes` or `devices`.
        name: Path, `tiny`, `tiny.toml` or `recipes/tiny.toml`.
    """
    path = Path(name)
    if is_user_file(path):
        return path
    # A name must not lead out of the folders.
    if path.is_absolute() or ".." in path.parts:
        return None
    for folder in (Path(kind), shipped_folder(kind)):
        candidate = folder / f"{plain_name(kind, name)}.toml"
        if is_user_file(candidate):
            return candidate
    return None


def shipped_names(kind: str) -> list[str]:
    """Names of the shipped and the user's own files of a kind, sorted."""
    names = set()
    for folder in (Path(kind), shipped_folder(kind)):
        for path in folder.rglob("*.toml"):
            names.add(str(path.relative_to(folder).with_suffix("")))
    return sorted(names)

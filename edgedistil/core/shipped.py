"""Where the shipped recipes and device files are, installed or in a checkout; a user's own file wins."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(kind: str) -> Path:
    """Folder of the shipped `recipes` or `devices`: inside the wheel, or beside the package in a checkout."""
    inside = _PACKAGE / "shipped_files" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def find_shipped(kind: str, name: str) -> Path | None:
    """The file that `name` means: the user's path, then `kind/name.toml` here, then the shipped one."""
    given = Path(name)
    if given.is_file():
        return given
    stem = given.with_suffix("") if given.suffix == ".toml" else given
    if given.is_absolute() or ".." in given.parts:
        return None
    inner = Path(*stem.parts[1:]) if stem.parts[:1] == (kind,) else stem
    for folder in (Path(kind), shipped_folder(kind)):
        candidate = folder / f"{inner}.toml"
        if candidate.is_file():
            return candidate
    return None


def shipped_names(kind: str) -> list[str]:
    """Names of the shipped and the user's own files of a kind, sorted."""
    names = {
        str(path.relative_to(folder).with_suffix(""))
        for folder in (Path(kind), shipped_folder(kind))
        if folder.is_dir()
        for path in folder.rglob("*.toml")
    }
    return sorted(names)

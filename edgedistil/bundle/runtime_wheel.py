"""The wheel `edgedistil-runtime`: the classes that run exports, without torch.

It holds the modules that these classes import when they are loaded, so it needs numpy, onnxruntime
and tokenizers only. A pip extra could not leave out what the package itself requires.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.core.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
DISTRIBUTION = "edgedistil_runtime"
# The oldest versions, as pyproject.toml has them for the entire package.
REQUIREMENTS = {"numpy": "2.0", "onnxruntime": "1.22", "tokenizers": "0.22"}
_PYTHON = "3.11"
# Modules that a user imports; the others follow from their imports.
_ENTRIES = ("edgedistil", "edgedistil.inference.opening")
# Zip files start in 1980; a fixed time gives the same bytes each time.
_TIME = (1980, 1, 1, 0, 0, 0)


def runtime_modules() -> dict[str, Path]:
    """Returns the modules of the wheel: dotted name → file."""
    modules: dict[str, Path] = {}
    waiting = list(_ENTRIES)
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in modules or path is None:
            continue
        modules[name] = path
        # Importing a module loads the packages that it is in.
        waiting += [name.rpartition(".")[0], *_imported(path)]
    return dict(sorted(modules.items()))


def write_runtime_wheel(folder: Path) -> Path:
    """Writes the wheel into a folder.

    Args:
        folder: Exists.
    Returns:
        The file.
    Raises:
        StorageError: The file cannot be written.
    """
    path = folder / f"{DISTRIBUTION}-{__version__}-py3-none-any.whl"
    information = f"{DISTRIBUTION}-{__version__}.dist-info"
    contents = {
        file.relative_to(PACKAGE.parent).as_posix(): file.read_bytes()
        for file in runtime_modules().values()
    }
    contents[f"{information}/METADATA"] = _metadata().encode()
    contents[f"{information}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: edgedistil\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    # RECORD lists every file, and itself without a digest.
    record = f"{information}/RECORD"
    lines = [f"{name},{_digest(content)},{len(content)}" for name, content in contents.items()]
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    with (
        replacing(path) as unfinished,
        storage_errors(path),
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
    return path


def _metadata() -> str:
    lines = [
        "Metadata-Version: 2.4",
        "Name: edgedistil-runtime",
        f"Version: {__version__}",
        "Summary: Run exports of EdgeDistil without torch; not next to edgedistil itself.",
        "License-Expression: Apache-2.0",
        f"Requires-Python: >={_PYTHON}",
        *(f"Requires-Dist: {name}>={version}" for name, version in REQUIREMENTS.items()),
    ]
    return "\n".join([*lines, ""])


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def _file_of(name: str) -> Path | None:
    """Returns the file of a dotted name; None outside of this package."""
    if name.split(".")[0] != PACKAGE.name:
        return None
    path = PACKAGE.parent.joinpath(*name.split("."))
    if path.is_dir():
        return path / "__init__.py"
    file = path.with_suffix(".py")
    return file if file.is_file() else None


def _imported(path: Path) -> Iterator[str]:
    """Yields the names that a module imports when it is loaded."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            # `from package import module` imports a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef) and not _is_for_type_checks(node):
            waiting += ast.iter_child_nodes(node)


def _is_for_type_checks(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"

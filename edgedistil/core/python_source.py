"""Documented functions in the Python sources of a package, which are parsed and never run."""

from __future__ import annotations

import ast
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DocumentedFunction:
    """A public function: its place, docstring, and source without the docstring."""

    name: str
    docstring: str
    body: str

    @property
    def summary(self) -> str:
        """First paragraph of the docstring, in one line."""
        return " ".join(self._paragraphs[0].split())

    @property
    def details(self) -> str:
        """Paragraphs after the first, in one line; may be empty."""
        return " ".join(self._paragraphs[-1].split()) if len(self._paragraphs) > 1 else ""

    @property
    def _paragraphs(self) -> list[str]:
        return self.docstring.strip().split("\n\n", 1)


def documented_functions(wheel: Path, folder: str) -> Iterator[DocumentedFunction]:
    """Yields the public functions below a folder of a wheel, its tests left out."""
    with zipfile.ZipFile(wheel) as archive:
        for member in sorted(archive.namelist()):
            if not member.startswith(folder) or not member.endswith(".py") or "/tests/" in member:
                continue
            source = archive.read(member).decode("utf-8")
            yield from _functions_of(Path(member).with_suffix(""), source)


def _functions_of(module: Path, source: str) -> Iterator[DocumentedFunction]:
    with warnings.catch_warnings():
        # Old escapes in strings of other people's code.
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        # Without its first statement, the docstring, a function still has its signature.
        node.body = node.body[1:] or [ast.Pass()]
        name = f"{'.'.join(module.parts)}:{node.name}:{node.lineno}"
        yield DocumentedFunction(name, docstring, ast.unparse(node))

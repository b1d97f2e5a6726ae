"""Counts wording, comments, density and sizes: `python scripts/style_counts.py [PATH ...]`.

tests/test_style.py and tests/test_words.py import this module, so a count has one definition.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Wording that a reader outside the project cannot parse quickly → what the field says instead.
BANNED_WORDS = {
    r"(?:un)?told": "unknown",
    r"tells?": "report, print, distinguish",
    r"beside": "next to, alongside",
    r"anew": "again",
    r"whoever": "anyone who, a caller that",
    r"nobody": "no caller, no one",
    r"guilty": "responsible",
    r"reckon(?:s|ed|ing)?": "estimate",
    r"held against": "compared with",
    r"(?<!there )is no (?!longer\b|more\b|less\b)[a-z]+": "is not a ...",
    r"(?:is|are) none": "there is no ...",
    r"of (?:its|their) own accord": "automatically",
    r"stands?": "is, is located",
    r"lies?": "is, is located",
    r"taught": "teacher's",
    r"wish(?:es)?": "request",
    r"grants?": "handles",
    r"mended": "fixed",
    r"torn": "truncated, corrupt",
    r"wholes?": "complete, entire",
    r"partners?": "counterpart, matching ...",
    r"riddles?": "unclear text",
    r"fetters?": "limit",
}
# Names that carry no meaning: use the noun of the domain (artefact, record, layer, scores).
BANNED_NAMES = {
    "each",
    "found",
    "told",
    "chosen",
    "kept",
    "wanted",
    "given",
    "said",
    "made",
    "tell",
    "taught",
}
# Parts of function and class names that belong to the same dialect.
BANNED_NAME_PARTS = {
    "told",
    "tell",
    "tells",
    "untold",
    "taught",
    "reckon",
    "reckoning",
    "tamed",
    "greet",
    "beside",
}

_BANNED = [
    (re.compile(rf"\b{pattern}\b", re.IGNORECASE), better)
    for pattern, better in BANNED_WORDS.items()
]
_CODE_SPAN = re.compile(r"`[^`]*`")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Finding:
    """One use of banned wording."""

    path: Path
    line: int
    text: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: '{self.text}': write {self.instead}"


@dataclass
class Counts:
    """Style counts of a set of modules."""

    lines: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    ternaries: int = 0
    comprehensions: int = 0
    nested_comprehensions: int = 0
    long_lines: int = 0
    module_lines: dict[str, int] = field(default_factory=dict)
    function_lines: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)

    def per_thousand(self, count: int) -> float:
        return 1000 * count / max(1, self.lines)

    @property
    def comments_per_hundred(self) -> float:
        """Lines that hold only a comment, per 100 lines of code."""
        return 100 * self.comment_lines / max(1, self.code_lines)

    def percentile(self, share: float) -> int:
        sizes = sorted(self.function_lines.values())
        return sizes[min(len(sizes) - 1, int(share * len(sizes)))] if sizes else 0


# Files that contain banned wording on purpose: this list, and the test of it.
WORD_LISTS = {"style_counts.py", "test_words.py"}

# --- wording -------------------------------------------------------------------------------------


def banned_in_text(path: Path, text: str, first_line: int = 1) -> Iterator[Finding]:
    """Banned wording in prose; code spans in backticks are skipped."""
    for offset, line in enumerate(text.splitlines()):
        prose = _CODE_SPAN.sub("``", line)
        for pattern, better in _BANNED:
            for match in pattern.finditer(prose):
                yield Finding(path, first_line + offset, match.group(), better)


def banned_in_markdown(path: Path, text: str) -> Iterator[Finding]:
    """Banned wording of a page, outside of fenced code."""
    blanked = _FENCE.sub(lambda block: "\n" * block.group().count("\n"), text)
    yield from banned_in_text(path, blanked)


def banned_in_python(path: Path, source: str) -> Iterator[Finding]:
    """Banned wording in comments, docstrings and messages, and banned names of a module."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (
            tokenize.COMMENT,
            tokenize.STRING,
            getattr(tokenize, "FSTRING_MIDDLE", -1),
        ):
            yield from banned_in_text(path, token.string, token.start[0])
    for node in ast.walk(ast.parse(source)):
        for name in _defined_names(node):
            if name in BANNED_NAMES:
                yield Finding(path, node.lineno, f"name {name}", "a noun of the domain")  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            parts = set(re.split(r"_|(?<=[a-z])(?=[A-Z])", node.name))
            if BANNED_NAME_PARTS & {part.lower() for part in parts}:
                yield Finding(path, node.lineno, f"name {node.name}", "what it does or returns")


def _defined_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name


# --- density and size ----------------------------------------------------------------------------

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def count_module(counts: Counts, name: str, source: str, *, longest: int = 100) -> None:
    """Adds one module to `counts`."""
    tree = ast.parse(source)
    lines = source.splitlines()
    counts.lines += len(lines)
    counts.module_lines[name] = len(lines)
    counts.long_lines += sum(len(line) > longest for line in lines)
    stripped = [line.strip() for line in lines]
    counts.comment_lines += sum(line.startswith("#") for line in stripped)
    counts.code_lines += sum(bool(line) and not line.startswith("#") for line in stripped)
    for node in ast.walk(tree):
        counts.ternaries += isinstance(node, ast.IfExp)
        if isinstance(node, _COMPREHENSIONS):
            counts.comprehensions += 1
            inner = (child for child in ast.walk(node) if child is not node)
            counts.nested_comprehensions += any(
                isinstance(child, _COMPREHENSIONS) for child in inner
            )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = f"{name}:{node.name}:{node.lineno}"
            counts.function_lines[function] = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = node.args
            names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            counts.parameters[function] = sum(arg.arg not in ("self", "cls") for arg in names)


def count_modules(paths: list[Path]) -> Counts:
    counts = Counts()
    for path in paths:
        count_module(counts, str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    return counts


def python_files(paths: list[Path]) -> list[Path]:
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return sorted(file.resolve() for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "edgedistil"])
    parser.add_argument("--words", action="store_true", help="list every use of banned wording")
    options = parser.parse_args()
    pages = [path for path in options.paths if path.suffix == ".md"]
    files = python_files([path for path in options.paths if path.suffix != ".md"])
    counts = count_modules(files)
    findings: list[Finding] = []
    for file in files:
        if file.name not in WORD_LISTS:
            findings += banned_in_python(file, file.read_text(encoding="utf-8"))
    for page in pages:
        findings += banned_in_markdown(page, page.read_text(encoding="utf-8"))
    if options.words:
        print("\n".join(map(str, findings)))
    if files:
        print(f"modules {len(counts.module_lines)}, lines {counts.lines}")
        print(f"comments per 100 code lines: {counts.comments_per_hundred:.1f} (at least 6)")
        print(
            f"ternaries per 1,000 lines: {counts.per_thousand(counts.ternaries):.1f} (at most 12)"
        )
        nested = counts.per_thousand(counts.nested_comprehensions)
        print(f"nested comprehensions per 1,000 lines: {nested:.2f} (at most 0.7)")
        print(f"comprehensions per 1,000 lines: {counts.per_thousand(counts.comprehensions):.1f}")
        print(f"lines over 100 characters: {counts.long_lines}")
        longest = max(counts.function_lines.values(), default=0)
        print(f"function lines p90 {counts.percentile(0.9)} (25), max {longest} (80)")
        for title, sizes, bound in (
            ("functions over 80 lines", counts.function_lines, 80),
            ("modules over 450 lines", counts.module_lines, 450),
            ("functions with more than 8 parameters", counts.parameters, 8),
        ):
            over = {name: size for name, size in sizes.items() if size > bound}
            print(f"{title}: {over or 'none'}")
    print(f"banned wording: {len(findings)} (0)")
    sys.exit(0)


if __name__ == "__main__":
    main()

"""The direction of imports: down, never across. Checked for every import, anywhere in a file."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "edgedistil"

# The Python API and what calls it may use every stage.
ENTRY = {"__init__", "__main__", "cli", "pipeline"}
# package → packages of ours that it may import, besides itself and core
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "data": set(),
    "models": set(),
    "distill": {"data", "models", "trimming"},
    "evaluate": {"data", "models", "export", "parity", "inference", "runtime"},
    "export": {"data", "models", "parity"},
    "parity": set(),
    "inference": set(),
    "bundle": {"runtime"},
    "runtime": set(),
    "costmodel": set(),
    "profiling": {"costmodel", "runtime", "parity"},
    "report": set(),
    "search": {"costmodel", "runtime"},
    "trimming": {"data", "models", "costmodel"},
    "doctor": set(),
    "inspection": {"export"},
    "ablate": {"evaluate"},
    "search_measuring": {"search", "export", "models", "profiling", "runtime"},
    "search_artefacts": {"search", "export", "profiling"},
    "search_training": {"search_artefacts", "search", "distill", "evaluate", "models"},
    "stage_estimates": {"stage_times", "distill", "evaluate", "profiling", "runtime"},
    "stage_times": {"runtime"},
    "file_keys": {"evaluate"},
    "flags": set(),
    "failures": set(),
}
TORCH_SIDE = {"torch", "transformers", "accelerate", "datasets", "optimum"}
GRAPH_SIDE = {"onnx", "onnxruntime", "onnxscript", "onnx_ir"}
# package → heavy libraries that it may use at all
MAY_USE: dict[str, set[str]] = {
    "data": {"torch", "datasets", "transformers"},
    "models": {"torch", "transformers"},
    "distill": {"torch", "transformers", "accelerate"},
    "evaluate": TORCH_SIDE | {"onnxruntime"},
    "export": TORCH_SIDE | GRAPH_SIDE,
    "parity": {"onnx", "onnxruntime"},
    "inference": {"onnxruntime"},
    "runtime": {"onnx", "onnxruntime"},
    "costmodel": {"onnx", "onnxruntime"},
    "trimming": {"torch", "transformers"},
    "profiling": {"onnx", "onnxruntime"},
}
# module → heavy libraries that it may import inside a function, when it is called by someone who
# has them
MAY_USE_WHEN_CALLED = {"core/session.py": {"onnxruntime"}}
# device-side and command-line modules that must not even pull these in by way of others
LIGHT = (
    "edgedistil",
    "edgedistil.cli",
    "edgedistil.profiling.stage",
    "edgedistil.runtime.ssh.target",
    "edgedistil.costmodel.model",
    "edgedistil.parity.gate",
    "edgedistil.inference.encoder",
    "edgedistil.report.stage",
    "edgedistil.export.stage",
    "edgedistil.inspection",
    "edgedistil.search.stage",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported in a syntax tree, at any depth, type-checking blocks
    included.
    """
    for node in ast.walk(tree):
        yield from _imported_by(node)


def _imported_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_at_load(tree: ast.Module) -> set[str]:
    """Dotted names of everything imported outside of functions."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(node) for call in calls for node in ast.walk(call)}
    outside = [node for node in ast.walk(tree) if id(node) not in inside]
    return {name for node in outside for name in _imported_by(node)}


def violations(path: Path, source: str) -> list[str]:
    here = room(path)
    problems = []
    tree = ast.parse(source)
    at_load = imports_at_load(tree)
    when_called = MAY_USE_WHEN_CALLED.get(path.relative_to(PACKAGE).as_posix(), set())
    for name in imports(tree):
        top, *rest = name.split(".")
        lazy = top in when_called and name not in at_load
        if top in TORCH_SIDE | GRAPH_SIDE and top not in MAY_USE.get(here, set()) and not lazy:
            problems.append(f"{here} uses {top}")
        if top == "edgedistil" and rest and here not in ENTRY:
            there = rest[0]
            allowed = {here, "core"} | MAY_IMPORT.get(here, set())
            if there not in allowed:
                problems.append(f"{here} imports {there}")
    return problems


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    assert violations(path, path.read_text(encoding="utf-8")) == []


def test_every_room_is_known() -> None:
    known = ENTRY | set(MAY_IMPORT)
    assert {room(path) for path in modules()} - known == set()


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("parity/x.py", "import torch", "parity uses torch"),
        (
            "profiling/x.py",
            "def f():\n    from transformers import AutoModel",
            "profiling uses transformers",
        ),
        ("report/x.py", "from edgedistil.distill import stage", "report imports distill"),
        ("core/recipe.py", "from edgedistil.data import corpus", "core imports data"),
        ("models/x.py", "import edgedistil.export.trace", "models imports export"),
        ("core/console.py", "import onnxruntime as ort", "core uses onnxruntime"),
        ("core/session.py", "import onnxruntime", "core uses onnxruntime"),
        ("core/session.py", "def f():\n    import torch", "core uses torch"),
        ("core/toml.py", "def f():\n    import onnxruntime", "core uses onnxruntime"),
    ],
)
def test_the_check_can_fail(file: str, source: str, message: str) -> None:
    assert violations(PACKAGE / file, source) == [message]


def module_name(path: Path) -> str:
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module → modules of `sources` that it imports at any depth of its syntax tree."""
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        imported = set()
        for dotted in imports(ast.parse(source)):
            target = dotted if dotted in sources else dotted.rpartition(".")[0]
            if target in sources and target != name:
                imported.add(target)
        graph[name] = imported
    return graph


def import_cycle(sources: dict[str, str]) -> list[str]:
    """The modules of one import cycle in order, or an empty list."""
    try:
        list(graphlib.TopologicalSorter(import_graph(sources)).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_cycle_between_files() -> None:
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in modules()}
    assert import_cycle(sources) == []


def test_the_cycle_check_can_fail() -> None:
    sources = {"a": "def f():\n    import b", "b": "from c import x", "c": "import a"}
    assert set(import_cycle(sources)) == {"a", "b", "c"}


def loaded_by(statement: str) -> set[str]:
    """Heavy libraries in `sys.modules` of a fresh interpreter after a statement."""
    heavy = sorted(TORCH_SIDE)
    script = f"{statement}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(ast.literal_eval(done.stdout.strip().splitlines()[-1]))


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_pull_in_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") == set()


def test_the_subprocess_check_can_fail() -> None:
    assert "torch" in loaded_by("import edgedistil.models.student")

"""The Python API: typed, light to import, and not hidden by the subpackages of the same names."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import edgedistil

FUNCTIONS = ["load_recipe", "inspect", "plan", "distill", "evaluate", "export", "profile", "report"]


def run_python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["torch", "onnxruntime", "transformers", "onnx", "numpy", "pydantic"]
    assert (
        run_python(f"import edgedistil, sys; print([m for m in {heavy} if m in sys.modules])")
        == "[]"
    )


def test_onnxruntime_writes_nothing_when_it_is_imported(tmp_path: Path) -> None:
    """Its telemetry would leave files in the user's cache and in TMPDIR."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "import edgedistil, onnxruntime"]
    subprocess.run(command, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_import_check_can_fail() -> None:
    assert run_python("import onnxruntime, sys; print('onnxruntime' in sys.modules)") == "True"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_typed_and_documented(name: str) -> None:
    function = getattr(edgedistil, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
    assert "Raises:" in (function.__doc__ or "") or "Returns:" in (function.__doc__ or "")


def test_annotations_name_real_types() -> None:
    """The records are imported for type checkers only: their names must exist all the same."""
    from edgedistil.core import (
        distill_records,
        evaluation_records,
        export_records,
        profile_records,
        rundir,
    )
    from edgedistil.core.recipe import Recipe
    from edgedistil.inspection import Inspection

    modules = (distill_records, evaluation_records, export_records, profile_records)
    names = {name: value for module in modules for name, value in vars(module).items()}
    names |= {"RunDir": rundir.RunDir, "Recipe": Recipe, "Inspection": Inspection}
    for name in FUNCTIONS:
        hints = typing.get_type_hints(getattr(edgedistil, name), localns=names)
        assert "return" in hints


@pytest.mark.parametrize("name", ["distill", "evaluate", "export", "report"])
def test_a_subpackage_does_not_hide_the_function(name: str) -> None:
    script = (
        f"import edgedistil, edgedistil.{name}.stage\n"
        f"from edgedistil.{name} import stage\n"
        f"print(callable(edgedistil.{name}), stage.__name__)"
    )
    assert run_python(script) == f"True edgedistil.{name}.stage"


def test_a_recipe_is_loaded_with_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = edgedistil.load_recipe("tiny", ["train.tokens=4096"])
    assert (recipe.name, recipe.train.tokens) == ("tiny", 4096)

"""The wheel: it has recipes, devices, tasks, the page and C++, and works in any directory."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CPP_SOURCES = ROOT / "edgedistil" / "bundle" / "cpp"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--disable-pip-version-check", "--wheel-dir", str(folder), str(ROOT)),
        ],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("edgedistil-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked as an installation would, away from the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_shipped_file_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for kind in ("recipes", "devices"):
        ours = {
            f"edgedistil/shipped_files/{p.relative_to(ROOT)}" for p in (ROOT / kind).rglob("*.toml")
        }
        assert len(ours) >= 3
        assert ours <= inside
    data = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "edgedistil").rglob("*")
        if p.suffix in {".toml", ".j2", ".json"} and "shipped_files" not in p.parts
    }
    assert "edgedistil/report/page.html.j2" in data
    assert data <= inside
    sources = {
        str(p.relative_to(ROOT))
        for p in CPP_SOURCES.rglob("*")
        if p.is_file() and "build" not in p.relative_to(CPP_SOURCES).parts
    }
    # One of each kind of file, so that an empty or moved folder fails.
    named = ("CMakeLists.txt", "include/edgedistil/runner.hpp", "src/unicode_tables.inc")
    assert {f"edgedistil/bundle/cpp/{name}" for name in named} <= sources
    assert sources <= inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.parametrize(
    "arguments",
    [["devices", "list"], ["devices", "show", "rpi4"], ["distill", "--help"], ["doctor"]],
)
def test_an_installed_package_works_anywhere(
    installed: Path, arguments: list[str], tmp_path: Path
) -> None:
    script = f"import edgedistil; assert edgedistil.__file__.startswith({str(installed)!r})"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "edgedistil", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if arguments[0] == "devices":
        assert "rpi4" in done.stdout


def test_cpp_sources_of_the_wheel_are_those_of_the_checkout(installed: Path) -> None:
    """Compares bytes: a bundle of an installed package has the same sources."""
    script = "from edgedistil.bundle.cpp_folder import CPP_SOURCES; print(CPP_SOURCES)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=installed,
        check=True,
    )
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(installed)
    for path in folder.rglob("*"):
        if path.is_file():
            ours = CPP_SOURCES / path.relative_to(folder)
            assert path.read_bytes() == ours.read_bytes(), path.name
    assert len(list(folder.glob("src/*.cpp"))) == len(list(CPP_SOURCES.glob("src/*.cpp"))) > 5


def test_shipped_recipes_load_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    script = (
        "from edgedistil.core.recipe import load_recipe, shipped_recipes\n"
        "names = shipped_recipes()\n"
        "print(len([load_recipe(name) for name in names]), load_recipe('recipes/tiny.toml').name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        check=True,
    )
    count, name = done.stdout.split()
    assert name == "tiny"
    assert int(count) == len(list((ROOT / "recipes").rglob("*.toml")))


def imported_distributions(folder: Path) -> set[str]:
    """Distributions that the Python files of a folder import, at any depth."""
    provided_by = metadata.packages_distributions()
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.partition(".")[0])
    third_party = names - set(sys.stdlib_module_names) - {"edgedistil"}
    return {normalized(provided_by[name][0]) for name in third_party if name in provided_by}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_imported_package_is_declared_and_every_declared_one_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # OpenVINO is an extra of its own: `profile --runtime openvino`.
    listed = [*project["dependencies"], *project["optional-dependencies"]["openvino"]]
    requirements = [re.match(r"[\w.-]+", item) for item in listed]
    declared = {normalized(match[0]) for match in requirements if match}
    imported = imported_distributions(ROOT / "edgedistil")
    assert imported - declared == set(), "imported and not declared"
    # optimum imports requests without declaring it.
    assert declared - imported - {"requests"} == set(), "declared and not imported"

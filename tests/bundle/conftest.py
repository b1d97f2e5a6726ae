"""The C++ library, compiled once."""

from __future__ import annotations

import subprocess
import venv
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

import edgedistil

SOURCES = Path(edgedistil.__file__).parent / "bundle" / "cpp"


@dataclass(frozen=True)
class CppBuild:
    """A folder with the compiled programs."""

    folder: Path

    def program(self, name: str) -> str:
        return str(self.folder / name)


def run(command: list[str]) -> str:
    """Runs a program; fails the test with what it said if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def cpp_build(tmp_path_factory: pytest.TempPathFactory) -> CppBuild:
    """The tokenizer's programs for this machine."""
    folder = tmp_path_factory.mktemp("cpp")
    run(["cmake", "-S", str(SOURCES), "-B", str(folder), "-DCMAKE_CXX_FLAGS=-Werror"])
    run(["cmake", "--build", str(folder), "--target", "encode_lines"])
    return CppBuild(folder)


def bare_environment(folder: Path, packages: list[str]) -> Path:
    """Makes a virtual environment with links to some installed packages, and nothing else.

    Args:
        folder: Receives the environment.
        packages: Names of distributions; what they depend on is left out.
    Returns:
        Its interpreter.
    """
    venv.create(folder, with_pip=False)
    interpreter = folder / "bin" / "python"
    [site] = folder.glob("lib/python*/site-packages")
    for name in packages:
        tops = {Path(file).parts[0] for file in distribution(name).files or []}
        for top in tops - {"..", "__pycache__"}:
            (site / top).symlink_to(distribution(name).locate_file(top))
    return interpreter

"""A bundle in C++ for a board: compiled for ARM, and run with the board's instructions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistil.bundle.stage import make_bundle
from edgedistil.core.contract import CONFORMANCE_FILE
from edgedistil.core.options import BundleOptions
from tests.bundle.conftest import run

pytestmark = pytest.mark.needs("aarch64-linux-gnu-g++", "cmake", "qemu-aarch64", "apt-get")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def board(small_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled bundle of the int8 artefact for a Raspberry Pi 4."""
    folder = tmp_path_factory.mktemp("bundle") / "board"
    make_bundle(small_export, BundleOptions(precision="int8", target="rpi4", out=folder))
    # Not optimized: compiling takes longer than the run.
    flags = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_BUILD_TYPE=Debug"]
    compiler = "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"
    run(["cmake", "-S", str(folder), "-B", str(folder / "build"), *flags, compiler])
    run(["cmake", "--build", str(folder / "build"), "--target", "conformance"])
    return folder


def emulated(folder: Path, *arguments: str) -> tuple[int, str, str]:
    script = str(ROOT / "scripts" / "run_emulated.py")
    command = [sys.executable, script, "rpi4", str(folder / "build" / "conformance"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_ids_offsets_and_outputs_are_right_on_the_board(board: Path) -> None:
    lines = (board / "model" / CONFORMANCE_FILE).read_text(encoding="utf-8").splitlines()
    code, printed, errors = emulated(board, str(board / "model"))
    assert (code, printed) == (0, f"int8: {len(lines) - 1} strings are as expected\n"), errors


def test_an_edited_graph_is_found_on_the_board(board: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(board / "model", tmp_path / "model"))
    graph = model / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    code, _, errors = emulated(board, str(model))
    assert code == 3
    assert "onnx/model_int8.onnx was changed after the export: its sha256 differs" in errors

"""The C++ part of a bundle: sources, CMake file and libonnxruntime."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgedistil.bundle.onnxruntime_library import copy_library
from edgedistil.bundle.tokenizer_parts import missing_parts
from edgedistil.core.contract import Contract
from edgedistil.core.errors import InputError
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import read_json_object

CPP_SOURCES = Path(__file__).with_name("cpp")


def require_cpp_tokenizer(export: Path, *, hint: str) -> None:
    """Raises InputError if the tokenizer has a part that the C++ library cannot do."""
    missing = missing_parts(read_json_object(export / "tokenizer.json", hint=hint))
    if missing:
        raise InputError(
            f"the tokenizer in {export} has parts that the C++ library cannot do: "
            f"{'; '.join(missing)}",
            hint="edgedistil bundle --for python has them, from the tokenizers library",
        )


def write_cpp_part(folder: Path, target: str) -> None:
    """Writes the C++ library, its programs, and libonnxruntime for a device.

    Args:
        folder: The bundle.
        target: Device, or host.
    """
    shutil.copytree(CPP_SOURCES, folder, dirs_exist_ok=True)
    copy_library(folder / "lib", target)


def cpp_size_groups(folder: Path) -> dict[str, list[Path]]:
    """Returns the files of the C++ part of a bundle by their kind."""
    return {
        "onnxruntime": [*(folder / "lib").rglob("*")],
        "C++ sources": [folder / "CMakeLists.txt", *_sources(folder)],
    }


def _sources(folder: Path) -> list[Path]:
    """Returns the files of a bundle that were copied from the package."""
    return [folder / path.relative_to(CPP_SOURCES) for path in CPP_SOURCES.glob("*/**/*.*")]


def cpp_readme(contract: Contract, precision: Precision) -> str:
    """Returns the README of a bundle, without the sizes: how it is built and run."""
    return (
        f"# {contract.task} in C++, {precision}\n\n"
        "Needs a C++17 compiler and CMake 3.18; nothing is downloaded.\n\n"
        "    cmake -S . -B build\n    cmake --build build\n"
        "    build/conformance model\n"
        f'    build/embed model {precision} "a text"\n\n'
        "`conformance` compares token ids, offsets and outputs with what the export gave; it ends "
        "with code 3 at the first difference. `embed` prints a sentence vector, and on standard "
        "error the times of its parts; `include/edgedistil/runner.hpp` is the interface.\n"
    )

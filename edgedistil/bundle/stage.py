"""`edgedistil bundle`: a folder that has all that a device needs to run an export.

model/            the export with one of its graphs, and conformance.jsonl
lib/              libonnxruntime.so.1 for the device's processor
CMakeLists.txt    and the C++ library with an example and the conformance check
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedistil.bundle.onnxruntime_library import copy_library
from edgedistil.bundle.tokenizer_parts import missing_parts
from edgedistil.core import console
from edgedistil.core.contract import CONFORMANCE_FILE, read_contract
from edgedistil.core.digests import changed_file
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.format import mebibytes
from edgedistil.core.options import BundleOptions
from edgedistil.core.precision import PRECISIONS, Precision, graph_name
from edgedistil.core.rundir import read_json_object, replacing, write_json, write_text

CPP_SOURCES = Path(__file__).with_name("cpp")
# Files of an export that no runner reads.
_LEFT_OUT = ("export.*.json", "*.ort", "onnx")
_EXPORT_HINT = "run edgedistil export again: it replaces the folder"


@dataclass(frozen=True)
class Bundle:
    """A bundle, and the sizes of its parts.

    Attributes:
        folder: The bundle.
        sizes: Part → bytes on disk.
    """

    folder: Path
    sizes: Mapping[str, int]


def make_bundle(export: Path, options: BundleOptions) -> Bundle:
    """Makes a bundle of an export folder.

    Args:
        export: A folder that `edgedistil export` wrote.
        options: Precision, device, and the folder to write.
    Raises:
        InputError: The export has no such precision, or its tokenizer has a part that the language
            cannot do.
        ModelError: A file of the export is missing or was changed after its check.
        StorageError: The folder cannot be written.
    """
    contract = read_contract(export)
    precision = _checked_precision(export, options.precision)
    _require_unchanged(export)
    _require_tokenizer(export)
    folder = options.out or Path(f"{export.name}-{options.language}")
    with replacing(folder) as unfinished:
        unfinished.mkdir(parents=True)
        _copy_model(export, unfinished / "model", precision)
        shutil.copytree(CPP_SOURCES, unfinished, dirs_exist_ok=True)
        copy_library(unfinished / "lib", options.target)
        write_text(unfinished / "README.md", _readme(contract.task, precision))
    return Bundle(folder, _sizes(folder))


def _checked_precision(export: Path, requested: Precision | None) -> Precision:
    """Returns the requested precision, or fp32; raises InputError if the export lacks it."""
    precision = requested or "fp32"
    available = [name for name in PRECISIONS if (export / "onnx" / graph_name(name)).is_file()]
    if precision not in available:
        raise InputError(
            f"{export} has no artefact in {precision}; it has {', '.join(available) or 'none'}",
            hint="edgedistil export --quantize PRECISION adds one",
        )
    return precision


def _require_unchanged(export: Path) -> None:
    """Raises ModelError if a file differs from what the check of the export has seen."""
    path = export / CONFORMANCE_FILE
    if not path.is_file():
        raise ModelError(f"{export} has no {CONFORMANCE_FILE}", hint=_EXPORT_HINT)
    with path.open(encoding="utf-8") as file:
        head = json.loads(file.readline())
    change = changed_file(export, head["files"])
    if change is not None:
        raise ModelError(f"{change}; the export was checked before", hint=_EXPORT_HINT)


def _require_tokenizer(export: Path) -> None:
    """Raises InputError if the tokenizer has a part that the C++ library cannot do."""
    missing = missing_parts(read_json_object(export / "tokenizer.json", hint=_EXPORT_HINT))
    if missing:
        raise InputError(
            f"the tokenizer in {export} has parts that the C++ library cannot do: "
            f"{'; '.join(missing)}",
            hint="run the export in Python, where the tokenizers library has them",
        )


def _copy_model(export: Path, folder: Path, precision: Precision) -> None:
    """Copies the files of an export with one of its graphs."""
    shutil.copytree(export, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    (folder / "onnx").mkdir()
    name = graph_name(precision)
    for path in (export / "onnx").glob(f"{name}*"):
        shutil.copyfile(path, folder / "onnx" / path.name)
    # The bundle's check is about the files that it has.
    session = read_json_object(folder / "session.json", hint=_EXPORT_HINT)
    session["artefacts"] = {f"onnx/{name}": session["artefacts"][f"onnx/{name}"]}
    write_json(folder / "session.json", session)
    lines = (folder / CONFORMANCE_FILE).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    head = rows[0]
    head["graphs"] = {precision: head["graphs"][precision]}
    head["tolerances"] = {precision: head["tolerances"][precision]}
    head["files"] = {file: sha for file, sha in head["files"].items() if (folder / file).is_file()}
    for row in rows[1:]:
        row["outputs"] = {key: row["outputs"][key] for key in row["outputs"] if key == precision}
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    write_text(folder / CONFORMANCE_FILE, text)


def _readme(task: str, precision: Precision) -> str:
    return (
        f"# {task} in C++\n\nNeeds a C++17 compiler and CMake 3.18; nothing is downloaded.\n\n"
        "    cmake -S . -B build\n    cmake --build build\n"
        "    build/conformance model\n\n"
        "`conformance` compares token ids, offsets and outputs with what the export gave; it ends "
        f"with code 3 at the first difference. `build/embed model {precision} TEXT` prints a "
        "sentence vector; `include/edgedistil/runner.hpp` is the interface.\n"
    )


def _sizes(folder: Path) -> dict[str, int]:
    """Returns the bytes of what a device has to hold, and of the rest."""
    groups = {
        "graph": [*(folder / "model" / "onnx").rglob("*")],
        "tokenizer": [folder / "model" / "tokenizer.json"],
        "onnxruntime": [*(folder / "lib").rglob("*")],
    }
    sizes = {name: _bytes(paths) for name, paths in groups.items()}
    sizes["other files"] = _bytes(list(folder.rglob("*"))) - sum(sizes.values())
    return sizes


def _bytes(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def show_bundle(bundle: Bundle) -> None:
    """Prints the sizes of a bundle's parts."""
    rows = [[name, mebibytes(size)] for name, size in bundle.sizes.items()]
    rows.append(["all", mebibytes(sum(bundle.sizes.values()))])
    console.table(f"{bundle.folder}", ["part", "size"], rows)

"""`edgedistil bundle`: a folder that has all that a device needs to run an export.

model/            the export with one of its graphs, and conformance.jsonl
README.md         commands, and the sizes of all files

in C++:           lib/ with libonnxruntime, CMakeLists.txt, the library, example and check
in Python:        the runtime's wheel, requirements.txt, example.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedistil.bundle.cpp_folder import (
    cpp_readme,
    cpp_size_groups,
    require_cpp_tokenizer,
    write_cpp_part,
)
from edgedistil.bundle.python_folder import python_readme, python_size_groups, write_python_part
from edgedistil.bundle.web.part import (
    WebChoice,
    measured_choice,
    require_supported,
    web_readme,
    web_size_groups,
    write_web_part,
)
from edgedistil.core import console
from edgedistil.core.contract import CONFORMANCE_FILE, checked_digests, read_contract
from edgedistil.core.digests import changed_file
from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.format import mebibytes
from edgedistil.core.options import BundleLanguage, BundleOptions
from edgedistil.core.paths import require_new
from edgedistil.core.precision import PRECISIONS, Precision, graph_name
from edgedistil.core.rundir import read_json_object, replacing, write_json, write_text

# Files of an export that no runner reads.
_LEFT_OUT = ("export.*.json", "*.ort", "onnx")
_EXPORT_HINT = "run edgedistil export again: it replaces the folder"


# Language → the parts of its folder, in the table of sizes.
_SIZE_GROUPS: Mapping[BundleLanguage, Callable[[Path], dict[str, list[Path]]]] = {
    "cpp": cpp_size_groups,
    "python": python_size_groups,
    "web": web_size_groups,
}


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
        InputError: The folder exists, the export has no such precision, or its tokenizer has a part
            that the language cannot do.
        ModelError: A file of the export is missing or was changed after its check.
        StorageError: The folder cannot be written.
    """
    folder = options.out or Path(f"{export.name}-{options.language}")
    # Users compile and change programs in a bundle, which a second one would lose.
    require_new(folder)
    contract = read_contract(export)
    choice = WebChoice(options.precision, None)
    if options.language == "web":
        choice = measured_choice(export, options.precision)
    precision = _checked_precision(export, choice.precision)
    # Everything that can be refused is refused before the folder is written.
    _require_unchanged(export)
    if options.language == "cpp":
        require_cpp_tokenizer(export, hint=_EXPORT_HINT)
    if options.language == "web":
        require_supported(export, contract)
    with replacing(folder) as unfinished:
        unfinished.mkdir(parents=True)
        _copy_model(export, unfinished / "model", precision)
        if options.language == "cpp":
            write_cpp_part(unfinished, options.target)
            readme = cpp_readme(contract, precision)
        elif options.language == "web":
            write_web_part(unfinished, contract, precision, threads=choice.threads)
            readme = web_readme(contract)
        else:
            requirements = write_python_part(unfinished, options.target)
            readme = python_readme(contract, precision, requirements)
        # The table of sizes counts what is really on disk, so it comes last.
        groups = _SIZE_GROUPS[options.language](unfinished)
        write_text(unfinished / "README.md", readme + _size_table(_sizes(unfinished, groups)))
    return Bundle(folder, _sizes(folder, _SIZE_GROUPS[options.language](folder)))


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
    change = changed_file(export, checked_digests(export))
    if change is not None:
        raise ModelError(f"{change}; the export was checked before", hint=_EXPORT_HINT)


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


def _size_table(sizes: Mapping[str, int]) -> str:
    """Returns the sizes of a bundle's parts, for its README, which is not counted."""
    rows = [f"| {name} | {size:,} |\n" for name, size in sizes.items()]
    return "\n| part of this folder | bytes |\n|---|---:|\n" + "".join(rows)


def _sizes(folder: Path, groups: Mapping[str, list[Path]]) -> dict[str, int]:
    """Returns the bytes of each part of a bundle, and of the rest."""
    common = {
        "graph": [*(folder / "model" / "onnx").rglob("*")],
        "tokenizer": [folder / "model" / "tokenizer.json"],
        "conformance check": [folder / "model" / name for name in (CONFORMANCE_FILE, "check.py")],
    }
    sizes = {name: _bytes(paths) for name, paths in {**common, **groups}.items()}
    sizes["other files"] = _bytes(list(folder.rglob("*"))) - sum(sizes.values())
    return sizes


def _bytes(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def show_bundle(bundle: Bundle) -> None:
    """Prints the sizes of a bundle's parts."""
    rows = [[name, mebibytes(size)] for name, size in bundle.sizes.items()]
    rows.append(["all", mebibytes(sum(bundle.sizes.values()))])
    console.table(f"{bundle.folder}", ["part", "size"], rows)

"""The web part of a bundle: an ES module, pages, onnxruntime-web and a proof of the tokens.

bundle.json       precision, threads, session options, graph files, sha256 of each file
edgedistil.mjs    the module; index.html shows it, check.html compares with conformance.jsonl
lib/              onnxruntime-web and @huggingface/tokenizers
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedistil.bundle.tokenizer_parts import missing_parts
from edgedistil.core.contract import Contract, checked_digests
from edgedistil.core.errors import InputError
from edgedistil.core.precision import PRECISIONS, Precision, graph_name
from edgedistil.core.rundir import RunDir, read_json_object, write_json
from edgedistil.core.session import (
    SESSION_FILE,
    WEB_SESSION_FILE,
    SessionOptions,
    read_session_file,
)
from edgedistil.core.task import TASKS
from edgedistil.runtime.npm import (
    ONNXRUNTIME_WEB,
    TOKENIZER_LIBRARY,
    TOKENIZERS,
    NpmPackage,
    package_files,
)

_FILES = Path(__file__).with_name("files")
_VERIFY = Path(__file__).with_name("verify_tokens.mjs")
# The build for WebAssembly alone; the one with WebGPU is 12 MB larger.
_RUNTIME_FILES = (
    "dist/ort.wasm.min.mjs",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
)
# Section of tokenizer.json → types that @huggingface/tokenizers 0.2.0 has.
PARTS: Mapping[str, frozenset[str]] = {
    "normalizer": frozenset(
        {
            *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled"),
            *("Prepend", "Replace", "Sequence", "Strip", "StripAccents"),
        }
    ),
    "pre_tokenizer": frozenset(
        {
            *("BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation"),
            *("Sequence", "Split", "Whitespace", "WhitespaceSplit"),
        }
    ),
    "model": frozenset({"BPE", "Unigram", "WordPiece"}),
    "post_processor": frozenset(
        {"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"}
    ),
}
# Levels of tasks whose answers are places in a text.
_NEED_OFFSETS = ("span", "token")
_TUNE_AGAIN = "write it again with edgedistil profile --browser chromium --tune"
_ELSEWHERE = "run the export in Python, where the tokenizers library has it"


def require_supported(export: Path, contract: Contract) -> None:
    """Raises InputError if a page cannot run an export: its task, or a part of its tokenizer."""
    if any(len(tensor.shape) != 2 for tensor in contract.inputs):
        raise InputError(
            f"{export} is for {contract.task}, which the web module cannot do",
            hint="run the export in Python",
        )
    described = read_json_object(export / "tokenizer.json", hint=_ELSEWHERE)
    missing = missing_parts(described, PARTS, expressions=None)
    if missing:
        raise InputError(
            f"the tokenizer in {export} has parts that JavaScript cannot do: {'; '.join(missing)}",
            hint=_ELSEWHERE,
        )


@dataclass(frozen=True)
class WebChoice:
    """Precision and threads of a web bundle; None where neither is known.

    Attributes:
        precision: Precision of the graph.
        threads: Threads of a call.
    """

    precision: Precision | None
    threads: int | None


def measured_choice(export: Path, requested: Precision | None) -> WebChoice:
    """Returns what `profile --browser chromium --tune` measured for an export of a run.

    Args:
        export: The export folder.
        requested: The user's precision, which has priority.
    Raises:
        StorageError: The file is corrupt.
    """
    path = RunDir(export.absolute().parent.parent).profiles / WEB_SESSION_FILE
    if not path.is_file():
        return WebChoice(requested, None)
    precisions = read_json_object(path, hint=_TUNE_AGAIN).get("precisions", {})
    precision = requested or precisions.get(export.name)
    advice = read_session_file(path).get(f"{export.name}.{precision}")
    # The export may have been made again in other precisions since.
    if precision not in PRECISIONS or not (export / "onnx" / graph_name(precision)).is_file():
        return WebChoice(requested, None)
    return WebChoice(precision, None if advice is None else advice.session.threads)


def write_web_part(
    folder: Path, contract: Contract, precision: Precision, *, threads: int | None
) -> None:
    """Writes module, pages and libraries around the model of a bundle.

    Args:
        folder: The bundle, with the export in `model`.
        contract: The contract of the export.
        precision: Precision of the graph.
        threads: Threads of a call; None: as session.json of the model recommends.
    Raises:
        InputError: The JavaScript tokenizer gives other tokens, or Node.js is missing.
        OfflineError: A library has to be downloaded, and cannot be.
    """
    shutil.copytree(_FILES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pyc*"))
    _copy_package(ONNXRUNTIME_WEB, [*_RUNTIME_FILES], folder / "lib")
    _copy_package(TOKENIZERS, [TOKENIZER_LIBRARY, "LICENSE"], folder / "lib")
    # The tokens are compared before the large files are described.
    _verify_tokens(folder, contract)
    model = folder / "model"
    name = f"onnx/{graph_name(precision)}"
    session = read_session_file(model / SESSION_FILE)[name].session
    write_json(
        folder / "bundle.json",
        {
            "format": 1,
            "task": contract.task,
            "precision": precision,
            "threads": session.threads if threads is None else threads,
            "session": _session(session),
            "graph": [f"model/{file}" for file in sorted(_graph_files(model, name))],
            "files": {f"model/{file}": digest for file, digest in checked_digests(model).items()},
        },
    )


def _copy_package(package: NpmPackage, names: list[str], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, path in package_files(package, names).items():
        file = Path(name).name
        if file == "LICENSE":
            file = f"LICENSE.{package.folder.name}"
        shutil.copyfile(path, folder / file)


def _verify_tokens(folder: Path, contract: Contract) -> None:
    """Compares the JavaScript tokenizer with conformance.jsonl."""
    node = shutil.which("node")
    if node is None:
        raise InputError(
            "Node.js is not installed: the tokens of a web bundle are compared with it",
            hint="install it: Debian: apt-get install nodejs",
        )
    library = folder / "lib" / Path(TOKENIZER_LIBRARY).name
    done = subprocess.run(  # noqa: S603 - our own arguments
        [node, str(_VERIFY), str(library), str(folder / "model")],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InputError(f"the JavaScript tokenizer failed: {done.stderr.strip()[-500:]}")
    result = json.loads(done.stdout)
    if result["difference"] is not None:
        raise InputError(
            f"the JavaScript tokenizer cannot do this model's: {result['difference']}",
            hint=_ELSEWHERE,
        )
    if TASKS[contract.task].level in _NEED_OFFSETS and result["offsets"] is not None:
        raise InputError(
            f"{contract.task} needs the places of tokens, which the JavaScript tokenizer does not "
            f"give with {result['offsets']}",
            hint=_ELSEWHERE,
        )


def _session(session: SessionOptions) -> dict[str, object]:
    entries = session.config_entries()
    return {"graph_optimization_level": session.graph_level, "config_entries": entries}


def _graph_files(model: Path, name: str) -> list[str]:
    """Graph and external data; the graph is first in the order of their names."""
    return [path.relative_to(model).as_posix() for path in (model / "onnx").glob(f"{name[5:]}*")]


def web_size_groups(folder: Path) -> dict[str, list[Path]]:
    """Returns the parts of a bundle that a page downloads besides graph and tokenizer."""
    module = folder / "model" / "tokenizer.mjs"
    return {
        "onnxruntime-web": [*(folder / "lib").glob("ort*")],
        "scripts": [*(folder / "lib").glob("tokenizers*"), *folder.glob("*.mjs"), module],
    }


def web_readme(contract: Contract) -> str:
    """Returns the bundle's README without the sizes."""
    return (
        f"# {contract.task} on a web page\n\n"
        "    python3 serve.py\n\n"
        "serves this folder on this machine: the page is a demo, `check.html` compares tokens and "
        "outputs with what the export gave. `edgedistil.mjs` is the module for pages of your own. "
        "A page gets threads only from a server that sends the headers "
        "`Cross-Origin-Opener-Policy: same-origin` and "
        "`Cross-Origin-Embedder-Policy: require-corp`; without them it uses one thread.\n"
    )

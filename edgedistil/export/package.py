"""The files around the ONNX graphs of an export folder, so that common clients can load it.

    config.json · tokenizer.json · tokenizer_config.json · special_tokens_map.json · vocab.txt
    modules.json · 1_Pooling/config.json · sentence_bert_config.json      (feature-extraction only)
    contract.json · session.json · provenance.json · README.md
    onnx/model.onnx · onnx/model_int8.onnx …                              (already there)

transformers.js, optimum's ORTModel classes, sentence-transformers, and plain onnxruntime with
tokenizers load the folder; tests/interop/ runs them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from edgedistil.core.card_inputs import read_folder_inputs
from edgedistil.core.contract import write_contract
from edgedistil.core.errors import ModelError
from edgedistil.core.export_records import ExportRecord, ParityRecord
from edgedistil.core.family import FAMILIES
from edgedistil.core.model_card import CARD_FILE, render_card
from edgedistil.core.records import installed_versions
from edgedistil.core.rundir import sha256_file, write_json, write_text
from edgedistil.core.sentence_vector import read_max_length, unsupported_part
from edgedistil.core.session import SESSION_FILE, write_session_file
from edgedistil.core.task import ENCODER_TASK, TASKS, find_task
from edgedistil.export.contract import build_contract
from edgedistil.export.sentence_modules import omitted_parts, write_sentence_modules
from edgedistil.export.session_advice import advise_session
from edgedistil.export.source import ExportSource
from edgedistil.export.storage import EXTERNAL_SUFFIX
from edgedistil.export.tokenizer_files import write_tokenizer


def write_package(
    folder: Path,
    source: ExportSource,
    *,
    title: str,
    records: Sequence[ExportRecord],
    parities: Sequence[ParityRecord],
    command: str,
) -> None:
    """Writes all files around the ONNX graphs of `folder`; existing ones are replaced.

    Args:
        folder: Holds `onnx/`.
        source: The exported model.
        title: Title of the model card.
        records: One for each artefact in the folder.
        parities: Their parity, for the card.
        command: Command line that creates the folder again.
    Raises:
        ModelError: The folder has no graph, or the source's config or tokenizer cannot be read.
    """
    graphs = sorted((folder / "onnx").glob("*.onnx"))
    if not graphs:
        raise ModelError(f"{folder} has no onnx/*.onnx to package")
    config = packaged_config(source.folder, source.task, graphs)
    write_json(folder / "config.json", config)
    # Only an encoder gives sentence vectors.
    has_modules = source.task == ENCODER_TASK
    max_length = write_tokenizer(
        folder,
        source.folder,
        config,
        input_names=_input_names(graphs[0]),
        longest=read_max_length(source.package_folder) if has_modules else None,
    )
    vector = source.sentence_vector()
    if has_modules:
        write_sentence_modules(folder, source.package_folder, vector, max_length=max_length)
    contract = build_contract(
        folder,
        task=source.task,
        config=config,
        max_length=max_length,
        vector=vector,
        unsupported=unsupported_part(source.package_folder) if has_modules else None,
    )
    write_contract(folder, contract)
    advice = {record.files[0].path: advise_session(record) for record in records}
    write_session_file(folder / SESSION_FILE, advice)

    provenance = _provenance(folder, title, source.task, records)
    provenance |= {
        "command": command,
        "licence": _licence(source.package_folder),
        "omitted": omitted_parts(source.package_folder, has_modules=has_modules),
    }
    write_json(folder / "provenance.json", provenance)

    # The card describes the other files, so it is written last and only from them.
    inputs = read_folder_inputs(folder, exports=records, parities=parities)
    write_text(folder / CARD_FILE, render_card(inputs))


# --- config.json ---------------------------------------------------------------------------------


def packaged_config(source_folder: Path, task: str, graphs: Sequence[Path]) -> dict[str, Any]:
    """Returns the source's config with the task's architecture, without paths of this machine.

    Args:
        source_folder: Folder with config.json.
        task: TasksManager's name of the task.
        graphs: Graph files of the package.
    Raises:
        ModelError: The config cannot be read, or the family or task is not supported.
    """
    path = source_folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    family = FAMILIES.get(config.get("model_type", ""))
    row = find_task(task)
    if family is None or row is None:
        raise ModelError(
            f"{path} is of type '{config.get('model_type')}' for the task '{task}'; "
            f"supported: {', '.join(FAMILIES)}; {', '.join(TASKS)}"
        )
    # A path of this machine says nothing to anyone else.
    config.pop("_name_or_path", None)
    config["architectures"] = [family.class_prefix + row.architectures[0]]

    # transformers.js opens a file with weights only if the config names its graph
    # (docs/decisions.md#transformersjs_config-in-configjson).
    external = [graph.name for graph in graphs if _has_external_weights(graph)]
    if external:
        settings = {"use_external_data_format": dict.fromkeys(external, 1)}
        config["transformers.js_config"] = settings
    return config


def _has_external_weights(graph: Path) -> bool:
    return graph.with_name(graph.name + EXTERNAL_SUFFIX).is_file()


def _input_names(graph: Path) -> list[str]:
    model = onnx.load(graph, load_external_data=False)
    return [value.name for value in model.graph.input]


# --- provenance.json -----------------------------------------------------------------------------


def _provenance(
    folder: Path, title: str, task: str, records: Sequence[ExportRecord]
) -> dict[str, Any]:
    """Versions, digests and origins of everything in the folder."""
    return {
        "format": 1,
        "model": title,
        "task": task,
        "versions": installed_versions(),
        "files": _file_digests(folder),
        "artefacts": {record.precision: _artefact_provenance(record) for record in records},
    }


def _file_digests(folder: Path) -> dict[str, str]:
    """Path → sha256 of every file below `onnx/`."""
    files = [path for path in sorted((folder / "onnx").rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def _artefact_provenance(record: ExportRecord) -> dict[str, Any]:
    return {
        "source_sha256": record.source_sha256,
        "target_device": record.target_device,
        "opset": record.opset,
        "ir_version": record.ir_version,
        "parameters": record.parameters,
        "reasons": record.reasons,
        "created_utc": record.provenance.created_utc,
        "versions": record.provenance.versions,
    }


def _licence(source_folder: Path) -> str | None:
    """The licence in the front matter of the source's card; None if it names none."""
    card = source_folder / CARD_FILE
    if not card.is_file():
        return None
    # The front matter is YAML, but one key of plain text needs no parser.
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return None
    front_matter = lines[1 : lines.index("---", 1)]
    for line in front_matter:
        if line.startswith("license:"):
            return line.split(":", 1)[1].strip().strip("'\"") or None
    return None

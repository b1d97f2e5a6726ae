"""The hub-ready folder around the ONNX files: what every client needs to load them as they are.

    config.json · tokenizer.json · tokenizer_config.json · special_tokens_map.json · vocab.txt
    modules.json · 1_Pooling/config.json · sentence_bert_config.json      (feature-extraction only)
    session.json · provenance.json · README.md
    onnx/model.onnx · onnx/model_int8.onnx …                              (already there)

transformers.js, optimum's ORTModel classes, sentence-transformers and plain onnxruntime with tokenizers read it;
`tests/interop` holds them to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.records import (
    ExportRecord,
    ParityRecord,
    ProfileRecord,
    installed_versions,
    read_record,
)
from edgedistil.core.rundir import (
    RunDir,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from edgedistil.core.task import ENCODER_TASK, TASKS, find_task
from edgedistil.export.card import model_card
from edgedistil.export.session_advice import session_advice

_TRANSFORMER_MODULE = "sentence_transformers.models.Transformer"
_POOLING_MODULE = "sentence_transformers.models.Pooling"


def write_package(
    folder: Path,
    *,
    source_folder: Path,
    task: str,
    model_name: str,
    records: Sequence[ExportRecord],
    parities: Sequence[ParityRecord],
    profiles: Sequence[ProfileRecord] = (),
    command: str,
) -> None:
    """Writes everything around the ONNX files of `folder`, each file whole or not at all.

    Args:
        folder: Holds `onnx/`; what a former call wrote is replaced.
        source_folder: config.json and tokenizer of the model that was exported.
        task: TasksManager's name of the task.
        model_name: Title of the model card.
        records: One per artefact in the folder.
        parities: Their parity, shown in the card.
        profiles: Shown in the card where there are any.
        command: The exact command line that makes the folder again.
    Raises:
        ModelError: The folder has no graph, or the source's config or tokenizer cannot be read.
    """
    from edgedistil.export.tokenizer_files import (
        write_tokenizer,  # brings torch, which a fresh card does without
    )

    graphs = sorted((folder / "onnx").glob("*.onnx"))
    if not graphs:
        raise ModelError(f"{folder} has no onnx/*.onnx to package")
    config = packaged_config(source_folder, task, graphs)
    write_json(folder / "config.json", config)
    longest = write_tokenizer(folder, source_folder, config, input_names=_input_names(graphs[0]))
    if task == ENCODER_TASK:
        _write_sentence_transformers(
            folder,
            source_folder,
            width=FAMILIES[config["model_type"]].hidden(config),
            longest=longest,
        )
    write_json(folder / "session.json", session_advice(records))
    provenance = _provenance(folder, model_name, task, records, command) | {
        "licence": _licence(source_folder)
    }
    write_json(folder / "provenance.json", provenance)
    _write_card(folder, config, longest, provenance, records, parities, profiles)


def refresh_cards(run: RunDir) -> list[Path]:
    """Writes the model cards of a run's packages anew, with all the profiles that the run has by now.

    Returns:
        The cards.
    Raises:
        StorageError: A record or a file of a package is torn or of another version.
    """
    profiles = [read_record(path, ProfileRecord) for path in sorted(run.profiles.glob("*.json"))]
    packages = sorted(path.parent for path in run.exports.glob("*/provenance.json"))
    for folder in packages:
        records = [read_record(path, ExportRecord) for path in sorted(folder.glob("export.*.json"))]
        proofs = [run.parity(record.model, record.task, record.precision) for record in records]
        config, tokenizer = (
            read_json(folder / name) for name in ("config.json", "tokenizer_config.json")
        )
        _write_card(
            folder,
            config,
            tokenizer["model_max_length"],
            read_json(folder / "provenance.json"),
            records,
            [read_record(path, ParityRecord) for path in proofs if path.is_file()],
            profiles,
        )
    return [folder / "README.md" for folder in packages]


def _write_card(
    folder: Path,
    config: dict[str, Any],
    longest: int,
    provenance: dict[str, Any],
    records: Sequence[ExportRecord],
    parities: Sequence[ParityRecord],
    profiles: Sequence[ProfileRecord],
) -> None:
    card = model_card(
        folder,
        model_name=provenance["model"],
        task=provenance["task"],
        config=config,
        longest=longest,
        licence=provenance["licence"],
        records=records,
        parities=parities,
        profiles=profiles,
        command=provenance["command"],
    )
    write_text(folder / "README.md", card)


def packaged_config(source_folder: Path, task: str, graphs: Sequence[Path]) -> dict[str, Any]:
    """The source's config, made to fit the folder: architecture of the task, no path, which weights lie beside a graph.

    Raises:
        ModelError: The config cannot be read, or the family or task is not supported.
    """
    path = source_folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    family, row = FAMILIES.get(config.get("model_type", "")), find_task(task)
    if family is None or row is None:
        raise ModelError(
            f"{path} is of the type '{config.get('model_type')}' for the task '{task}';"
            f" supported: {', '.join(FAMILIES)}; {', '.join(TASKS)}"
        )
    config.pop("_name_or_path", None)
    config["architectures"] = [family.class_prefix + row.architectures[0]]
    beside = {graph.name: 1 for graph in graphs if graph.with_name(f"{graph.name}_data").is_file()}
    if beside:  # transformers.js opens a file beside the graph only when it is told to
        config["transformers.js_config"] = {"use_external_data_format": beside}
    return config


def _input_names(graph: Path) -> list[str]:
    return [each.name for each in onnx.load(graph, load_external_data=False).graph.input]


def _write_sentence_transformers(folder: Path, source: Path, *, width: int, longest: int) -> None:
    """The source's own modules where it has them, else the mean of the attended positions."""
    kept = [
        path for path in ("modules.json", "sentence_bert_config.json") if (source / path).is_file()
    ]
    kept += [str(path.relative_to(source)) for path in source.glob("*_*/config.json")]
    if "modules.json" in kept:
        for path in kept:
            write_bytes(folder / path, (source / path).read_bytes())
        return
    modules = [("", _TRANSFORMER_MODULE), ("1_Pooling", _POOLING_MODULE)]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": kind}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
    )
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False}
    )


def _provenance(
    folder: Path, model_name: str, task: str, records: Sequence[ExportRecord], command: str
) -> dict[str, Any]:
    return {
        "format": 1,
        "command": command,
        "model": model_name,
        "task": task,
        "versions": installed_versions(),
        "files": {
            str(path.relative_to(folder)): sha256_file(path)
            for path in sorted((folder / "onnx").rglob("*"))
            if path.is_file()
        },
        "artefacts": {
            record.precision: {
                "source_sha256": record.source_sha256,
                "target_device": record.target_device,
                "opset": record.opset,
                "ir_version": record.ir_version,
                "parameters": record.parameters,
                "reasons": record.reasons,
                "created_utc": record.provenance.created_utc,
                "versions": record.provenance.versions,
            }
            for record in records
        },
    }


def _licence(source: Path) -> str | None:
    """What the front matter of the source's own card says; nothing is guessed."""
    card = source / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return None
    for line in lines[1 : lines.index("---", 1)]:
        if line.startswith("license:"):
            return line.split(":", 1)[1].strip().strip("'\"") or None
    return None

"""Inputs of a model card, read from an export folder and the records of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core.errors import StorageError
from edgedistil.core.family import FAMILIES
from edgedistil.core.records import (
    ExportRecord,
    ParityRecord,
    ProfileRecord,
    ProfileRow,
    read_record,
)
from edgedistil.core.rundir import RunDir, read_json, read_json_object
from edgedistil.core.task import TASKS, TaskInfo

# Pooling mode of sentence-transformers → words.
_POOLING_WORDS = {
    "mean": "mean of the attended positions",
    "cls": "first token",
    "max": "maximum over the attended positions",
    "lasttoken": "last attended token",
    "mean_sqrt_len": "sum of the attended positions over the root of their number",
    "weightedmean": "mean weighted by position",
}
_EXPORT_AGAIN = "run edgedistil export again: it replaces the folder"


@dataclass(frozen=True, kw_only=True)
class CardInputs:
    """Everything that a model card is rendered from.

    Attributes:
        folder_name: Name of the folder, as the examples load it.
        title: Title of the card.
        task: What the model computes.
        licence: Licence of the source model; None if it names none.
        command: Command line that creates the folder again.
        config: config.json of the folder.
        max_length: Tokens that the tokenizer truncates to.
        exports: Records of the folder's artefacts.
        parities: Their parity; empty if they were not compared.
        rows: Profile rows of these artefacts; empty before anything was profiled.
        sentence_vector: Steps from hidden states to a sentence vector; empty for other tasks.
        omitted: Parts of the source that the folder does not contain.
    """

    folder_name: str
    title: str
    task: TaskInfo
    licence: str | None
    command: str
    config: Mapping[str, Any]
    max_length: int
    exports: Sequence[ExportRecord]
    parities: Sequence[ParityRecord]
    rows: Sequence[ProfileRow] = ()
    sentence_vector: str = ""
    omitted: Sequence[str] = ()


# --- reading -------------------------------------------------------------------------------------


def read_card_inputs(run: RunDir, folder: Path) -> CardInputs:
    """Reads the inputs of the complete card of an export folder, with the run's profiles.

    Raises:
        StorageError: A record or a file of the folder is corrupt or of another version.
    """
    exports = [read_record(path, ExportRecord) for path in sorted(folder.glob("export.*.json"))]
    parities = []
    for record in exports:
        path = run.parity(record.model, record.task, record.precision)
        if path.is_file():
            parities.append(read_record(path, ParityRecord))

    # Rows of other models, and of an earlier export of the same model, are left out.
    digests = {parity.artefact_sha256 for parity in parities}
    artefacts = {(record.model, record.task, record.precision) for record in exports}
    rows = []
    for path in sorted(run.profiles.glob("*.json")):
        for row in read_record(path, ProfileRecord).rows:
            is_ours = (row.model, row.task, row.precision) in artefacts
            if is_ours and row.artefact_sha256 in digests:
                rows.append(row)
    return read_folder_inputs(folder, exports=exports, parities=parities, rows=rows)


def read_folder_inputs(
    folder: Path,
    *,
    exports: Sequence[ExportRecord],
    parities: Sequence[ParityRecord],
    rows: Sequence[ProfileRow] = (),
) -> CardInputs:
    """Reads the inputs that an export folder holds, and adds records to them.

    Raises:
        StorageError: A file of the folder is corrupt.
    """
    config, max_length = _read_config(folder), _read_max_length(folder)
    path = folder / "provenance.json"
    with _shape_errors(path):
        provenance = read_json_object(path, hint=_EXPORT_AGAIN)
        task = TASKS[provenance["task"]]
        return CardInputs(
            folder_name=folder.name,
            title=str(provenance["model"]),
            task=task,
            licence=provenance["licence"],
            command=str(provenance["command"]),
            config=config,
            max_length=max_length,
            exports=exports,
            parities=parities,
            rows=rows,
            sentence_vector=_read_sentence_vector(
                folder, is_guess=bool(provenance["pooling_is_guess"])
            ),
            omitted=[str(part) for part in provenance["omitted"]],
        )


@contextmanager
def _shape_errors(path: Path) -> Iterator[None]:
    """Turns the errors of JSON of another shape into a StorageError that names the file."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{path} is corrupt or of another version: {type(error).__name__}: {error}",
            hint=_EXPORT_AGAIN,
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json, with everything that the card says of it."""
    path = folder / "config.json"
    config = read_json_object(path, hint=_EXPORT_AGAIN)
    with _shape_errors(path):
        describe_model(config)
    return config


def describe_model(config: Mapping[str, Any]) -> tuple[str, str]:
    """Architecture and sizes of a model, from its config.json."""
    # Families name their sizes differently; the table knows the names.
    family = FAMILIES[config["model_type"]]
    sizes = (
        f"{family.layers(config)} layers, hidden size {family.hidden(config)}, "
        f"vocabulary of {config['vocab_size']:,} tokens"
    )
    return str(config["architectures"][0]), sizes


def _read_max_length(folder: Path) -> int:
    path = folder / "tokenizer_config.json"
    config = read_json_object(path, hint=_EXPORT_AGAIN)
    with _shape_errors(path):
        return int(config["model_max_length"])


def _read_sentence_vector(folder: Path, *, is_guess: bool) -> str:
    """Describes the modules of a package in words; empty if it has none."""
    path = folder / "modules.json"
    if not path.is_file():
        return ""
    steps = []
    for name, module_folder in _read_modules(path):
        if name == "Pooling":
            steps.append(_read_pooling(module_folder / "config.json"))
        elif name != "Transformer":
            steps.append(name)
    guess = " (a guess: the source does not say how it pools)" if is_guess else ""
    return " → ".join(steps) + guess


def _read_modules(path: Path) -> list[tuple[str, Path]]:
    """Class name and folder of each module that modules.json lists."""
    with _shape_errors(path):
        return [
            (str(module["type"]).rpartition(".")[2], path.parent / str(module["path"]))
            for module in read_json(path, hint=_EXPORT_AGAIN)
        ]


def _read_pooling(path: Path) -> str:
    with _shape_errors(path):
        return _pooling_in_words(read_json_object(path, hint=_EXPORT_AGAIN))


def _pooling_in_words(config: Mapping[str, Any]) -> str:
    # Older files have a switch for each mode, newer ones name the mode.
    modes = [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    if not modes:
        mode = config.get("pooling_mode", "mean")
        modes = [mode] if isinstance(mode, str) else [str(item) for item in mode]
    return " and ".join(_POOLING_WORDS.get(mode, f"pooling '{mode}'") for mode in modes)

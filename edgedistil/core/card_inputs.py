"""Inputs of a model card, read from an export folder and the records of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core.contract import Contract, read_contract
from edgedistil.core.errors import StorageError
from edgedistil.core.export_records import ExportRecord, ParityRecord
from edgedistil.core.family import FAMILIES
from edgedistil.core.profile_records import ProfileRecord, ProfileRow
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir, read_json_object

_EXPORT_AGAIN = "run edgedistil export again: it replaces the folder"


@dataclass(frozen=True, kw_only=True)
class CardInputs:
    """Everything that a model card is rendered from.

    Attributes:
        folder_name: Name of the folder, as the examples load it.
        title: Title of the card.
        contract: Task, tokenizer, labels and sentence vector of the folder.
        licence: Licence of the source model; None if it names none.
        command: Command line that creates the folder again.
        config: config.json of the folder.
        exports: Records of the folder's artefacts.
        parities: Their parity; empty if they were not compared.
        rows: Profile rows of these artefacts; empty before anything was profiled.
        omitted: Parts of the source that the folder does not contain.
    """

    folder_name: str
    title: str
    contract: Contract
    licence: str | None
    command: str
    config: Mapping[str, Any]
    exports: Sequence[ExportRecord]
    parities: Sequence[ParityRecord]
    rows: Sequence[ProfileRow] = ()
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
    config, contract = _read_config(folder), read_contract(folder)
    path = folder / "provenance.json"
    with _shape_errors(path):
        provenance = read_json_object(path, hint=_EXPORT_AGAIN)
        return CardInputs(
            folder_name=folder.name,
            title=str(provenance["model"]),
            contract=contract,
            licence=provenance["licence"],
            command=str(provenance["command"]),
            config=config,
            exports=exports,
            parities=parities,
            rows=rows,
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

"""A task's data from where it is: a package, files in their official layout, a user's own files, or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import OfflineError, TaskError
from edgedistil.evaluate.built_in import load_asset_task
from edgedistil.evaluate.examples import RawExample, TaskData, checked_data
from edgedistil.evaluate.formats import answers_of, read_side, read_texts, text_of
from edgedistil.evaluate.spec import REST, Files, Hub, TaskSpec


@lru_cache(maxsize=2)
def load_data(spec: TaskSpec, data: Path | None) -> TaskData:
    """Train and dev examples of a task, checked.

    Args:
        spec: From `load_task`.
        data: Folder with the public data sets' official files; None: the hub. A user's own task needs neither.
    Raises:
        TaskError: Data is missing or malformed; names file and line.
        OfflineError: The hub cannot be reached; says what to download and where to put it.
    """
    console.say(f"{spec.name}: reading the data")
    whole = _load(spec, data)
    kept = whole.limited(spec.train_limit, spec.dev_limit)
    return (
        kept
        if spec.second_distillation.unlabelled is None
        else _with_unlabelled(spec, whole, kept, data)
    )


def _with_unlabelled(
    spec: TaskSpec, whole: TaskData, kept: TaskData, data: Path | None
) -> TaskData:
    wanted = spec.second_distillation
    assert wanted.unlabelled is not None
    if wanted.unlabelled == REST:
        learnt = {id(example) for example in kept.train}
        texts = [example.texts for example in whole.train if id(example) not in learnt]
        return kept.with_unlabelled(
            texts, wanted.unlabelled_limit, origin=f"task '{spec.name}', beyond train_limit"
        )
    path = Path(spec.base or data or ".") / wanted.unlabelled
    source = spec.files or spec.hub
    texts = read_texts(spec, spec.files, path, source.text if source else ("text",))
    return kept.with_unlabelled(texts, wanted.unlabelled_limit, origin=str(path))


def _load(spec: TaskSpec, data: Path | None) -> TaskData:
    if spec.asset is not None:
        return load_asset_task(spec)
    if spec.files is not None and (spec.base is not None or data is not None):
        return _from_files(
            spec, spec.files, Path(spec.base) if spec.base is not None else data or Path()
        )
    if spec.hub is not None:
        return _from_hub(spec, spec.hub)
    raise TaskError(f"task '{spec.name}' is in files only", hint="give their folder with --data")


def _from_files(spec: TaskSpec, files: Files, root: Path) -> TaskData:
    folder = root / files.folder
    train, notes = read_side(spec, files, (files.train,), folder)
    dev, more = read_side(spec, files, files.dev, folder)
    return checked_data(spec, train, dev, origin=str(folder), notes=[*notes, *more])


# --- the hub --------------------------------------------------------------------------------------


def _from_hub(spec: TaskSpec, hub: Hub) -> TaskData:
    train = list(_hub_split(spec, hub, hub.train, 0))
    dev = [raw for part, split in enumerate(hub.dev) for raw in _hub_split(spec, hub, split, part)]
    name = f"hub {hub.id}" + (f" ({hub.config})" if hub.config else "")
    return checked_data(spec, train, dev, origin=name)


def _hub_split(spec: TaskSpec, hub: Hub, split: str, part: int) -> Iterator[RawExample]:
    rows = _fetch(spec, hub, split)
    missing = [column for column in (*hub.text, hub.label) if column not in rows.column_names]
    if missing:
        raise TaskError(
            f"{hub.id} {split}: no column '{missing[0]}'; there: {', '.join(rows.column_names)}"
        )
    for number, row in enumerate(rows, start=1):
        where = f"{hub.id} {split}: row {number}"
        answers = answers_of(where, row, hub.label) if spec.kind == "span" else ()
        yield RawExample(
            tuple(text_of(where, column, row[column]) for column in hub.text),
            row[hub.label],
            where,
            "",
            answers,
            part,
        )


def _fetch(spec: TaskSpec, hub: Hub, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(hub.id, hub.config, split=split)
    except (ConnectionError, OSError, datasets.exceptions.DatasetNotFoundError) as error:
        official = ""
        if spec.files is not None:
            names = ", ".join(
                str(Path(spec.files.folder) / name) for name in (spec.files.train, *spec.files.dev)
            )
            official = f"download {spec.download or spec.shown}, put {names} into a folder, and give it with --data FOLDER"
        raise OfflineError(
            f"task '{spec.name}': cannot get {hub.id} {hub.config or ''} from the hub: {str(error).splitlines()[0]}",
            hint=official
            or "fill the cache of the datasets library (HF_HOME) on a machine that reaches the hub",
        ) from error

"""Loads the data of a task: from a package, official files, a user's own files, or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import OfflineError, TaskError
from edgedistil.core.library_errors import first_line
from edgedistil.evaluate.built_in import load_asset_task
from edgedistil.evaluate.examples import AnswerSpan, RawExample, TaskData
from edgedistil.evaluate.formats import answers_of, read_side, read_texts, text_of
from edgedistil.evaluate.spec import REST, Files, Hub, TaskSpec
from edgedistil.evaluate.validation import checked_data


# Two data sets stay in memory: with fewer a task could be read again for each of its cells, with
# more the texts of all tasks would add up.
@lru_cache(maxsize=2)
def load_data(spec: TaskSpec, data: Path | None) -> TaskData:
    """Loads the train and dev examples of a task, checked and limited.

    Args:
        spec: Description of the task.
        data: Folder with the official files of public data sets; None: download from the hub. A
            user's own task needs neither.
    Raises:
        TaskError: Data is missing or malformed; the message names file and line.
        OfflineError: The hub cannot be reached; the hint names the files to download.
    """
    console.say(f"{spec.name}: reading the data")
    complete = _load_complete(spec, data)
    limited = complete.limited(spec.train_limit, spec.dev_limit)
    if spec.second_distillation.unlabelled is None:
        return limited
    return _with_unlabelled(spec, complete, limited, data)


def _with_unlabelled(
    spec: TaskSpec, complete: TaskData, limited: TaskData, data: Path | None
) -> TaskData:
    """Adds the unlabelled texts that the task's file asks for."""
    second = spec.second_distillation
    assert second.unlabelled is not None

    # The rest of the training file. By identity, not equality: a text that occurs twice may be
    # once among the labelled and once among the unlabelled ones.
    if second.unlabelled == REST:
        labelled = {id(example) for example in limited.train}
        texts = [example.texts for example in complete.train if id(example) not in labelled]
        origin = f"task '{spec.name}', beyond train_limit"
        return limited.with_unlabelled(texts, second.unlabelled_limit, origin=origin)

    # A separate file, with the same text columns as the task's own.
    path = Path(spec.base or data or ".") / second.unlabelled
    source = spec.files or spec.hub
    columns = source.text if source else ("text",)
    texts, notes = read_texts(spec, spec.files, path, columns)
    limited = replace(limited, warnings=(*limited.warnings, *notes))
    return limited.with_unlabelled(texts, second.unlabelled_limit, origin=str(path))


def _load_complete(spec: TaskSpec, data: Path | None) -> TaskData:
    """Loads all examples from the first source that is available."""
    if spec.asset is not None:
        return load_asset_task(spec)
    # Files come before the hub: --data selects them.
    root = Path(spec.base) if spec.base is not None else data
    if spec.files is not None and root is not None:
        return _from_files(spec, spec.files, root)
    if spec.hub is not None:
        return _from_hub(spec, spec.hub)
    raise TaskError(
        f"task '{spec.name}' needs its official files", hint="pass their folder with --data"
    )


def _from_files(spec: TaskSpec, files: Files, root: Path) -> TaskData:
    folder = root / files.folder
    train, train_notes = read_side(spec, files, (files.train,), folder)
    dev, dev_notes = read_side(spec, files, files.dev, folder)
    notes = [*train_notes, *dev_notes]
    return checked_data(
        spec,
        train,
        dev,
        origin=str(folder),
        notes=notes,
        empty=files.empty,
        from_files=True,
    )


# --- the hub -------------------------------------------------------------------------------------


def _from_hub(spec: TaskSpec, hub: Hub) -> TaskData:
    # Each dev split is a part with its own scores, as MNLI's two are.
    train = list(_hub_split(spec, hub, hub.train, part=0))
    dev: list[RawExample] = []
    for part, split in enumerate(hub.dev):
        dev.extend(_hub_split(spec, hub, split, part))
    origin = f"hub {hub.id}"
    if hub.config:
        origin += f" ({hub.config})"
    return checked_data(spec, train, dev, origin=origin)


def _hub_split(spec: TaskSpec, hub: Hub, split: str, part: int) -> Iterator[RawExample]:
    """Yields the examples of one split."""
    rows = _download_split(spec, hub, split)
    for column in (*hub.text, hub.label):
        if column not in rows.column_names:
            raise TaskError(
                f"{hub.id} {split}: column '{column}' is missing; "
                f"columns of the data set: {', '.join(rows.column_names)}"
            )
    names = _label_names(spec, rows.features[hub.label])
    for number, row in enumerate(rows, start=1):
        where = f"{hub.id} {split}: row {number}"
        answers: tuple[AnswerSpan, ...] = ()
        if spec.task_kind.has_answers:
            answers = answers_of(where, row, hub.label)
        texts = tuple(text_of(where, column, row[column]) for column in hub.text)
        label = row[hub.label]
        # The hub marks rows without a label by -1.
        if names is not None and isinstance(label, int):
            label = names[label] if 0 <= label < len(names) else None
        yield RawExample(texts, label, where, answers=answers, part=part)


def _label_names(spec: TaskSpec, feature: Any) -> list[str] | None:
    """Returns the hub's own names of the classes, if they are the task's."""
    # A task may order its classes in another way than the hub numbers them.
    names = getattr(feature, "names", None)
    return list(names) if names and set(names) == set(spec.labels or ()) else None


def _download_split(spec: TaskSpec, hub: Hub, split: str) -> Any:
    """Returns a split of a data set, from the hub or from the cache of the datasets library."""
    # A heavy library that only this source needs.
    import datasets

    try:
        return datasets.load_dataset(hub.id, hub.config, split=split)
    except (ConnectionError, OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise OfflineError(
            f"task '{spec.name}': cannot load {hub.id} {hub.config or ''} from the hub: "
            f"{first_line(error)}",
            hint=_offline_hint(spec),
        ) from error
    # An unknown configuration or split, or a corrupt file: exceptions of many types.
    except Exception as error:
        raise TaskError(
            f"task '{spec.name}': cannot read {hub.id} {hub.config or ''} {split}: "
            f"{first_line(error)}",
            hint="check id, config and splits in the task's [hub] section",
        ) from error


def _offline_hint(spec: TaskSpec) -> str:
    if spec.files is None:
        return "fill the cache of the datasets library (HF_HOME) on a machine that reaches the hub"
    names = [str(Path(spec.files.folder) / name) for name in (spec.files.train, *spec.files.dev)]
    return (
        f"download {spec.download or spec.shown}, put {', '.join(names)} into a folder, "
        "and pass it with --data FOLDER"
    )

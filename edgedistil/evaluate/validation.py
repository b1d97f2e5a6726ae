"""Checks raw examples against the description of their task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.examples import Example, RawExample, TaskData, count_shared
from edgedistil.evaluate.spec import TaskSpec


def checked_data(
    spec: TaskSpec,
    train: Iterable[RawExample],
    dev: Iterable[RawExample],
    *,
    origin: str,
    notes: Sequence[str] = (),
) -> TaskData:
    """Reads the labels of all examples.

    Args:
        spec: Description of the task.
        train: Training examples.
        dev: Dev examples.
        origin: Where the data comes from.
        notes: Remarks of the reader, kept as warnings.
    Raises:
        TaskError: A side is empty, a label is unknown or out of range, or an id is repeated. The
            message names file and line.
    """
    train, dev = list(train), list(dev)
    # Both sides need examples, and ids that are unique within each file.
    for side, examples in (("training", train), ("dev", dev)):
        if not examples:
            raise TaskError(
                f"task '{spec.name}' has no {side} examples ({origin})",
                hint="expected at least one row in the file",
            )
        _check_unique_ids(examples)

    # The training examples decide the classes where the task's file does not name them.
    classes = spec.task_kind.class_names(train, spec.label_rules)
    train_examples = [_read_example(spec, classes, raw) for raw in train]
    dev_examples = [_read_example(spec, classes, raw) for raw in dev]

    # Overlap is reported and not removed: an official dev set is scored as it is.
    warnings = list(notes)
    shared = count_shared(train_examples, dev_examples)
    if shared:
        warnings.append(
            f"{shared} of {len(dev)} dev texts are training texts too "
            "(apart from case and punctuation)"
        )
    return TaskData(tuple(train_examples), tuple(dev_examples), classes, origin, tuple(warnings))


def _check_unique_ids(examples: list[RawExample]) -> None:
    """Raises TaskError if an id occurs twice in the same file."""
    first: dict[tuple[int, str], str] = {}
    for example in examples:
        # Without an id column there is nothing to check.
        if not example.id:
            continue
        key = (example.part, example.id)
        if key in first:
            raise TaskError(
                f"{example.where}: id '{example.id}' is not unique, it is also at {first[key]}"
            )
        first[key] = example.where


def _read_example(spec: TaskSpec, classes: tuple[str, ...], raw: RawExample) -> Example:
    label = spec.task_kind.read_label(raw, classes, spec.label_rules)
    return Example(raw.texts, label, raw.answers, raw.part, raw.id)

"""Checks raw examples against the description of their task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgedistil.core.errors import TaskError
from edgedistil.core.format import plural
from edgedistil.evaluate.examples import Example, RawExample, TaskData, count_shared
from edgedistil.evaluate.labels import LabelRules, is_missing
from edgedistil.evaluate.spec import EmptyCells, TaskSpec


def checked_data(
    spec: TaskSpec,
    train: Iterable[RawExample],
    dev: Iterable[RawExample],
    *,
    origin: str,
    notes: Sequence[str] = (),
    empty: EmptyCells = "keep",
    from_files: bool = False,
) -> TaskData:
    """Reads the labels of all examples.

    Args:
        spec: Description of the task.
        train: Training examples.
        dev: Dev examples.
        origin: Where the data comes from.
        notes: Remarks of the reader, kept as warnings.
        empty: What happens to examples without a text or label; "keep" for public data sets, which
            are scored as they are.
        from_files: Whether labels are spelled as in the task's files.
    Raises:
        TaskError: A side is empty, a text or label is missing, a label is unknown or out of range,
            or an id is repeated. The message names file and line.
    """
    warnings = list(notes)
    sides = []
    for side, examples in (("training", train), ("dev", dev)):
        complete = _without_empty(spec, side, list(examples), empty, warnings)
        # Both sides need examples, and ids that are unique within each file.
        if not complete:
            raise TaskError(
                f"task '{spec.name}' has no {side} examples ({origin})",
                hint="expected at least one row with a text and a label in the file",
            )
        _check_unique_ids(complete)
        sides.append(complete)

    # The training examples decide the classes where the task's file does not name them.
    rules = spec.label_rules(from_files=from_files)
    classes = spec.task_kind.class_names(sides[0], rules)
    train_examples, dev_examples = (
        [_read_example(spec, rules, classes, raw) for raw in examples] for examples in sides
    )
    if classes:
        warnings += _class_notes(rules, classes, train_examples, dev_examples)

    # Overlap is reported and not removed: an official dev set is scored as it is.
    shared = count_shared(train_examples, dev_examples)
    if shared:
        warnings.append(
            f"{shared} of {len(dev_examples)} dev texts are training texts too "
            "(apart from case and punctuation)"
        )
    return TaskData(tuple(train_examples), tuple(dev_examples), classes, origin, tuple(warnings))


# --- missing texts and labels --------------------------------------------------------------------


def _without_empty(
    spec: TaskSpec, side: str, examples: list[RawExample], empty: EmptyCells, warnings: list[str]
) -> list[RawExample]:
    """Returns the examples without those that lack a text or label; counts them in `warnings`.

    Raises:
        TaskError: An example lacks one, and is not to be left out.
    """
    missing = [(example, _missing_column(spec, example)) for example in examples]
    incomplete = [(example, column) for example, column in missing if column is not None]
    if not incomplete:
        return examples

    # Texts may be kept as they are; nothing can be done without a label.
    label = _label_column(spec)
    without_label = [pair for pair in incomplete if pair[1] == label]
    refused = {"refuse": incomplete, "skip": [], "keep": without_label}[empty]
    if refused:
        example, column = refused[0]
        others = f", as in {plural(len(refused) - 1, 'more row')}" if len(refused) > 1 else ""
        raise TaskError(
            f"{example.where}: column '{column}' is empty{others}",
            hint='fill it in, or leave such rows out with empty = "skip" in [files]',
        )
    rows = plural(len(incomplete), f"{side} row")
    if empty == "keep":
        warnings.append(f"{rows} without text, used as they are")
        return examples
    without_text = len(incomplete) - len(without_label)
    warnings.append(
        f"{rows} left out: {len(without_label)} without a label, {without_text} without text"
    )
    return [example for example, column in missing if column is None]


def _missing_column(spec: TaskSpec, example: RawExample) -> str | None:
    """Returns the column in which an example has no text or label; None if it has both."""
    # The answers of a question are checked where they are read.
    if not spec.task_kind.has_answers and is_missing(example.label, _names(spec)):
        return _label_column(spec)
    for index, text in enumerate(example.texts):
        if not text.strip():
            return _text_columns(spec)[index]
    return None


def _names(spec: TaskSpec) -> tuple[str, ...]:
    """Everything that the task's file says a label is written as."""
    values = spec.files.values if spec.files is not None else None
    return (*(spec.labels or ()), *(values or ()))


def _label_column(spec: TaskSpec) -> str:
    source = spec.files or spec.hub
    return source.label if source is not None else "label"


def _text_columns(spec: TaskSpec) -> tuple[str, ...]:
    source = spec.files or spec.hub
    return source.text if source is not None else ("text",)


# --- labels --------------------------------------------------------------------------------------


def _class_notes(
    rules: LabelRules, classes: Sequence[str], train: Sequence[Example], dev: Sequence[Example]
) -> list[str]:
    """Returns remarks on classes that are missing on a side, and on the class that F1 is about."""
    notes = []
    for side, examples in (("training", train), ("dev", dev)):
        used = {example.label for example in examples}
        unused = [name for number, name in enumerate(classes) if number not in used]
        if unused:
            notes.append(f"no {side} example of the class {', '.join(unused)}")
    # Which class is the second depends on the alphabet where nothing else decides it.
    if rules.needs_positive and not (rules.names or rules.positive):
        notes.append(
            f"f1 is that of the class '{classes[1]}', the second by name: "
            "`positive` in the task's file selects the other one"
        )
    return notes


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


def _read_example(
    spec: TaskSpec, rules: LabelRules, classes: tuple[str, ...], raw: RawExample
) -> Example:
    label = spec.task_kind.read_label(raw, classes, rules)
    return Example(raw.texts, label, raw.answers, raw.part, raw.id, raw.group)

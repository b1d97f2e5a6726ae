"""Reads labels: a class by its name, spelling or number, and the value of a regression.

Files of different formats write the same label differently: 1 and "1", true and "True", " yes ".
Here each of them is the class that it names (docs/decisions.md#a-label-is-the-class-that-it-names).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from edgedistil.core.echo import echo
from edgedistil.core.errors import TaskError
from edgedistil.evaluate.examples import RawExample

# Bounds of a value where the task's file sets none: they exclude NaN and infinity only.
_ANY_VALUE = (-1e30, 1e30)
# A longer label is most likely a column with text.
_LONGEST_NAME = 200
_INTEGER = re.compile(r"[+-]?[0-9]+(\.0*)?")
# Integers as pandas writes a column of them that has gaps.
_WHOLE_NUMBER = re.compile(r"(0|-?[1-9][0-9]*)(\.0+)?")
# How programs write that there is no value, if no class has that name.
_NO_VALUE = ("nan", "null")


@dataclass(frozen=True)
class LabelRules:
    """How the labels of one task are written.

    Attributes:
        task: Name of the task, for messages.
        names: Names of the classes in order; empty: the labels of the training examples.
        spellings: The classes as the files write them; empty: by their names.
        bounds: Lowest and highest value of a regression; None: any.
        positive: Class that F1 is about; "": the second one.
        needs_positive: Whether the metric is about one of exactly two classes.
    """

    task: str
    names: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    positive: str = ""
    needs_positive: bool = False


def is_missing(label: object, names: Sequence[str] = ()) -> bool:
    """Whether a cell has no label: it is null, blank or NaN, and no class has that name."""
    if isinstance(label, str):
        text = label.strip()
        return text not in names and (not text or text.lower() in _NO_VALUE)
    return label is None or (isinstance(label, float | Decimal) and math.isnan(label))


# --- classes -------------------------------------------------------------------------------------


def class_names(train: Sequence[RawExample], rules: LabelRules) -> tuple[str, ...]:
    """Returns the names of the classes; the class that F1 is about is the second of two.

    Raises:
        TaskError: There are too few or too many classes for the metric, or a label has no name.
    """
    # Without names in the task's file, the training labels are the names.
    names = rules.names or tuple(sorted({_usual_form(raw) for raw in train}))
    if len(names) < 2:
        raise TaskError(
            f"task '{rules.task}': all training labels are '{names[0]}'; "
            "expected at least two classes"
        )
    if not rules.needs_positive:
        return names
    _check_positive(names, rules)
    # The metrics take class 1 as the positive one (metrics.py).
    return names[::-1] if rules.positive == names[0] else names


def _check_positive(names: Sequence[str], rules: LabelRules) -> None:
    """Raises TaskError unless F1 is about one of two classes."""
    if len(names) > 2:
        raise TaskError(
            f"task '{rules.task}': f1 is about one class of two, "
            f"and there are {len(names)} classes: {', '.join(names)}",
            hint="use macro_f1, the mean of the F1 of every class, or accuracy",
        )
    if rules.positive and rules.positive not in names:
        raise TaskError(
            f"task '{rules.task}': positive = '{rules.positive}' is not a class; "
            f"expected one of {', '.join(names)}"
        )


def class_number(raw: RawExample, classes: tuple[str, ...], rules: LabelRules) -> float:
    """Returns the number of an example's class, which is its place in `classes`.

    Raises:
        TaskError: The label is not a class; the message names file and line.
    """
    names = rules.names or classes
    spellings = rules.spellings or names
    forms = _label_forms(raw)
    for form in forms:
        if form in spellings:
            return float(classes.index(names[spellings.index(form)]))

    # The hub and parquet files store the number of a class. It is one only where the task's file
    # gives the classes an order, and none of them is itself written as a number.
    is_number = isinstance(raw.label, int | float) and not isinstance(raw.label, bool)
    if rules.names and is_number and not any(map(_INTEGER.fullmatch, spellings)):
        return float(classes.index(_name_at(raw, forms[0], rules.names)))
    raise TaskError(
        f"{raw.where}: unknown label '{echo(forms[0])}'; expected one of {', '.join(spellings)}",
        hint="`labels` and `values` in the task's file say how the classes are called and written",
    )


def _name_at(raw: RawExample, number: str, names: tuple[str, ...]) -> str:
    """Returns the name of the class with a number."""
    # As text: a float such as 0.5 is not a number of a class.
    if number.isdecimal() and int(number) < len(names):
        return names[int(number)]
    raise TaskError(
        f"{raw.where}: label {number} is out of range: expected 0…{len(names) - 1}, "
        "the number of a class"
    )


def _label_forms(raw: RawExample) -> tuple[str, ...]:
    """Returns how a label may be written, the usual form first.

    Raises:
        TaskError: The label is neither a text nor a number.
    """
    label = raw.label
    forms: tuple[str, ...]
    if isinstance(label, str):
        forms = _text_forms(label.strip())
    elif isinstance(label, bool):
        # JSON's form before Python's.
        forms = (str(label).lower(), str(label))
    elif isinstance(label, int | float | Decimal):
        forms = _number_forms(label)
    else:
        raise TaskError(
            f"{raw.where}: the label is of type {type(label).__name__}, expected text or a number"
        )
    if len(forms[0]) > _LONGEST_NAME:
        raise TaskError(
            f"{raw.where}: a label of {len(forms[0]):,} characters; expected the name of a class, "
            f"of at most {_LONGEST_NAME}"
        )
    return forms


def _usual_form(raw: RawExample) -> str:
    """Returns the name of a class where only the labels name it: 1 for "1.0", true for "True"."""
    forms = _label_forms(raw)
    return forms[1] if isinstance(raw.label, str) and len(forms) > 1 else forms[0]


def _text_forms(text: str) -> tuple[str, ...]:
    """Returns a text, then the same number or truth value as other formats write it."""
    if _WHOLE_NUMBER.fullmatch(text):
        number = text.partition(".")[0]
        return (text, number, f"{number}.0")
    if text.lower() in ("true", "false"):
        return (text, text.lower(), text.capitalize())
    return (text,)


def _number_forms(number: float | Decimal) -> tuple[str, ...]:
    # pandas turns a column of integers with gaps into floats.
    is_integer = isinstance(number, int) or (math.isfinite(number) and number == int(number))
    if is_integer:
        return (str(int(number)), f"{int(number)}.0")
    return (str(number),)


# --- values --------------------------------------------------------------------------------------


def regression_value(raw: RawExample, bounds: tuple[float, float] | None) -> float:
    """Returns the value of an example.

    Raises:
        TaskError: The label is not a number within the bounds; the message names file and line.
    """
    text = str(raw.label).strip()
    try:
        # Python takes 1_000 for a number; in a file it is most likely an identifier.
        value = float("?" if "_" in text else text)
    except ValueError:
        raise TaskError(f"{raw.where}: label '{echo(text)}' is not a number") from None
    low, high = bounds or _ANY_VALUE
    if not low <= value <= high:  # NaN is refused here too: comparing it gives False
        raise TaskError(
            f"{raw.where}: label {value:g} is out of range: expected {low:g} to {high:g}"
        )
    return value

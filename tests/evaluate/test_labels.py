"""A label is the class that it names, however a format writes it; a value is a finite number."""

from __future__ import annotations

from decimal import Decimal

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.examples import RawExample
from edgedistil.evaluate.labels import (
    LabelRules,
    class_names,
    class_number,
    is_missing,
    regression_value,
)

STARS = ("1", "2", "3", "4", "5")


def raw(label: object) -> RawExample:
    return RawExample(("a film",), label, "data.csv:2")


def number_of(label: object, *names: str, spellings: tuple[str, ...] = ()) -> float:
    """The number of a label's class where the task names its classes."""
    return class_number(raw(label), names, LabelRules("t", names=names, spellings=spellings))


# --- classes -------------------------------------------------------------------------------------


def test_classes_are_the_sorted_training_labels_unless_the_task_names_them() -> None:
    train = [raw("no"), raw(" yes "), raw("maybe"), raw("yes")]
    assert class_names(train, LabelRules("t")) == ("maybe", "no", "yes")
    assert class_names(train, LabelRules("t", names=("yes", "no"))) == ("yes", "no")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, "1", 1.0, 2], ("1", "2")),
        ([True, "true", False], ("false", "true")),
        ([0.5, Decimal("1.5")], ("0.5", "1.5")),
        (["1.0", 1, "2", "2.00"], ("1", "2")),
        (["True", "TRUE", "false"], ("false", "true")),
        ([Decimal("2.00"), 2, 1], ("1", "2")),
    ],
)
def test_one_class_written_in_several_ways_is_one_class(
    labels: list[object], names: tuple[str, ...]
) -> None:
    train = [raw(label) for label in labels]
    assert class_names(train, LabelRules("t")) == names
    numbers = [class_number(item, names, LabelRules("t")) for item in train]
    assert set(numbers) == set(range(len(names)))


@pytest.mark.parametrize("label", [3, "3", " 3 ", 3.0, "3.0", "3.00"])
def test_number_that_is_the_name_of_a_class_is_that_class(label: object) -> None:
    assert number_of(label, *STARS) == 2
    # The order of the names is the user's.
    assert number_of(label, *reversed(STARS)) == 2
    assert number_of(label, "5", "3") == 1


@pytest.mark.parametrize(
    ("label", "number"), [(True, 1), (False, 0), ("true", 1), ("True", 1), ("FALSE", 0)]
)
def test_booleans_are_written_as_in_json(label: object, number: int) -> None:
    assert number_of(label, "false", "true") == number


def test_the_exact_spelling_comes_first() -> None:
    assert number_of("True", "true", "True") == 1
    assert number_of("1.0", "1", "1.0") == 1
    # A code with leading zeros is not a number.
    with pytest.raises(TaskError, match="unknown label '01'"):
        number_of("01", "1", "2")


def test_booleans_may_have_pythons_names() -> None:
    assert number_of(True, "False", "True") == 1


def test_number_is_that_of_a_class_only_where_no_name_is_a_number() -> None:
    assert number_of(1, "bad", "good") == number_of(1.0, "bad", "good") == 1
    with pytest.raises(TaskError, match=r"data.csv:2: label 2 is out of range: expected 0…1"):
        number_of(2, "bad", "good")
    with pytest.raises(TaskError, match=r"label 0.5 is out of range"):
        number_of(0.5, "bad", "good")
    with pytest.raises(TaskError, match=r"label -1 is out of range"):
        number_of(-1, "bad", "good")
    for label in (0, "1", True):
        names = STARS[1:] if label == 0 else ("bad", "good")
        with pytest.raises(TaskError, match="unknown label"):
            number_of(label, *names)
    # Without names in the task's file, the classes have no order.
    with pytest.raises(TaskError, match="unknown label '1'; expected one of a, b"):
        class_number(raw(1), ("a", "b"), LabelRules("t"))


def test_spellings_of_the_file_replace_the_names() -> None:
    assert number_of(" pos ", "bad", "good", spellings=("neg", "pos")) == 1
    assert number_of(0, "bad", "good", spellings=("1", "0")) == 1
    with pytest.raises(TaskError, match="unknown label 'good'; expected one of neg, pos"):
        number_of("good", "bad", "good", spellings=("neg", "pos"))


@pytest.mark.parametrize("label", [["a"], {"a": 1}, b"a"])
def test_label_of_another_type_is_an_error(label: object) -> None:
    with pytest.raises(TaskError, match=r"data.csv:2: the label is of type (list|dict|bytes)"):
        number_of(label, "a", "b")


def test_column_with_text_is_not_a_column_of_labels() -> None:
    with pytest.raises(TaskError, match=r"data.csv:2: a label of 201 characters"):
        class_names([raw("x" * 201)], LabelRules("t"))
    with pytest.raises(TaskError, match="unknown label 'inf'"):
        number_of(float("inf"), "1", "2")


@pytest.mark.parametrize("label", [None, "", " \t", float("nan"), Decimal("nan")])
def test_missing_labels(label: object) -> None:
    assert is_missing(label)


def test_a_word_for_no_value_may_be_the_name_of_a_class() -> None:
    assert is_missing(" NaN ")
    assert is_missing("null", ["a"])
    assert not is_missing("nan", ["nan", "a"])
    assert not is_missing("none")


def test_zero_and_false_are_not_missing() -> None:
    assert not any(map(is_missing, (0, False, "0", 0.0)))


# --- the class that F1 is about ------------------------------------------------------------------


def f1_rules(*names: str, positive: str = "") -> LabelRules:
    return LabelRules("t", names=names, positive=positive, needs_positive=True)


def test_positive_class_becomes_the_second_one() -> None:
    train = [raw("ham"), raw("spam")]
    assert class_names(train, f1_rules()) == ("ham", "spam")
    assert class_names(train, f1_rules(positive="ham")) == ("spam", "ham")
    assert class_names(train, f1_rules(positive="spam")) == ("ham", "spam")
    named = f1_rules("yes", "no", positive="yes")
    assert class_names(train, named) == ("no", "yes")
    # The numbers of a file are in the order of the user's names.
    assert class_number(raw(0), ("no", "yes"), named) == 1
    spelled = LabelRules("t", ("yes", "no"), ("y", "n"), positive="yes", needs_positive=True)
    assert class_number(raw("y"), ("no", "yes"), spelled) == 1


def test_f1_of_other_numbers_of_classes_is_refused() -> None:
    with pytest.raises(TaskError, match="there are 3 classes: a, b, c") as caught:
        class_names([raw("a"), raw("b"), raw("c")], f1_rules())
    assert "macro_f1" in str(caught.value.hint)
    with pytest.raises(TaskError, match="positive = 'x' is not a class; expected one of a, b"):
        class_names([raw("a"), raw("b")], f1_rules(positive="x"))
    with pytest.raises(TaskError, match="all training labels are 'a'"):
        class_names([raw("a"), raw("a")], f1_rules())


# --- values --------------------------------------------------------------------------------------


def test_value_without_bounds_may_be_any_finite_number() -> None:
    assert regression_value(raw("-7e9"), None) == -7e9
    assert regression_value(raw(Decimal("4.5")), (0, 5)) == 4.5
    with pytest.raises(TaskError, match="label inf is out of range"):
        regression_value(raw("inf"), None)


@pytest.mark.parametrize("label", ["1_000", True, [1], "3,5", ""])
def test_what_is_not_a_number(label: object) -> None:
    with pytest.raises(TaskError, match=r"data.csv:2: label '.*' is not a number"):
        regression_value(raw(label), None)

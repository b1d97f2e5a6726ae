"""Tasks on the same texts are noticed across commands, whatever case and order the texts have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgedistil.ablate import task_weights
from edgedistil.core.evaluation_records import TaskFacts
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import stage
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.overlap import mark_same_texts, shared_texts, text_sketch
from edgedistil.report.evaluation_tables import task_table


def facts(name: str, texts: Sequence[str]) -> TaskFacts:
    sketch, count = text_sketch([Example((text,)) for text in texts])
    return TaskFacts(
        name=name,
        title=name,
        kind="classification",
        metric="accuracy",
        train_examples=1,
        dev_examples=len(texts),
        baseline=0.5,
        baseline_rule="made up",
        origin="made up",
        licence="CC0",
        settings_source="made up",
        dev_sketch=sketch,
        dev_texts=count,
    )


def sentences(first: int, last: int) -> list[str]:
    return [f"Sentence number {i}." for i in range(first, last)]


@pytest.mark.parametrize(
    ("first", "last", "share"), [(0, 3000, 1.0), (1500, 4500, 0.5), (2700, 5700, 0.1)]
)
def test_the_share_of_common_texts_is_estimated(first: int, last: int, share: float) -> None:
    one, other = facts("one", sentences(0, 3000)), facts("other", sentences(first, last))
    assert shared_texts(one, other) == pytest.approx(share, abs=0.08)


def test_small_data_sets_are_compared_exactly() -> None:
    one = facts("one", sentences(0, 50))
    assert shared_texts(one, facts("other", sentences(40, 60))) == pytest.approx(0.5)
    assert shared_texts(one, facts("other", sentences(50, 90))) == 0.0
    # A small set within a large one has all of its texts there.
    assert shared_texts(one, facts("other", sentences(20, 30))) == pytest.approx(1.0)


def test_case_and_punctuation_do_not_separate_tasks() -> None:
    spelled = [sentence.lower().replace(".", " !") for sentence in sentences(0, 50)]
    assert shared_texts(facts("one", sentences(0, 50)), facts("other", spelled)) == 1.0


def test_three_tasks_of_which_two_are_on_the_same_texts() -> None:
    tasks = mark_same_texts(
        [
            facts("sentiment", sentences(0, 2000)),
            facts("topics", sentences(5000, 7000)),
            facts("intensity", sentences(100, 1900)),
        ]
    )
    assert [task.same_texts_as for task in tasks] == [None, None, "sentiment"]
    # In a mean over tasks the two have one weight together.
    assert task_weights(tasks) == [0.25, 0.5, 0.25]


def test_a_later_command_notices_and_prints_it(run: RunDir, own_task: Callable[..., Path]) -> None:
    for name in ("opinion", "again"):
        task = str(own_task(epochs=1, name=name))
        record = stage.evaluate(run, EvaluateOptions(tasks=[task], models=["student"], seeds=1))
    assert [task.same_texts_as for task in record.tasks] == [None, "opinion"]
    assert (
        "again: 100% of the dev texts are those of opinion: the two count as one task"
        in task_table(record).notes
    )

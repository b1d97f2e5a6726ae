"""The card says how the outputs of a classifier are read."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistil.core.head_words import head_in_words
from edgedistil.core.task import TASKS, TaskInfo, label_names, problem_type_of

SEQUENCE = TASKS["text-classification"]
LABELS = {"1": "good", "0": "b`a|d"}


def words_of(config: dict[str, Any], task: TaskInfo) -> str:
    """The paragraph that a package with this config has."""
    names = label_names(config)
    kind = problem_type_of(task.name, config.get("problem_type"), len(names))
    return head_in_words(names, kind, config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"id2label": LABELS}, "2 outputs (``b`a\\|d``, `good`): the largest output is the label"),
        (
            {"id2label": LABELS, "problem_type": "multi_label_classification"},
            "every label is decided alone: yes where its output is above 0",
        ),
        ({"id2label": {"0": "x"}}, "1 output (`x`): every output is a value."),
        ({}, "2 outputs (`LABEL_0`, `LABEL_1`)"),
        ({"num_labels": 3}, "3 outputs (`LABEL_0`, `LABEL_1`, `LABEL_2`)"),
        (
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
            "declares `torch.nn.modules.linear.Identity` as the function",
        ),
        ({"sbert_ce_default_activation_function": "a.Sigmoid"}, "declares `a.Sigmoid` as"),
        ({"function_to_apply": "none"}, "declares `none` as the function after the outputs."),
        ({"id2label": {str(n): f"c{n}" for n in range(40)}}, "`c29` and 10 more (`labels`"),
    ],
)
def test_labels_and_their_function(config: dict[str, Any], words: str) -> None:
    assert words in words_of(config, SEQUENCE)


def test_tokens_have_labels_and_other_tasks_none() -> None:
    text = words_of({"id2label": LABELS}, TASKS["token-classification"])
    assert text.endswith("the largest output of a token is its label.")
    assert head_in_words([], None, {"id2label": LABELS}) == ""

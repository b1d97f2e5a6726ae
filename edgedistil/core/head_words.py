"""Words for a model card: which labels a head has, and how its outputs are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedistil.core import markdown
from edgedistil.core.format import plural
from edgedistil.core.task import ProblemType, TaskInfo, problem_type_of

# Names that a card lists; the others are in config.json.
_LISTED_LABELS = 30
# transformers assumes so many where config.json names no labels.
_DEFAULT_LABELS = 2
_FUNCTIONS: dict[ProblemType | None, str] = {
    "single_label_classification": "the largest output is the label, and softmax gives its share",
    "multi_label_classification": "every label is decided alone: yes where its output is above 0, "
    "and sigmoid gives its share",
    "regression": "every output is a value",
    None: "the largest output of a token is its label",
}
# Keys of config.json with the function that the source's own library applies to the outputs.
_FUNCTION_KEYS = ("function_to_apply", "sbert_ce_default_activation_function")


def head_in_words(config: Mapping[str, Any], task: TaskInfo) -> str:
    """Returns a paragraph of Markdown about the outputs of a classifier; empty for other tasks.

    Args:
        config: config.json of the model.
        task: Its task.
    """
    if task.level not in ("sequence", "token"):
        return ""
    names = _label_names(config)
    kind = problem_type_of(task.name, config.get("problem_type"), len(names))
    shown = ", ".join(markdown.code(name) for name in names[:_LISTED_LABELS])
    if len(names) > _LISTED_LABELS:
        shown += f" and {len(names) - _LISTED_LABELS} more (`id2label` in config.json)"
    text = f"{plural(len(names), 'output')} ({shown}): {_FUNCTIONS[kind]}."
    function = _declared_function(config)
    if function:
        text += f" The source declares {markdown.code(function)} as the function after the outputs."
    return text


def _label_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the labels in the order of the outputs."""
    names = config.get("id2label")
    if not names:
        return [f"LABEL_{index}" for index in range(config.get("num_labels", _DEFAULT_LABELS))]
    return [str(names[index]) for index in sorted(names, key=int)]


def _declared_function(config: Mapping[str, Any]) -> str:
    settings = config.get("sentence_transformers")
    own = settings.get("activation_fn") if isinstance(settings, Mapping) else None
    values = [own, *(config.get(key) for key in _FUNCTION_KEYS)]
    return next((value for value in values if isinstance(value, str)), "")

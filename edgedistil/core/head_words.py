"""Words for a model card: which labels a head has, and how its outputs are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedistil.core import markdown
from edgedistil.core.format import plural
from edgedistil.core.task import ProblemType

# Names that a card lists; the others are in config.json.
_LISTED_LABELS = 30
_FUNCTIONS: dict[ProblemType | None, str] = {
    "single_label_classification": "the largest output is the label, and softmax gives its share",
    "multi_label_classification": "every label is decided alone: yes where its output is above 0, "
    "and sigmoid gives its share",
    "regression": "every output is a value",
    None: "the largest output of a token is its label",
}
# Keys of config.json with the function that the source's own library applies to the outputs.
_FUNCTION_KEYS = ("function_to_apply", "sbert_ce_default_activation_function")


def head_in_words(
    labels: Sequence[str], problem_type: ProblemType | None, config: Mapping[str, Any]
) -> str:
    """Returns a paragraph of Markdown about the outputs of a classifier; empty for other tasks.

    Args:
        labels: Names of the outputs, in order; empty for other tasks.
        problem_type: How the outputs of a sequence are read; None for a label at every token.
        config: config.json of the model.
    """
    if not labels:
        return ""
    shown = ", ".join(markdown.code(name) for name in labels[:_LISTED_LABELS])
    if len(labels) > _LISTED_LABELS:
        shown += f" and {len(labels) - _LISTED_LABELS} more (`labels` in contract.json)"
    text = f"{plural(len(labels), 'output')} ({shown}): {_FUNCTIONS[problem_type]}."
    function = _declared_function(config)
    if function:
        text += f" The source declares {markdown.code(function)} as the function after the outputs."
    return text


def _declared_function(config: Mapping[str, Any]) -> str:
    settings = config.get("sentence_transformers")
    own = settings.get("activation_fn") if isinstance(settings, Mapping) else None
    values = [own, *(config.get(key) for key in _FUNCTION_KEYS)]
    return next((value for value in values if isinstance(value, str)), "")

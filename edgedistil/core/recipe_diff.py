"""Differences between two recipes, and the keys that may change when a run is resumed."""

from __future__ import annotations

import fnmatch
from typing import Any, NamedTuple

from edgedistil.core import console
from edgedistil.core.errors import RunError
from edgedistil.core.recipe import Recipe

NOT_SET = "not set"
# Differences that a message lists; one more text source alone has ten keys.
_MAX_LISTED = 8

# Keys that do not change the result of training: names, how often a run is saved and evaluated, and
# later stages. Order of the data, masks and dropout do not depend on the number of processes while
# their micro-batches have the same size. Of that size depend dropout, rarity masking, the loss
# `similarity` and loss.mean = "micro-batch", so train.micro_batch is not listed.
RESUMABLE_KEYS = (
    "name",
    "description",
    "world_size",
    # `auto` may resolve to another type here; the checkpoint's resolved type is compared instead.
    "train.precision",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.evaluate_every",
    # Changes results within rounding.
    "train.state_cache_gib",
    "train.trackers",
    "corpus.sources.*.licence",
    "evaluate.*",
    "export.*",
    "profile.*",
)


class Difference(NamedTuple):
    """Values of one key in two recipes; `NOT_SET` where a recipe does not set it."""

    before: Any
    after: Any


def differences(before: Recipe, after: Recipe) -> dict[str, Difference]:
    """Returns the keys whose values differ, in the order of the recipe.

    Lists of sections are compared item by item (`corpus.sources.1.asset`); other lists are one
    value.
    """
    old = _flatten(before.model_dump(mode="json"))
    new = _flatten(after.model_dump(mode="json"))
    changes = {}
    for key in old | new:
        difference = Difference(old.get(key, NOT_SET), new.get(key, NOT_SET))
        if difference.before != difference.after:
            changes[key] = difference
    return changes


def check_resumable(before: Recipe, now: Recipe, *, run: str) -> None:
    """Raises RunError if a changed key affects a resumed run's result; prints other changes."""
    changes = resumable_changes(before, now, run=run)
    if changes:
        console.say(f"recipe changes that do not affect the result: {_format(changes)}")


def resumable_changes(before: Recipe, now: Recipe, *, run: str) -> dict[str, Difference]:
    """Returns the changed keys; raises RunError if one affects a resumed run's result."""
    changes = differences(before, now)
    result_changing = {key: change for key, change in changes.items() if not is_resumable(key)}
    if result_changing:
        raise RunError(
            f"run '{run}' was started with another recipe: {_format(result_changing)}",
            hint="resume with the run's own recipe.toml, or start another run with --run NEW-NAME",
        )
    return changes


def is_resumable(key: str) -> bool:
    return any(fnmatch.fnmatch(key, pattern) for pattern in RESUMABLE_KEYS)


def _format(changes: dict[str, Difference]) -> str:
    """One line: `train.steps 11 → 12; loss.cosine 1.0 → 0.0`."""
    lines = [
        f"{key} {_format_value(change.before)} → {_format_value(change.after)}"
        for key, change in changes.items()
    ]
    if len(lines) > _MAX_LISTED:
        lines = [*lines[:_MAX_LISTED], f"and {len(lines) - _MAX_LISTED} more"]
    return "; ".join(lines)


def _format_value(value: Any) -> str:
    return NOT_SET if value == NOT_SET else repr(value)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value; only lists of sections are flattened."""
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        parts = {str(index): item for index, item in enumerate(value)}
    else:
        # An optional key is unset both in a section without it and in a missing section.
        return {prefix: NOT_SET if value is None else value}
    flat: dict[str, Any] = {}
    for key, item in parts.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat

"""Which keys of two recipes differ, and which of them would make a resumed run another run."""

from __future__ import annotations

import fnmatch
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import RunError
from edgedistil.core.recipe import Recipe

# What may change between two sessions of a run: names, how often it is saved and looked at, and later stages.
# Order of data, masks and dropout do not depend on the number of processes, nor on the size of a micro-batch … but
# rarity masking draws over a micro-batch, so that one stays.
HARMLESS = (
    "name",
    "description",
    "world_size",
    "train.precision",  # what counts is what it comes to on this machine: compared with the checkpoint's
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.evaluate_every",
    "train.trackers",
    "corpus.sources.*.licence",
    "evaluate.*",
    "export.*",
    "profile.*",
)


def refuse_changes(before: Recipe, now: Recipe, *, run: str) -> None:
    """Tells which keys differ from the ones that a run began with.

    Raises:
        RunError: One of them would change the result (names all of those).
    """
    changed = differences(before, now)
    harmful = [
        line
        for key, line in changed.items()
        if not any(fnmatch.fnmatch(key, each) for each in HARMLESS)
    ]
    if harmful:
        raise RunError(
            f"run '{run}' began with another recipe: {'; '.join(harmful)}",
            hint="resume with the recipe that it began with, or start another run with --run NEW-NAME",
        )
    if changed:
        console.say(
            f"recipe changed where it does not change the result: {'; '.join(changed.values())}"
        )


def differences(before: Recipe, now: Recipe) -> dict[str, str]:
    """Dotted key → `key was → is` of everything that differs."""
    old, new = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    return {
        key: f"{key} {old.get(key, 'absent')!r} → {new.get(key, 'absent')!r}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key)
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        parts = {str(index): each for index, each in enumerate(value)}.items()
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, each in parts:
        found |= _flat(each, f"{prefix}.{key}" if prefix else key)
    return found

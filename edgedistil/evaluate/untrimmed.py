"""The student of another run of the recipe, without a trimmed vocabulary: a baseline."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.errors import InputError, RunError
from edgedistil.core.recipe import load_recipe
from edgedistil.core.recipe_diff import differences, is_resumable
from edgedistil.core.rundir import RunDir, open_run, read_json_object, write_json

_KEY = "run"


def has_untrimmed_run(run: RunDir) -> bool:
    """Whether a run was named that has this run's student without a trimmed vocabulary."""
    return _file(run).is_file()


def name_untrimmed_run(run: RunDir, name: str) -> None:
    """Records which run has the student that was distilled and not trimmed.

    Args:
        run: The run with a trimmed vocabulary.
        name: Run of its recipe without `student.vocabulary`.
    Raises:
        InputError: This run did not trim, or the other run differs in more than the vocabulary.
        RunError: The other run does not exist, or has no student.
    """
    if not run.teacher_trimmed.exists():
        raise InputError(
            f"--untrimmed-run {name}: run '{run.name}' did not trim its vocabulary",
            hint="leave the option out",
        )
    # By its name: the weights stay where they are.
    other = open_run(name)
    other.require(other.student, "edgedistil distill RECIPE")
    changed = _changed(run, other)
    if other.teacher_trimmed.exists() or changed:
        raise InputError(
            f"run '{name}' is not the recipe of '{run.name}' without a trimmed vocabulary: "
            f"{', '.join(changed[:8]) or 'it trims, too'}",
            hint="distil the recipe of this run without student.vocabulary",
        )
    write_json(_file(run), {_KEY: other.name})


def untrimmed_run(run: RunDir) -> RunDir:
    """Returns the run with the student that was distilled and not trimmed.

    Raises:
        RunError: None was named, or it does not exist any more.
    """
    if not has_untrimmed_run(run):
        raise RunError(
            f"no run was named whose student is that of '{run.name}' without trimming",
            hint="evaluate with --untrimmed-run RUN",
        )
    name = read_json_object(_file(run), hint="name the run again: --untrimmed-run").get(_KEY)
    return open_run(str(name))


def _file(run: RunDir) -> Path:
    return run.path / "untrimmed.json"


def _changed(run: RunDir, other: RunDir) -> list[str]:
    """Keys that differ and affect training, besides the vocabulary."""
    for one in (run, other):
        one.require(one.recipe, "edgedistil distill RECIPE")
    # Text, losses and seed have to be the same: another distillation would differ by chance alone.
    changes = differences(load_recipe(run.recipe), load_recipe(other.recipe))
    vocabulary = "student.vocabulary"
    return [key for key in changes if not is_resumable(key) and not key.startswith(vocabulary)]

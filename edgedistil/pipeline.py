"""`edgedistil run`: all stages in order, without those that are done with the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import edgedistil
from edgedistil.core import console
from edgedistil.core.device import HOST, load_device
from edgedistil.core.errors import Interrupted
from edgedistil.core.options import EvaluateOptions, ExportOptions, ProfileOptions
from edgedistil.core.places import runs_root
from edgedistil.core.recipe import Recipe, load_recipe
from edgedistil.core.recipe_diff import resumable_changes
from edgedistil.core.records import text_sha256
from edgedistil.core.rundir import RunDir, checked_name, read_json_object, sha256_file, write_json
from edgedistil.core.thread_limits import check_threads
from edgedistil.runtime.host import usable_threads
from edgedistil.stage_estimates import (
    estimate_distillation,
    estimate_evaluation,
    estimate_export,
    estimate_profile,
)
from edgedistil.stage_times import Countdown, StageTime

# Evaluation cells of small models run faster with one thread each than sharing all threads; beyond
# four at a time their memory counts more than the gain.
_MAX_JOBS = 4
# File of a run with the stages that are done.
_LEDGER = "stages.json"


def run_all(recipe: Recipe, *, run_name: str | None = None) -> RunDir:
    """Distils, evaluates, exports, profiles and reports.

    An existing run of that name is continued: completed stages are skipped, an interrupted
    distillation resumes from its last checkpoint.

    Raises:
        RunError: The run exists and was made by a recipe that would give another result; the
            message names the keys that differ.
        Interrupted: The hint has the command that continues the run.
    """
    from edgedistil.report.stage import show_report

    name = checked_name(recipe.name if run_name is None else run_name)
    _check_names(recipe)
    run = RunDir(runs_root() / name)
    resume = run.path.is_dir()
    # Before an estimate, which takes longer than finding out that the run has another recipe.
    if run.recipe.exists():
        resumable_changes(load_recipe(run.recipe), recipe, run=name)
    stages = _later_stages(run, recipe)
    with _with_resume_hint(run):
        countdown = Countdown(recipe, _expected_times(run, recipe, stages))
        countdown.announce()
        with countdown.stage("distill"):
            _distill(run, recipe, resume=resume)
        for stage in stages:
            _run_unless_done(run, stage, countdown)
    edgedistil.report(run)
    show_report(run)
    return run


@contextmanager
def _with_resume_hint(run: RunDir) -> Iterator[None]:
    """Adds the command that continues all stages to an interruption."""
    command = console.command_line("run", str(run.recipe), "--run", run.name)
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        # Without a recipe there is nothing to continue, and the error says so.
        if not run.recipe.exists():
            raise
        message = error.message if isinstance(error, Interrupted) else "interrupted"
        raise Interrupted(message, hint=f"continue the run with: {command}") from error


@dataclass(frozen=True)
class _Stage:
    """A stage after distillation.

    Attributes:
        name: Its name.
        settings: What it depends on besides files.
        inputs: Returns the files that it reads.
        work: Runs it.
        parts: Folder of results of its parts, which it does not repeat; None without parts.
    """

    name: str
    settings: Sequence[object]
    inputs: Callable[[], Sequence[Path]]
    work: Callable[[], None]
    parts: Path | None = None

    def key(self) -> str:
        """Returns the digest of settings and input files."""
        described = [repr(setting) for setting in self.settings]
        described += [f"{path.name} {sha256_file(path)}" for path in self.inputs()]
        return text_sha256("\n".join(described))


def _later_stages(run: RunDir, recipe: Recipe) -> list[_Stage]:
    """The stages after distillation, in order."""

    def exported() -> list[Path]:
        return sorted(run.exports.glob("*/export.*.json"))

    def distilled() -> list[Path]:
        return [run.distill]

    evaluation_settings = [recipe.evaluate, recipe.seed]
    return [
        _Stage(
            "evaluate", evaluation_settings, distilled, lambda: _evaluate(run, recipe), run.cells
        ),
        _Stage("export", [recipe.export], distilled, lambda: _export(run, recipe)),
        _Stage("profile", [recipe.profile], exported, lambda: _profile(run, recipe)),
    ]


def _expected_times(run: RunDir, recipe: Recipe, stages: Sequence[_Stage]) -> list[StageTime]:
    """Expected times of the stages that are not done, the distillation first."""
    times: list[StageTime] = []
    planned = None
    left = [stage.name for stage in stages]
    if run.distill.exists():
        done = _read_ledger(run.path / _LEDGER)
        left = [stage.name for stage in stages if done.get(stage.name) != stage.key()]
        # Another export is profiled again.
        if "export" in left and "profile" not in left:
            left.append("profile")
    else:
        console.say("preparing: downloads, text, and a few timed steps for an estimate")
        distillation, planned = estimate_distillation(recipe, run)
        times.append(distillation)
    estimates = {
        "evaluate": estimate_evaluation,
        "export": estimate_export,
        "profile": estimate_profile,
    }
    return times + [estimates[name](recipe, run, planned) for name in left]


def _check_names(recipe: Recipe) -> None:
    """Raises InputError for a task or a device that a later stage would not know.

    Models are not checked: the stages before `evaluate` may create them.
    """
    from edgedistil.evaluate.retrieval.stage import check_collections, is_retrieval
    from edgedistil.evaluate.spec import expand_groups, load_task

    tasks = recipe.evaluate.tasks
    check_collections([task for task in tasks if is_retrieval(task)])
    for task in expand_groups([task for task in tasks if not is_retrieval(task)]):
        load_task(task)
    for device in [recipe.export.target, *recipe.profile.devices]:
        if device != HOST:
            load_device(device)
    _check_threads(recipe)


def _check_threads(recipe: Recipe) -> None:
    """Raises InputError if a device has far fewer cores than the profile's threads."""
    threads = recipe.profile.threads or ()
    for device in recipe.profile.devices:
        cores = usable_threads() if device == HOST else load_device(device).cores
        machine = "this machine" if device == HOST else device
        check_threads(threads, cores, machine=machine, setting="profile.threads")


def _distill(run: RunDir, recipe: Recipe, *, resume: bool) -> None:
    from edgedistil.report import terminal

    _, distilled = edgedistil.distill(recipe, run=run.name, resume=resume)
    terminal.show_distill(run, distilled)


def _evaluate(run: RunDir, recipe: Recipe) -> None:
    from edgedistil.report import terminal

    options = EvaluateOptions(
        tasks=recipe.evaluate.tasks,
        seeds=recipe.evaluate.seeds,
        models=recipe.evaluate.models,
        jobs=min(usable_threads(), _MAX_JOBS),
    )
    _, record = edgedistil.evaluate(run, options)
    terminal.show_evaluation(run, record)


def _export(run: RunDir, recipe: Recipe) -> None:
    from edgedistil.report import terminal

    options = ExportOptions(precisions=recipe.export.precisions, target=recipe.export.target)
    _, artefacts = edgedistil.export(run, options)
    terminal.show_export(run, artefacts)


def _profile(run: RunDir, recipe: Recipe) -> None:
    from edgedistil.report import terminal

    for device in recipe.profile.devices:
        options = ProfileOptions(
            device=device,
            threads=recipe.profile.threads,
            lengths=recipe.profile.lengths,
            sentence_pairs=recipe.profile.sentence_pairs,
            claim_pairs=recipe.profile.claim_pairs,
        )
        _, records = edgedistil.profile(run, options)
        terminal.show_profiles(run, records)


def _run_unless_done(run: RunDir, stage: _Stage, countdown: Countdown) -> None:
    """Runs a stage unless stages.json has the same settings and input files for it."""
    ledger_file = run.path / _LEDGER
    key = stage.key()
    if _read_ledger(ledger_file).get(stage.name) == key:
        console.say(f"{stage.name}: already done (run `edgedistil {stage.name}` to repeat it)")
        return
    is_resumed = stage.parts is not None and stage.parts.exists()
    with countdown.stage(stage.name, is_resumed=is_resumed):
        stage.work()
    # Read again: the work itself may have taken hours, and a second command may have added a stage.
    write_json(ledger_file, _read_ledger(ledger_file) | {stage.name: key})


def _read_ledger(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    hint = "remove it: the stages after distill then run again"
    return {stage: str(key) for stage, key in read_json_object(path, hint=hint).items()}

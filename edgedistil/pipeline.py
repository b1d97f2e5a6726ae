"""`edgedistil run`: all stages in order. A stage whose inputs have not changed since it ended is not done again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import Record, text_sha256
from edgedistil.core.rundir import RunDir, read_json, runs_root, sha256_file, write_json


def run_all(recipe: Recipe, *, run_name: str | None = None) -> RunDir:
    """Distil, evaluate, export and prove, profile, report.

    A run of that name is continued: what is finished stays, what was interrupted goes on from its last checkpoint.

    Raises:
        RunError: The run exists and was made by a recipe that would give another result (says which keys differ).
    """
    from edgedistil.distill import stage as distilling
    from edgedistil.report import stage as reporting
    from edgedistil.report import tables

    name = run_name or recipe.name
    exists = (runs_root() / name).is_dir()
    run, distilled = distilling.distill(recipe, run_name=run_name, resume=exists)
    tables.show_distill(run, distilled)

    _unless_done(
        run,
        "evaluate",
        [recipe.evaluate, recipe.seed],
        [run.distill],
        lambda: _evaluate(run, recipe),
    )
    _unless_done(run, "export", [recipe.export], [run.distill], lambda: _export(run, recipe))
    exported = sorted(run.exports.glob("*/export.*.json"))
    _unless_done(run, "profile", [recipe.profile], exported, lambda: _profile(run, recipe))
    reporting.report(run, against=None)
    return run


def _evaluate(run: RunDir, recipe: Recipe) -> None:
    from edgedistil.evaluate import stage
    from edgedistil.report import tables

    record = stage.evaluate(
        run,
        tasks=recipe.evaluate.tasks,
        seeds=recipe.evaluate.seeds,
        models=recipe.evaluate.models,
        cell=None,
        artefact=None,
        data=None,
        jobs=min(
            os.cpu_count() or 1, 4
        ),  # cells of small models: one thread each beats sharing threads
    )
    tables.show_evaluation(run, record)


def _export(run: RunDir, recipe: Recipe) -> None:
    from edgedistil.export import stage
    from edgedistil.report import tables

    _, artefacts = stage.export(
        run.name, quantize=list(recipe.export.precisions), target=recipe.export.target
    )
    tables.show_export(run, artefacts)


def _profile(run: RunDir, recipe: Recipe) -> None:
    from edgedistil.export.package import refresh_cards
    from edgedistil.profiling import stage
    from edgedistil.report import profile_tables

    for device in recipe.profile.devices:
        _, records = stage.profile(
            run.name,
            device=device,
            threads=recipe.profile.threads,
            lengths=recipe.profile.lengths,
            sentence_pairs=recipe.profile.sentence_pairs,
            claim_pairs=recipe.profile.claim_pairs,
        )
        profile_tables.show_profiles(run, records)
    refresh_cards(run)  # the model cards show what was measured


def _unless_done(
    run: RunDir,
    stage: str,
    settings: list[Record | object],
    inputs: list[Path],
    work: Callable[[], None],
) -> None:
    """Does `work` unless the ledger says that it ended with the same settings and input files."""
    ledger_file = run.path / "stages.json"
    ledger = read_json(ledger_file) if ledger_file.exists() else {}
    key = text_sha256(
        "\n".join(
            [*(repr(each) for each in settings), *(f"{p.name} {sha256_file(p)}" for p in inputs)]
        )
    )
    if ledger.get(stage) == key:
        console.say(f"{stage}: done already (edgedistil {stage} does it again)")
        return
    work()
    ledger = read_json(ledger_file) if ledger_file.exists() else {}
    write_json(ledger_file, {**ledger, stage: key})

"""The command line: one command calls one function of the Python API and prints its record.

Heavy imports are in the bodies of the commands, so that `--help` is fast.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

import edgedistil
from edgedistil.core.budget_options import SearchOptions, TrimOptions
from edgedistil.core.echo import echo, replace_unencodable
from edgedistil.core.errors import EdgeDistilError, InputError
from edgedistil.core.options import (
    AnswersOptions,
    BundleOptions,
    EmbedOptions,
    EvaluateOptions,
    ExportOptions,
    ProfileOptions,
    TaskOptions,
)
from edgedistil.failures import fail, fail_unexpected
from edgedistil.flags import with_options

SUMMARY = "Distil a text encoder, export it to ONNX, check it, and profile it on a device."

# Plain help and error texts: they are read in logs and pasted into issues.
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}


class _Commands(typer.core.TyperGroup):
    """The commands; a wrong choice is reported without pydantic's prefix."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="edgedistil", cls=_Commands, help=SUMMARY, pretty_exceptions_enable=False, **_PLAIN
)
devices_app = typer.Typer(help="List devices, show one, or draft a device file.", **_PLAIN)
recipe_app = typer.Typer(help="List the shipped recipes, or explain the keys of a file.", **_PLAIN)
app.add_typer(devices_app, name="devices")
app.add_typer(recipe_app, name="recipe")

# --- options that several commands share ----------------------------------------------------------

RunName = Annotated[
    str,
    typer.Option(
        "--run",
        help="Name of the run. Default: the run finished last.",
        metavar="NAME",
        show_default=False,
    ),
]
NewRunName = Annotated[
    str | None,
    typer.Option("--run", help="Name of the run. Default: the recipe's name.", metavar="NAME"),
]
RecipeArgument = Annotated[
    str, typer.Argument(help="Recipe file, or the name of a shipped recipe.", metavar="RECIPE")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a key of the recipe; repeat for several. Default: no change.",
        metavar="KEY=VALUE",
    ),
]


# --- commands -------------------------------------------------------------------------------------


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"edgedistil {edgedistil.__version__}")
        raise typer.Exit


@app.callback(help=SUMMARY)
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command("run")
def run_stages(recipe: RecipeArgument, overrides: Overrides = None, run: NewRunName = None) -> None:
    """Run all stages, resuming from the last completed one."""
    # The recipe is checked before anything heavy is imported.
    checked = edgedistil.load_recipe(recipe, overrides or ())
    from edgedistil.pipeline import run_all

    run_all(checked, run_name=run)


@app.command()
def distill(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run: NewRunName = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only print the estimated time, memory and tokens; train nothing."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue an interrupted run. Default: a run must not exist yet."
        ),
    ] = False,
) -> None:
    """Distil a teacher into a student before fine-tuning."""
    checked = edgedistil.load_recipe(recipe, overrides or ())
    from edgedistil.report import terminal

    if plan:
        terminal.show_plan(edgedistil.plan(checked))
        return
    distilled, record = edgedistil.distill(checked, run=run, resume=resume)
    terminal.show_distill(distilled, record)


@app.command()
@with_options(AnswersOptions)
def answers(options: AnswersOptions, recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Write the texts of a recipe's corpus, with its teacher's vectors."""
    checked = edgedistil.load_recipe(recipe, overrides or ())
    typer.echo(edgedistil.answers(checked, options))


@app.command()
@with_options(EvaluateOptions)
def evaluate(options: EvaluateOptions, run: RunName = "latest") -> None:
    """Fine-tune and compare teacher and student on labelled tasks."""
    from edgedistil.report import terminal

    evaluated, record = edgedistil.evaluate(run, options)
    terminal.show_evaluation(evaluated, record)


@app.command()
@with_options(TaskOptions)
def ablate(
    options: TaskOptions,
    recipes: Annotated[
        Path, typer.Argument(help="Folder with full.toml and variations of it.", metavar="FOLDER")
    ] = Path("recipes/ablation"),
) -> None:
    """Run an ablation study over a folder of recipes."""
    from edgedistil import ablate as ablation
    from edgedistil.report import terminal

    full_run, record = ablation.ablate(recipes, options)
    terminal.show_ablation(full_run, record)


@app.command()
@with_options(ExportOptions)
def export(options: ExportOptions, run: RunName = "latest") -> None:
    """Export to ONNX, quantize, and check the outputs against PyTorch."""
    from edgedistil.report import terminal

    exported, artefacts = edgedistil.export(run, options)
    terminal.show_export(exported, artefacts)


@app.command()
@with_options(EmbedOptions)
def embed(
    options: EmbedOptions,
    texts: Annotated[
        list[str],
        typer.Argument(help="Texts, or one UTF-8 file with a text on each line.", metavar="TEXT"),
    ],
    run: RunName = "latest",
) -> None:
    """Compute sentence vectors with an exported encoder."""
    from edgedistil.inference.stage import texts_of_arguments

    edgedistil.embed(texts_of_arguments(texts), run, options)


@app.command()
@with_options(BundleOptions)
def bundle(options: BundleOptions, run: RunName = "latest") -> None:
    """Make a folder that runs an export on a device."""
    from edgedistil.bundle.stage import show_bundle

    show_bundle(edgedistil.bundle(run, options))


@app.command()
@with_options(ProfileOptions)
def profile(
    options: ProfileOptions,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            help='Exit with code 3 unless this claim holds, such as "speedup>=1.6"; repeat for '
            "several. Default: no requirement.",
            metavar="CLAIM",
        ),
    ] = None,
    allow_predicted: Annotated[
        bool,
        typer.Option(
            "--allow-predicted",
            help="Let a predicted figure fulfil --require; without it only other methods do.",
        ),
    ] = False,
    run: RunName = "latest",
) -> None:
    """Report memory and latency: measured, emulated or predicted."""
    from edgedistil.profiling.requirements import read_requirements, require_claims
    from edgedistil.report import terminal

    # Requirements are read before the measurement, and judged after its tables are printed.
    requirements = read_requirements(require or [])
    profiled, records = edgedistil.profile(run, options)
    terminal.show_profiles(profiled, records)
    require_claims(records, requirements, allow_predicted=allow_predicted)


@app.command()
@with_options(SearchOptions)
def search(options: SearchOptions, recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """List students that fit a device and a budget; with --train, train the best of them."""
    checked = edgedistil.load_recipe(recipe, overrides or ())
    from edgedistil.report import terminal
    from edgedistil.search.stage import require_candidate
    from edgedistil.search_training import require_winner

    # The table comes first: it has the nearest candidates where none fits.
    record = edgedistil.search(checked, options)
    terminal.show_search(record)
    require_candidate(record)
    if options.train is None:
        return
    folder, trained = edgedistil.train_search(checked, record, options)
    terminal.show_trained_search(folder, trained)
    require_winner(trained)


@app.command()
@with_options(TrimOptions)
def trim(
    options: TrimOptions,
    model: Annotated[
        str, typer.Argument(help="Folder, hub id, or asset:NAME of a model.", metavar="MODEL")
    ],
) -> None:
    """Remove rare tokens from a model's vocabulary; nothing is trained."""
    from edgedistil.report import terminal

    target, record = edgedistil.trim(model, options)
    terminal.show_trim(target, record)


@app.command()
def report(
    run: RunName = "latest",
    against: Annotated[
        str | None,
        typer.Option(
            "--against", help="Another run to compare with. Default: none.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Write all records of a run onto one page."""
    from edgedistil.core.rundir import open_run
    from edgedistil.report.stage import show_report

    opened = open_run(run)
    other = None if against is None else open_run(against)
    edgedistil.report(opened, against=other)
    show_report(opened, against=other)


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(help="Folder, hub id, or asset:NAME of a model.", metavar="MODEL")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the facts as JSON. Default: tables.")
    ] = False,
) -> None:
    """Show what a model holds and what can be done with it; loads no weights."""
    inspection = edgedistil.inspect(model)
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), indent=2))
        return
    from edgedistil.inspection import show_inspection

    show_inspection(inspection)


@app.command()
def doctor() -> None:
    """Check what each stage needs on this machine; exit code 2 if something is missing."""
    from edgedistil.doctor import examine

    raise typer.Exit(0 if examine() else InputError.exit_code)


@devices_app.command("list")
def devices_list() -> None:
    """List the devices that --device and --target accept."""
    from edgedistil.profiling import devices

    devices.list_devices()


@devices_app.command("show")
def devices_show(
    name: Annotated[str, typer.Argument(help="Device, or path of a device file.", metavar="NAME")],
) -> None:
    """Show every figure of a device with its source."""
    from edgedistil.profiling import devices

    devices.show_device(name)


@devices_app.command("probe")
def devices_probe(
    ssh: Annotated[
        str | None,
        typer.Option(
            "--ssh", help="Board to examine over SSH. Default: this machine.", metavar="USER@HOST"
        ),
    ] = None,
) -> None:
    """Examine a machine and write a draft of its device file."""
    from edgedistil.profiling import devices

    devices.probe_device(ssh=ssh)


@recipe_app.command("list")
def recipe_list() -> None:
    """List the shipped recipes and those in ./recipes."""
    from edgedistil.core import console
    from edgedistil.core.recipe import load_recipe, shipped_recipes

    rows = [[name, load_recipe(name).description] for name in shipped_recipes()]
    console.table("Recipes", ["name", "description"], rows)


@recipe_app.command("explain")
def recipe_explain(
    key: Annotated[
        str | None,
        typer.Argument(
            help="Key or section, such as train.learning_rate or loss. Default: all keys.",
            metavar="[KEY]",
            show_default=False,
        ),
    ] = None,
    of: Annotated[
        Literal["recipe", "task", "device"],
        typer.Option("--of", help="Kind of file whose keys are explained."),
    ] = "recipe",
) -> None:
    """Explain the keys of recipes, task files or device files."""
    from edgedistil.file_keys import show_keys

    show_keys(of, key)


# --- entry point ----------------------------------------------------------------------------------

# An option with an empty value. --set is not among them: `--set description=` has a value.
_EMPTY_OPTION = re.compile(r"--[a-z-]+=")


def main() -> NoReturn:
    """Runs the command line; turns exceptions into one-line messages and exit codes."""
    replace_unencodable()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _check_arguments(sys.argv[1:])
        code = app(standalone_mode=False)
        # What is still buffered may not fit on the disk that it goes to.
        if sys.stdout is not None:
            sys.stdout.flush()
    except EdgeDistilError as error:
        fail(f"error: {error}", error.exit_code)
    except BrokenPipeError:
        # The reader of our pipe (`| head`) has ended: nothing more can be written to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        fail_unexpected(error)
    # typer turns KeyboardInterrupt into exit code 130 and prints nothing.
    if code == 130:
        fail("interrupted", 130)
    sys.exit(code or 0)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raises InputError for an argument that no command can have a use for."""
    for number, argument in enumerate(arguments, start=1):
        if argument == "" or _EMPTY_OPTION.fullmatch(argument):
            after = f" (after {echo(arguments[number - 2])})" if number > 1 else ""
            raise InputError(
                f"argument {number}{after} is empty: {echo(argument)!r}",
                hint="is a variable of the shell unset? Leave the option out for its default",
            )
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"argument {number} is not UTF-8: {echo(argument)}",
                hint="records are UTF-8; rename the file, or link to it under another name",
            ) from error


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt

"""The command line: one command calls one function of the Python API and prints its record.

Heavy imports are in the bodies of the commands, so that `--help` is fast.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import typer

import edgedistil
from edgedistil.core.options import (
    EvaluateOptions,
    ExportOptions,
    Flag,
    ProfileOptions,
    TaskOptions,
)

SUMMARY = "Distil a text encoder, export it to ONNX, check it, and profile it on a device."

# Plain help and error texts: they are read in logs and pasted into issues.
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}
app = typer.Typer(name="edgedistil", help=SUMMARY, pretty_exceptions_enable=False, **_PLAIN)
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


def with_options(options_class: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command a flag for every field of an options class that carries a `Flag`.

    The command takes the object as its argument `options`; typer sees the flags instead.
    """
    hints = get_type_hints(options_class, include_extras=True)
    flagged = [field for field in fields(options_class) if _flag(hints[field.name]) is not None]
    flags = [_parameter(field, hints[field.name]) for field in flagged]
    names = [field.name for field in flagged]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        others = [
            item.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for item in signature.parameters.values()
            if item.name != "options"
        ]

        @functools.wraps(command)
        def run_command(**values: Any) -> None:
            options = options_class(
                **{name: _without_enumerations(values.pop(name)) for name in names}
            )
            command(options=options, **values)

        # typer reads both: the order from the signature, the types from the annotations.
        parameters = [*flags, *others]
        run_command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run_command.__annotations__ = {item.name: item.annotation for item in parameters}
        return run_command

    return decorate


def _flag(annotation: Any) -> Flag | None:
    metadata = getattr(annotation, "__metadata__", ())
    return next((item for item in metadata if isinstance(item, Flag)), None)


def _parameter(field: Field[Any], annotation: Any) -> inspect.Parameter:
    """Returns the keyword parameter from which typer makes a field's flag."""
    flag = _flag(annotation)
    assert flag is not None
    option = typer.Option(
        flag.name,
        help=flag.help,
        metavar=flag.metavar or _choices_metavar(get_args(annotation)[0]),
        min=flag.minimum,
        # The help text says what happens by default; None and False would only repeat it.
        show_default=field.default not in (None, False),
    )
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[_typer_type(get_args(annotation)[0]), option],
    )


def _typer_type(annotation: Any) -> Any:
    """Rewrites a type for typer, which cannot offer choices for a list of Literals."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Sequence:
        return list[_typer_type(arguments[0])]  # type: ignore[misc]
    if NoneType in arguments:
        (inner,) = (item for item in arguments if item is not NoneType)
        return _typer_type(inner) | None
    choices = _literal_values(annotation)
    return StrEnum("Choice", {value: value for value in choices}) if choices else annotation


def _literal_values(annotation: Any) -> list[str]:
    """Returns the values of a Literal or of a union of Literals; empty for other types."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [value for item in get_args(annotation) for value in _literal_values(item)]
    return []


def _choices_metavar(annotation: Any) -> str | None:
    """Returns `<a|b|c>` for a sequence of choices, which typer would show as `list[a|b|c]`."""
    for item in (annotation, *get_args(annotation)):
        if get_origin(item) is Sequence and _literal_values(get_args(item)[0]):
            return f"<{'|'.join(_literal_values(get_args(item)[0]))}>"
    return None


def _without_enumerations(value: Any) -> Any:
    """Replaces enumeration members, which typer makes of choices, by their values."""
    if isinstance(value, list):
        return [_without_enumerations(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


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
@with_options(EvaluateOptions)
def evaluate(options: EvaluateOptions, run: RunName = "latest") -> None:
    """Fine-tune teacher and student on labelled tasks, and compare them."""
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
    run: RunName = "latest",
) -> None:
    """Report memory and latency: measured, emulated or predicted."""
    from edgedistil.profiling.requirements import read_requirements, require_claims
    from edgedistil.report import terminal

    # Requirements are read before the measurement, and judged after its tables are printed.
    requirements = read_requirements(require or [])
    profiled, records = edgedistil.profile(run, options)
    terminal.show_profiles(profiled, records)
    require_claims(records, requirements)


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
def doctor() -> None:
    """Check what each stage needs on this machine."""
    from edgedistil.doctor import examine

    raise typer.Exit(0 if examine() else 1)


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
    """Examine a machine and print a draft of its device file."""
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


def main() -> NoReturn:
    """Runs the command line; turns exceptions into one-line messages and exit codes."""
    from edgedistil.core.errors import EdgeDistilError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except EdgeDistilError as error:
        _fail(f"error: {error}", error.exit_code)
    except SystemExit as stop:
        # typer turns KeyboardInterrupt into exit code 130 and prints nothing.
        if stop.code == 130:
            _fail("interrupted", 130)
        raise
    except BrokenPipeError:
        # The reader of our pipe (`| head`) has ended: nothing more can be written to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt

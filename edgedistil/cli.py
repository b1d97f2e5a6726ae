"""The command line: one command is one function call. Heavy imports live in the command bodies, results in records."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import edgedistil
from edgedistil.core.precision import PRECISION_REQUESTS

app = typer.Typer(
    name="edgedistil",
    help="Distil a language encoder, export it to ONNX, prove it, and profile it on its device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Run = Annotated[str, typer.Option("--run", help="Name of the run.", metavar="NAME")]
NewRun = Annotated[
    str | None,
    typer.Option("--run", help="Name of the run; the recipe's own if not given.", metavar="NAME"),
]
RecipeArg = Annotated[
    str, typer.Argument(help="Recipe file, or the name of a shipped one.", metavar="RECIPE")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the recipe.", metavar="KEY=VALUE"),
]
Text = Annotated[
    Path | None, typer.Option("--text", help="Your own text, one sequence a line.", metavar="FILE")
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edgedistil {edgedistil.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Distil a language encoder, export it to ONNX, prove it, and profile it on its device."""


@app.command()
def run(
    recipe: RecipeArg,
    set_: Set = None,
    run: NewRun = None,
) -> None:
    """Do the whole chain; go on where it stopped."""
    from edgedistil.core.recipe import load_recipe

    loaded = load_recipe(recipe, set_)  # a wrong recipe is told before anything heavy is imported
    from edgedistil.pipeline import run_all

    run_all(loaded, run_name=run)


@app.command()
def distill(
    recipe: RecipeArg,
    set_: Set = None,
    run: NewRun = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell what it would do and take.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was interrupted.")
    ] = False,
) -> None:
    """Distil a teacher into a student before fine-tuning."""
    from edgedistil.core.recipe import load_recipe

    loaded = load_recipe(recipe, set_)
    from edgedistil.distill import stage
    from edgedistil.report import tables

    if plan:
        tables.show_plan(stage.plan(loaded))
        return
    chosen, record = stage.distill(loaded, run_name=run, resume=resume)
    tables.show_distill(chosen, record)


@app.command()
def evaluate(
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Task to evaluate on; repeat for several.", metavar="TASK"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, help="Fine-tuning runs per task and model.", metavar="N"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Model of the run, or a folder.", metavar="MODEL"),
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--cell", help="One cell alone.", metavar="TASK:MODEL:SEED")
    ] = None,
    artefact: Annotated[
        str | None,
        typer.Option("--artefact", help="Score the ONNX artefact too.", metavar="PRECISION"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder with the data sets' official files.", metavar="FOLDER"),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Cells that run at the same time.", metavar="N")
    ] = 1,
    run: Run = "latest",
) -> None:
    """Fine-tune teacher and student, and compare them."""
    from edgedistil.core.rundir import open_run

    chosen = open_run(run)
    from edgedistil.evaluate import stage
    from edgedistil.report import tables

    record = stage.evaluate(
        chosen,
        tasks=task,
        seeds=seeds,
        models=model,
        cell=cell,
        artefact=artefact,
        data=data,
        jobs=jobs,
    )
    tables.show_evaluation(chosen, record)


@app.command()
def ablate(
    recipes: Annotated[
        Path, typer.Argument(help="Folder with full.toml and its variations.", metavar="FOLDER")
    ] = Path("recipes/ablation"),
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Task to evaluate on; repeat for several.", metavar="TASK"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, help="Fine-tuning runs per task and recipe.", metavar="N"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder with the data sets' official files.", metavar="FOLDER"),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Cells that run at the same time.", metavar="N")
    ] = 1,
) -> None:
    """Tell what each part of a recipe is worth."""
    from edgedistil.ablate import ablate as compare
    from edgedistil.report import tables

    chosen, record = compare(recipes, tasks=task, seeds=seeds, data=data, jobs=jobs)
    tables.show_ablation(chosen, record)


@app.command()
def export(
    quantize: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize",
            help=f"{', '.join(PRECISION_REQUESTS)}; repeat for several.",
            metavar="PRECISION",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Device it is made for.", metavar="DEVICE")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Folder or hub id instead of a run's models.", metavar="MODEL"
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Task of --model; inferred if not given.", metavar="TASK"),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", help="auto: most agreement that may be lost.", metavar="SHARE"),
    ] = 0.01,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the error layer by layer.")
    ] = False,
    text: Text = None,
    format_: Annotated[
        str, typer.Option("--format", help="onnx, or ort for reduced builds.", metavar="FORMAT")
    ] = "onnx",
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Weights inside the graph file.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", help="Upload the folder to this hub repository.", metavar="REPO"),
    ] = None,
    run: Run = "latest",
) -> None:
    """Trace to ONNX, quantize, prove against PyTorch."""
    from edgedistil.export import stage
    from edgedistil.report import tables

    chosen, artefacts = stage.export(
        run,
        quantize=quantize,
        target=target,
        model=model,
        task=task,
        max_drop=max_drop,
        explain=explain,
        text=text,
        format_=format_,
        single_file=single_file,
        push=push,
    )
    tables.show_export(chosen, artefacts)


@app.command()
def profile(
    device: Annotated[
        str,
        typer.Option(
            "--device", help="Device to answer for; host is this machine.", metavar="DEVICE"
        ),
    ] = "host",
    ssh: Annotated[
        str | None, typer.Option("--ssh", help="Measure on a board.", metavar="USER@HOST")
    ] = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Run the board's kernels under emulation.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option("--model", help="One ONNX file instead of a run.", metavar="FILE")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            "--threads", min=1, help="Thread counts; 1 and all if not given.", metavar="N"
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option("--length", min=2, help="Sequence lengths in tokens.", metavar="TOKENS"),
    ] = None,
    text: Text = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", help='Gate, such as "speedup>=1.6".', metavar="CLAIM"),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="Does it fit, for example in 512M?", metavar="SIZE"),
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Find the best session options.")] = False,
    bootstrap: Annotated[
        bool, typer.Option("--bootstrap", help="Send the board what it lacks.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the device's constants from real runs.")
    ] = False,
    run: Run = "latest",
) -> None:
    """Memory and latency: measured, emulated or predicted."""
    from edgedistil.export.package import refresh_cards
    from edgedistil.profiling import stage
    from edgedistil.report import profile_tables

    stage.check_requirements(require or [])
    chosen, records = stage.profile(
        run,
        device=device,
        ssh=ssh,
        emulate=emulate,
        model=model,
        threads=threads,
        lengths=length,
        text=text,
        memory_limit=memory_limit,
        tune=tune,
        bootstrap=bootstrap,
        calibrate=calibrate,
    )
    profile_tables.show_profiles(chosen, records)
    if chosen is not None:
        refresh_cards(chosen)  # the model cards show what was measured
    stage.require_claims(records, require or [])


@app.command()
def report(
    run: Run = "latest",
    against: Annotated[
        str | None, typer.Option("--against", help="Another run to compare with.", metavar="NAME")
    ] = None,
) -> None:
    """Write everything a run knows onto one page."""
    from edgedistil.core.rundir import open_run
    from edgedistil.report import stage

    stage.report(open_run(run), against=open_run(against) if against else None)


@app.command()
def devices(
    name: Annotated[
        str | None, typer.Argument(help="Device to explain, or 'probe' to draft a file.")
    ] = None,
    ssh: Annotated[
        str | None,
        typer.Option("--ssh", help="probe: the machine to look at.", metavar="USER@HOST"),
    ] = None,
) -> None:
    """List devices, explain one, or draft one."""
    from edgedistil.profiling import devices as listing

    if name == "probe":
        listing.probe_device(ssh=ssh)
    elif name is not None:
        listing.explain_device(name)
    else:
        listing.list_devices()


@app.command()
def doctor() -> None:
    """Check what this machine has and lacks."""
    from edgedistil.doctor import examine

    raise typer.Exit(0 if examine() else 1)


def main() -> NoReturn:
    """Entry point: turns exceptions into one-line messages and exit codes."""
    from edgedistil.core.errors import EdgeDistilError

    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(standalone_mode=True)
    except EdgeDistilError as error:
        _fail(f"error: {error}", error.exit_code)
    except SystemExit as stop:
        if stop.code == 130:  # typer turns KeyboardInterrupt into this, without a word
            _fail("interrupted", 130)
        raise
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader of our pipe has left
        sys.exit(0)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)


def _terminated(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt

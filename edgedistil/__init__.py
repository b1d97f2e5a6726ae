"""EdgeDistil distils a text encoder, exports it to ONNX, checks it and profiles it on a device.

The functions below are the Python API; the command line is a thin layer on it (docs/api.md):

    import edgedistil

    recipe = edgedistil.load_recipe("tiny")
    run, record = edgedistil.distill(recipe)
    edgedistil.export(run)

Importing the package loads neither torch nor onnxruntime; each function imports what it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgedistil.core.budget_options import SearchOptions, TrimOptions
from edgedistil.core.options import (
    AnswersOptions,
    BundleOptions,
    EmbedOptions,
    EvaluateOptions,
    ExportOptions,
    ProfileOptions,
)
from edgedistil.core.version import __version__

# onnxruntime reads it when it is imported; otherwise it starts a thread that writes a device id
# and a database into the user's cache: docs/log.md#onnxruntime-writes-into-the-cache-folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgedistil.bundle.stage import Bundle
    from edgedistil.core.distill_records import DistillRecord, PlanRecord
    from edgedistil.core.evaluation_records import EvaluationRecord
    from edgedistil.core.export_records import ExportRecord, ParityRecord
    from edgedistil.core.profile_records import ProfileRecord
    from edgedistil.core.recipe import Recipe
    from edgedistil.core.rundir import RunDir
    from edgedistil.core.search_records import SearchRecord, TrainedSearch
    from edgedistil.core.trim_records import TrimRecord
    from edgedistil.inference.classifier import Classifier
    from edgedistil.inference.encoder import Encoder
    from edgedistil.inference.mask_filler import MaskFiller
    from edgedistil.inference.opening import load
    from edgedistil.inference.question_answerer import QuestionAnswerer
    from edgedistil.inference.token_classifier import TokenClassifier
    from edgedistil.inspection import Inspection

__all__ = [
    "AnswersOptions",
    "BundleOptions",
    "Classifier",
    "EmbedOptions",
    "Encoder",
    "EvaluateOptions",
    "ExportOptions",
    "MaskFiller",
    "ProfileOptions",
    "QuestionAnswerer",
    "SearchOptions",
    "TokenClassifier",
    "TrimOptions",
    "__version__",
    "answers",
    "bundle",
    "distill",
    "embed",
    "evaluate",
    "export",
    "inspect",
    "load",
    "load_recipe",
    "plan",
    "profile",
    "report",
    "search",
    "train_search",
    "trim",
]
# Class or function of the runtime → its module; importing one loads onnxruntime.
_RUNTIME = {
    "Classifier": "classifier",
    "Encoder": "encoder",
    "MaskFiller": "mask_filler",
    "QuestionAnswerer": "question_answerer",
    "TokenClassifier": "token_classifier",
    "load": "opening",
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: A TOML file, or the name of a recipe that comes with the package, such as "tiny".
        overrides: Changes of single keys, such as "train.tokens=2000000".
    Raises:
        RecipeError: The file is missing, is not valid TOML, or has unknown or invalid keys; the
            message lists all problems.
    """
    from edgedistil.core import recipe

    return recipe.load_recipe(path, list(overrides))


def inspect(model: str) -> Inspection:
    """Reads what a model holds and what can be done with it; loads no weights, and no torch.

    Args:
        model: Folder, hub id, or `asset:NAME`.
    Raises:
        InputError: There is no such model, it is not supported, or its files are damaged.
        OfflineError: The hub cannot be reached.
    """
    from edgedistil.inspection import inspect_model

    return inspect_model(model)


def plan(recipe: Recipe) -> PlanRecord:
    """Estimates time, memory and tokens of a distillation, without training.

    Raises:
        InputError: The teacher or the corpus cannot be used, or does not fit the recipe.
    """
    from edgedistil.distill import stage

    return stage.plan(recipe)


def distill(
    recipe: Recipe, *, run: str | None = None, resume: bool = False
) -> tuple[RunDir, DistillRecord]:
    """Distils the recipe's teacher into its student.

    Args:
        recipe: As `load_recipe` returns it.
        run: Name of the run; None for the recipe's own name.
        resume: Continue an interrupted run from its last checkpoint.
    Returns:
        The run directory, and the record that is stored in it.
    Raises:
        InputError: The recipe, teacher or corpus cannot be used, or the run already exists.
        TrainingDiverged: The loss is not finite; the last good checkpoint remains.
    """
    from edgedistil.distill import stage

    return stage.distill(recipe, run_name=run, resume=resume)


def answers(recipe: Recipe, options: AnswersOptions | None = None) -> Path:
    """Writes the texts of a recipe's corpus and the vectors that its teacher has for them.

    With the file as `teacher.answers`, a run learns these vectors in place of its teacher's own;
    another model's vectors of the same texts may be put into it.

    Args:
        recipe: Its objective is `representation`.
        options: The file, and whether it has vectors.
    Returns:
        The file.
    Raises:
        InputError: The file exists, the recipe has another objective, or its teacher or corpus
            cannot be used.
    """
    from edgedistil.distill import answers_stage

    options = options or AnswersOptions()
    return answers_stage.answer(recipe, options.out, texts_only=options.texts_only)


def evaluate(
    run: RunDir | str = "latest", options: EvaluateOptions | None = None
) -> tuple[RunDir, EvaluationRecord]:
    """Fine-tunes a run's models on labelled tasks and compares student with teacher.

    Args:
        run: A run directory, or its name; "latest" is the run that was finished last.
        options: Tasks, models, seeds and data; None for the recipe's.
    Returns:
        The run directory, and the record with scores and retention.
    Raises:
        InputError: A run, task or model is unknown, or the data are invalid.
    """
    # First: the stage imports PyTorch, which takes seconds.
    opened = _open_run(run)
    from edgedistil.evaluate import stage

    return opened, stage.evaluate(opened, options or EvaluateOptions())


def export(
    run: RunDir | str = "latest", options: ExportOptions | None = None
) -> tuple[RunDir, list[tuple[ExportRecord, ParityRecord]]]:
    """Exports a run's models, or any other model, to ONNX and checks the outputs.

    Args:
        run: A run directory, or its name; not used if `options.model` names a model.
        options: Precisions, target device, model and text; None for the recipe's.
    Returns:
        The run directory, and for each artefact its record and that of its parity check.
    Raises:
        InputError: A precision, device, model or text is unknown or not supported.
        ParityError: An artefact's outputs do not match PyTorch's; it is moved to `rejected/` and
            earlier exports are left untouched.
    """
    from edgedistil.export import stage

    return stage.export(_run_name(run), options or ExportOptions())


def profile(
    run: RunDir | str = "latest",
    options: ProfileOptions | None = None,
    *,
    require: Sequence[str] = (),
    allow_predicted: bool = False,
) -> tuple[RunDir | None, list[ProfileRecord]]:
    """Measures, emulates or predicts memory and latency of a run's artefacts on a device.

    Args:
        run: A run directory, or its name; not used if `options.model` names an ONNX file.
        options: Device, method, lengths and threads; None measures this machine.
        require: Claims that have to hold, such as "speedup>=1.6".
        allow_predicted: Whether a predicted figure can make a claim of `require` hold.
    Returns:
        The run directory (None for an ONNX file), and one record for each device and method.
    Raises:
        InputError: A run, device, option or requirement is unknown, or options exclude each other.
        TargetError: The device cannot be reached, or cannot run what was sent.
        ClaimError: A requirement does not hold. The records are stored nevertheless.
    """
    from edgedistil.profiling import stage
    from edgedistil.profiling.requirements import read_requirements, require_claims

    requirements = read_requirements(require)
    profiled, records = stage.profile(_run_name(run), options or ProfileOptions())
    require_claims(records, requirements, allow_predicted=allow_predicted)
    return profiled, records


def embed(
    texts: Sequence[str] | Path, run: RunDir | str = "latest", options: EmbedOptions | None = None
) -> tuple[int, int]:
    """Writes the sentence vectors of texts, computed by an exported encoder, to a .npy file.

    Args:
        texts: The texts, or a UTF-8 file with one text a line.
        run: A run directory, or its name.
        options: Output file, encoder, precision and side.
    Returns:
        Number of vectors, and their width.
    Raises:
        InputError: The run has no such encoder, or the file cannot be read.
        StorageError: The vectors cannot be written.
    """
    from edgedistil.inference import stage

    options = options or EmbedOptions()
    # An export folder says everything; it may be outside of any run.
    opened = None if stage.is_export_folder(options.model) else _open_run(run)
    return stage.embed(opened, texts, options)


def search(recipe: Recipe, options: SearchOptions) -> SearchRecord:
    """Lists students of the recipe's teacher with what they need on a device; trains nothing.

    Args:
        recipe: As `load_recipe` returns it; its teacher and precisions are used.
        options: Device and budget.
    Returns:
        The candidates, those that fit first. Their quality is unknown.
    Raises:
        InputError: The teacher, the device or the budget cannot be used.
    """
    from edgedistil.search import stage

    record = stage.search(recipe, options)
    if options.measure is None:
        return record
    from edgedistil.search_measuring import measure_candidates

    return measure_candidates(recipe, record, options)


def train_search(
    recipe: Recipe, candidates: SearchRecord, options: SearchOptions
) -> tuple[RunDir, TrainedSearch]:
    """Trains the best candidates of a search by successive halving, and exports the best one.

    Writes `search.json`, `search.md` and `search.svg`; every student is a run of its own, so an
    interrupted search continues where it was.

    Args:
        recipe: The recipe of the search.
        candidates: Result of `search`.
        options: Number of students (`train`), training tokens, and how the artefact is checked.
    Returns:
        The folder, and the record; without a `winner` if no artefact is within the budget.
    Raises:
        InputError: No candidate may fit, or the tokens are too few.
    """
    from edgedistil import search_training
    from edgedistil.report.search_page import write_search_page

    folder, record = search_training.train_search(recipe, candidates, options)
    write_search_page(folder, record)
    return folder, record


def trim(model: str, options: TrimOptions) -> tuple[Path, TrimRecord]:
    """Removes rare tokens from a model's vocabulary, and proves that nothing else changed.

    Args:
        model: Folder, hub id, or `asset:NAME`.
        options: Size or coverage, the text that is counted, and where the result goes.
    Returns:
        The folder with `model/` and `trim.json`, and the record.
    Raises:
        InputError: The model, the text or the size cannot be used, or the folder exists.
        GateError: The trimmed model does not compute what the model before computes.
        StorageError: The folder cannot be written.
    """
    from edgedistil.trimming import stage

    return stage.trim(model, options)


def bundle(run: RunDir | str = "latest", options: BundleOptions | None = None) -> Bundle:
    """Makes a folder with all that a device needs to run an export.

    Args:
        run: A run directory, or its name; not used if `options.model` names an export folder.
        options: Precision, device and folder to write.
    Returns:
        The folder, and the sizes of its parts.
    Raises:
        InputError: The run has no such export, or its tokenizer has a part that C++ cannot do.
        ModelError: A file of the export is missing or was changed after its check.
    """
    from edgedistil.bundle import stage
    from edgedistil.core.paths import user_path
    from edgedistil.inference.stage import export_folder, is_export_folder

    options = options or BundleOptions()
    model = options.model
    if is_export_folder(model):
        return stage.make_bundle(user_path(model or ""), options)
    return stage.make_bundle(export_folder(_open_run(run), model), options)


def report(run: RunDir | str = "latest", *, against: RunDir | str | None = None) -> Path:
    """Writes report.html, report.md and report.json from a run's records.

    Args:
        run: A run directory, or its name.
        against: Another run to compare with.
    Returns:
        Path of report.html.
    """
    from edgedistil.report import stage

    other = None if against is None else _open_run(against)
    return stage.report(_open_run(run), against=other)


def _open_run(run: RunDir | str) -> RunDir:
    from edgedistil.core.rundir import open_run

    return open_run(run) if isinstance(run, str) else run


def _run_name(run: RunDir | str) -> str:
    return run if isinstance(run, str) else run.name


def __getattr__(name: str) -> Any:
    # The classes need onnxruntime, which importing the package must not load.
    if name in _RUNTIME:
        return getattr(import_module(f"edgedistil.inference.{_RUNTIME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    """The package's module type: keeps the API where a subpackage has the same name.

    Importing `edgedistil.distill.stage` sets the attribute `distill` of this package to the
    subpackage. Without this class that would hide the function `edgedistil.distill`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        hides_api = name in __all__ and isinstance(value, ModuleType)
        if not hides_api:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

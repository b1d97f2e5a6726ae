"""`edgedistil search`: students of a recipe's teacher that fit a device and a budget."""

from __future__ import annotations

from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import HOST, DeviceSpec, load_device
from edgedistil.core.echo import echo
from edgedistil.core.errors import DeviceFileError, GateError, InputError, ModelError
from edgedistil.core.model_folder import ModelFolder, read_model_folder
from edgedistil.core.model_source import find_model
from edgedistil.core.precision import Precision, min_runtime
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import provenance
from edgedistil.core.search_records import Candidate, SearchRecord
from edgedistil.core.sentence_modules import find_transformer
from edgedistil.core.thread_limits import check_threads
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_trim import read_vocabulary, required_ids
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, core_family
from edgedistil.costmodel.shapes import (
    SHAPE_PRECISIONS,
    EncoderShape,
    encoder_shape,
    unsupported_reason,
)
from edgedistil.runtime.host import identity, usable_threads
from edgedistil.runtime.match import match_device
from edgedistil.search.budget import read_budget
from edgedistil.search.candidates import Setting, enumerate_shapes, judge

# Nearest candidates that an error lists.
_NEAREST = 3
_ORDER = {"fits": 0, "may fit": 1, "does not fit": 2}


def search(recipe: Recipe, options: SearchOptions) -> SearchRecord:
    """Predicts what students of a teacher need, and compares each with a budget.

    Args:
        recipe: Its teacher and its export precisions are used.
        options: Device, budget, length and threads.
    Returns:
        The candidates: those that fit first, of these the largest first; of those that do not, the
        nearest first.
    Raises:
        DeviceFileError: The device is unknown.
        InputError: The budget cannot be read, the length is beyond the teacher's positions, or the
            recipe's student has sizes that are not searched, or nothing would use an option.
        ModelError: The teacher is of a family whose graphs are not known from shapes.
    """
    check_options(options)
    check_student(recipe)
    budget = read_budget(options.under, options.memory)
    device = _find_device(options.device)
    _check_threads(options, device)
    # Only shapes are read: no weights are loaded.
    source = read_model_folder(find_transformer(find_model(recipe.teacher.source)))
    shape = _student_shape(source)
    # A length that the teacher cannot read has no students either.
    limit = source.family.positions_limit(source.config)
    if options.length > limit:
        raise InputError(f"--length {options.length}: the teacher has positions for {limit} tokens")
    setting = Setting(
        device=device,
        constants=ONNXRUNTIME_CONSTANTS[core_family(device)],
        length=options.length,
        threads=options.threads,
        budget=budget,
    )
    students = enumerate_shapes(
        shape,
        least_vocabulary=_least_vocabulary(source),
        fewer_heads=source.family.names.attention is not None,
    )
    # Every student at every precision of the recipe.
    candidates = [
        judge(student, precision, setting)
        for student in students
        for precision in _precisions(recipe)
    ]
    return SearchRecord(
        recipe=recipe.name,
        teacher=recipe.teacher.source,
        device=device.name,
        calibration=setting.constants.origin,
        length=options.length,
        threads=options.threads,
        budget=budget,
        candidates=sorted(candidates, key=rank),
        provenance=provenance(),
    )


def check_options(options: SearchOptions) -> None:
    """Raises InputError for an option that nothing would use, or a board that is this machine."""
    trains = options.train is not None
    measures = trains or options.measure is not None
    # Flag → its value, whether something uses it, and what would.
    needs = {
        "--tokens": (options.tokens, trains, "--train"),
        "--run": (options.run, trains, "--train"),
        "--ssh": (options.ssh, measures, "--measure or --train"),
        "--bootstrap": (options.bootstrap or None, options.ssh is not None, "--ssh"),
    }
    for flag, (value, is_used, users) in needs.items():
        if value is not None and not is_used:
            raise InputError(
                f"{flag} is {echo(value)} without {users}: nothing would use it",
                hint=f"add {users}, or leave {flag} out",
            )
    if options.ssh is not None and options.device == HOST:
        raise InputError(
            f"--ssh is {echo(options.ssh)} and --device is host, which is this machine: expected "
            "the board's device",
            hint="edgedistil devices list shows the names",
        )


def _check_threads(options: SearchOptions, device: DeviceSpec) -> None:
    """Raises InputError if the device has far fewer cores than --threads."""
    # A board over SSH reports its own cores, which can be fewer than its device file has.
    if options.device == HOST:
        check_threads([options.threads], usable_threads(), machine="this machine")
    else:
        check_threads([options.threads], device.cores, machine=device.name)


def oldest_runtime(recipe: Recipe) -> tuple[int, int]:
    """Returns the oldest onnxruntime that runs every student of a search."""
    source = read_model_folder(find_transformer(find_model(recipe.teacher.source)))
    return max(source.family.min_runtime, *map(min_runtime, _precisions(recipe)))


def check_student(recipe: Recipe) -> None:
    """Raises InputError if a recipe's student has sizes that a search would ignore."""
    student = recipe.student
    if student.init not in ("teacher", "random"):
        raise InputError(
            f'student.init is "{echo(student.init)}": a student that is distilled further has its '
            'sizes already, and search chooses them; expected "teacher" or "random"',
            hint="add --set 'student.init=\"teacher\"', or distil this student without a search",
        )
    if student.embedding is not None:
        raise InputError(
            f"student.embedding is {student.embedding}: search does not size students with "
            "narrower word embeddings; expected no student.embedding",
            hint="remove the key from the recipe",
        )


def _find_device(name: str) -> DeviceSpec:
    if name != HOST:
        return load_device(name)
    spec = match_device(identity())
    if spec is None:
        raise DeviceFileError(
            "no device file matches this machine, so its times cannot be predicted",
            hint="draft one with: edgedistil devices probe",
        )
    return spec


def _student_shape(source: ModelFolder) -> EncoderShape:
    """Shape of a student with all layers of the teacher."""
    reason = unsupported_reason(source)
    if reason is not None:
        raise ModelError(f"students of the teacher in {source.folder} cannot be sized: {reason}")
    if source.family.shares_layers:
        raise ModelError(
            f"the layers of a {source.family.model_type} share their weights: fewer of them save "
            "no bytes, and sizes are not known from shapes"
        )
    return encoder_shape(source, without_segments=source.family.model_type == "bert")


def _least_vocabulary(source: ModelFolder) -> int:
    tokenizer = read_tokenizer(source.folder)
    return len(required_ids(tokenizer, read_vocabulary(tokenizer)))


def _precisions(recipe: Recipe) -> list[Precision]:
    """Precisions of the recipe whose sizes are known from shapes; fp32 is always written."""
    named = ["fp32", *recipe.export.precisions]
    return [precision for precision in SHAPE_PRECISIONS if precision in named]


def rank(candidate: Candidate) -> tuple[int, float]:
    """Returns the place of a candidate: those that fit first, the largest of them first."""
    if candidate.fit == "does not fit":
        return _ORDER[candidate.fit], candidate.worst_ratio
    return _ORDER[candidate.fit], -candidate.parameters


def require_candidate(record: SearchRecord) -> None:
    """Raises GateError if no candidate of a search meets its budget, not even perhaps."""
    nearest = record.candidates[0]
    if nearest.fit != "does not fit":
        return
    needs = "; ".join(map(_need, record.candidates[:_NEAREST]))
    raise GateError(
        f"no student of {record.teacher} meets the budget on {record.device}: the nearest ones "
        f"are {needs}",
        hint="raise the limit, shorten --length, or start from a narrower teacher",
    )


def _need(candidate: Candidate) -> str:
    """A candidate, and what it needs of each limit that it exceeds."""
    needs = ", ".join(f"{name} {need}" for name, need in candidate.excess.items())
    return (
        f"{candidate.layers} layers, feed-forward {candidate.intermediate}, {candidate.heads} "
        f"heads, {candidate.vocabulary:,} tokens, {candidate.precision}, which needs at least "
        f"{needs}"
    )

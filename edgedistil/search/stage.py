"""`edgedistil search`: students of a recipe's teacher that fit a device and a budget."""

from __future__ import annotations

from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import HOST, DeviceSpec, load_device
from edgedistil.core.echo import echo
from edgedistil.core.errors import DeviceFileError, GateError, InputError, ModelError
from edgedistil.core.model_folder import ModelFolder, read_model_folder
from edgedistil.core.model_source import find_model
from edgedistil.core.precision import Precision, min_runtime
from edgedistil.core.recipe import Recipe, Teacher
from edgedistil.core.records import provenance
from edgedistil.core.search_records import Candidate, SearchRecord, StudentSizes
from edgedistil.core.sentence_modules import find_transformer
from edgedistil.core.thread_limits import check_threads
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_trim import read_vocabulary, required_ids
from edgedistil.costmodel.calibration import device_constants
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
from edgedistil.search.nearest import describe_needs, flags_that_fit, nearest_candidates
from edgedistil.search.recipe_sizes import check_fixed_sizes, recipe_shape

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
    source = read_teacher_folder(recipe.teacher)
    shape, least = _student_shape(source), _least_vocabulary(source)
    own = recipe_shape(recipe.student, shape, least_vocabulary=least)
    check_fixed_sizes(recipe.student, options.keep)
    # A length that the teacher cannot read has no students either.
    limit = source.family.positions_limit(source.config)
    if options.length > limit:
        raise InputError(f"--length {options.length}: the teacher has positions for {limit} tokens")
    setting = Setting(
        device=device,
        constants=device_constants(device),
        length=options.length,
        threads=options.threads,
        budget=budget,
        teacher_rank=shape.rank,
    )
    students = enumerate_shapes(
        shape,
        least_vocabulary=least,
        fewer_heads=source.family.names.attention is not None,
        narrower_words=_can_factorise(recipe, source),
        own=own,
        keep=options.keep,
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
        recipe_sizes=_sizes(own, shape),
        fixed_sizes=list(options.keep),
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
            # A switch has no value to show.
            argument = flag if value is True else f"{flag} is {echo(value)}"
            raise InputError(
                f"{argument} without {users}: nothing would use it",
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


def read_teacher_folder(teacher: Teacher) -> ModelFolder:
    """Returns configuration and sizes of a recipe's teacher, in the revision that it names."""
    folder = find_model(teacher.source, revision=teacher.revision)
    return read_model_folder(find_transformer(folder))


def oldest_runtime(recipe: Recipe) -> tuple[int, int]:
    """Returns the oldest onnxruntime that runs every student of a search."""
    source = read_teacher_folder(recipe.teacher)
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
    if student.embedding is not None and recipe.objective.kind == "mlm":
        raise InputError(
            f'student.embedding is {student.embedding} and objective.kind is "mlm", whose head '
            'shares the word embeddings: expected "representation"',
            hint="set objective.kind, or leave student.embedding out",
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


def _can_factorise(recipe: Recipe, source: ModelFolder) -> bool:
    """Whether `distill` can factorise the word embeddings: not under an MLM head, nor twice."""
    # "auto" looks for a head among the weights, which a search does not load.
    learns_vectors = recipe.objective.kind == "representation" or recipe.teacher.answers is not None
    return learns_vectors and not source.family.factorises(source.config)


def _sizes(shape: EncoderShape, teacher: EncoderShape) -> StudentSizes:
    return StudentSizes(
        layers=shape.layers,
        intermediate=shape.intermediate,
        heads=shape.heads,
        vocabulary=shape.vocabulary,
        embedding=None if shape.rank == teacher.rank else shape.rank,
    )


def _least_vocabulary(source: ModelFolder) -> int:
    tokenizer = read_tokenizer(source.folder)
    return len(required_ids(tokenizer, read_vocabulary(tokenizer)))


def _precisions(recipe: Recipe) -> list[Precision]:
    """Precisions of the recipe whose sizes are known from shapes; fp32 is always written."""
    named = ["fp32", *recipe.export.precisions]
    return [precision for precision in SHAPE_PRECISIONS if precision in named]


def rank(candidate: Candidate) -> tuple[int, float, float]:
    """Returns the place of a candidate: those that fit first, the largest of them first.

    Of those that do not fit, the nearest come first.
    """
    if candidate.fit != "does not fit":
        return _ORDER[candidate.fit], -candidate.parameters, 0
    # As slow as another one, but smaller: nearer where the size exceeds its limit, too.
    size = candidate.file_bytes.low if candidate.excess.keys() - {"latency"} else 0
    return _ORDER[candidate.fit], candidate.worst_ratio, size


def require_candidate(record: SearchRecord) -> None:
    """Raises GateError if no candidate of a search meets its budget, not even perhaps."""
    if record.candidates[0].fit != "does not fit":
        return
    nearest = nearest_candidates(record.candidates)
    needs = "".join(f"\n  {describe_needs(candidate, record.budget)}" for candidate in nearest)
    flags = flags_that_fit(nearest[0], record.budget)
    raise GateError(
        f"no student of {record.teacher} meets the budget on {record.device}; nearest:{needs}",
        hint=f"the first of them fits with {flags}; or shorten --length, or start from a narrower "
        "teacher",
    )

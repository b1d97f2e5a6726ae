"""`edgedistil search --train`: students under a budget, trained by successive halving.

This module is at the top level because it calls several stages, which do not import each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edgedistil.core import console
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.distill_records import DistillRecord, HeldoutMlm, HeldoutVectors
from edgedistil.core.errors import (
    GateError,
    InputError,
    Interrupted,
    RunError,
    StorageError,
    TargetError,
)
from edgedistil.core.flag import command_arguments
from edgedistil.core.format import plural
from edgedistil.core.places import runs_root
from edgedistil.core.recipe import Recipe, parse_recipe, write_recipe
from edgedistil.core.records import provenance, read_record, text_sha256, write_record
from edgedistil.core.rundir import RunDir, checked_name, sha256_file
from edgedistil.core.search_records import (
    Candidate,
    SearchRecord,
    StudentScore,
    TrainedSearch,
    TrainedStudent,
)
from edgedistil.core.trim_records import TrimRecord
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.search.board import check_board
from edgedistil.search.halving import (
    Round,
    pareto,
    plan_rounds,
    select_students,
    sizes_label,
    sizes_of,
)
from edgedistil.search.stage import check_student, oldest_runtime, read_teacher_folder
from edgedistil.search_artefacts import ArtefactCheck, check_until_one_passes

RECORD = "search.json"
# The recipe, for the command that resumes a search.
RECIPE = "search.toml"
# A StudentScore, in the folder of the student's run.
_SCORE = "student_score.json"


@dataclass(frozen=True)
class _Plan:
    """What is trained, and how.

    Attributes:
        recipe: Teacher, text, objective and optimizer of every run.
        name: Beginning of the names of the runs, and folder of the result.
        search: Candidates, device and budget.
        rounds: Students and tokens of each round.
        tasks: Retrieval collections of the recipe by name, which judge sentence vectors.
        collections: Their texts and grades.
        collections_sha256: Digest of their texts and grades.
    """

    recipe: Recipe
    name: str
    search: SearchRecord
    rounds: list[Round]
    tasks: list[str]
    collections: list[Collection]
    collections_sha256: str

    @property
    def teacher_sizes(self) -> tuple[int, int, int]:
        """Units, heads and tokens of the teacher: the largest of all candidates."""
        candidates = self.search.candidates
        return (
            max(candidate.intermediate for candidate in candidates),
            max(candidate.heads for candidate in candidates),
            max(candidate.vocabulary for candidate in candidates),
        )


def train_search(
    recipe: Recipe, search: SearchRecord, options: SearchOptions
) -> tuple[RunDir, TrainedSearch]:
    """Trains the best candidates of a search, and exports the best student that meets the budget.

    Every student is a run of its own, so an interrupted search continues where it was.

    Args:
        recipe: Its student's sizes and its length are replaced by those of the search.
        search: The result of `search`.
        options: Number of students, tokens, and how the artefact is checked.
    Returns:
        The folder, and the record that is stored in it; `require_winner` checks it.
    Raises:
        InputError: No candidate may fit, the tokens are too few, or the recipe cannot be distilled.
        TargetError: The board cannot be reached, or cannot run the students.
    """
    plan = _plan(recipe, search, options)
    run = RunDir(runs_root() / plan.name)
    # Read before the new record replaces it.
    earlier = _earlier_search(run, search)
    # The recipe of the command that resumes the search.
    run.path.mkdir(parents=True, exist_ok=True)
    write_recipe(run.path / RECIPE, recipe)
    with _with_resume_hint(run, options):
        record = _train_and_check(plan, options, earlier)
    write_record(run.path / RECORD, record)
    return run, record


def _train_and_check(
    plan: _Plan, options: SearchOptions, earlier: TrainedSearch | None
) -> TrainedSearch:
    search = plan.search
    trained = _halve(plan, select_students(search.candidates, options.train or 1))
    return TrainedSearch(
        recipe=plan.recipe.name,
        teacher=search.teacher,
        device=search.device,
        length=search.length,
        threads=search.threads,
        budget=search.budget,
        metric=_metric(plan, trained[0]),
        tokens=sum(round_.students * round_.tokens for round_ in plan.rounds),
        rounds=len(plan.rounds),
        students=check_until_one_passes(
            list(_records(trained)), ArtefactCheck(search, options, earlier)
        ),
        provenance=provenance(),
    )


@contextmanager
def _with_resume_hint(run: RunDir, options: SearchOptions) -> Iterator[None]:
    """Adds the command that resumes the search to what can end it before it is done."""
    arguments = [str(run.path / RECIPE), *command_arguments(options)]
    command = console.command_line("search", *arguments)
    try:
        yield
    # A hint of the distillation itself would resume one of the students only.
    except Interrupted as error:
        raise Interrupted(error.message, hint=f"resume the search with: {command}") from error
    # During an evaluation, an export or a profile.
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint=f"resume the search with: {command}") from None
    except StorageError as error:
        # Its second line is the command of the student's own run.
        advice = (error.hint or "").partition("\n")[0]
        start = f"{advice}\n  then " if advice else ""
        raise StorageError(
            error.message, hint=f"{start}resume the search with: {command}"
        ) from error
    # The board was there before the training.
    except TargetError as error:
        advice = "" if error.hint is None else f"{error.hint}\n  "
        raise TargetError(
            error.message,
            hint=f"{advice}the students are trained; continue the search with: {command}",
        ) from error


def _earlier_search(run: RunDir, search: SearchRecord) -> TrainedSearch | None:
    """The stored result of a search with the same device, length and threads; None without one."""
    if not (run.path / RECORD).is_file():
        return None
    earlier = read_record(run.path / RECORD, TrainedSearch)
    # The budget may be another one: it is compared with the same figures.
    is_same = all(
        getattr(earlier, name) == getattr(search, name) for name in ("device", "length", "threads")
    )
    return earlier if is_same else None


def require_winner(record: TrainedSearch) -> None:
    """Raises GateError unless a student's artefact passed its gate and is within the budget."""
    if record.winner is not None:
        return
    failures = [f"{student.run}: {student.failure}" for student in record.students]
    raise GateError(
        f"no trained student meets the budget on {record.device}: {'; '.join(failures)}",
        hint="raise the limit, train more candidates with --train, or measure with --ssh: a "
        "predicted band must be below the limit completely",
    )


def _plan(recipe: Recipe, search: SearchRecord, options: SearchOptions) -> _Plan:
    from edgedistil.evaluate.retrieval.stage import is_retrieval, load_collections

    check_student(recipe)
    name = checked_name(options.run or f"{recipe.name}-search")
    if (runs_root() / name / "recipe.toml").exists():
        raise RunError(
            f"'{name}' is the run of a distillation", hint="name the search with --run NEW-NAME"
        )
    # Everything that can be refused is refused before the first student is trained.
    check_board(options, oldest_runtime=oldest_runtime(recipe))
    students = select_students(search.candidates, options.train or 1)
    if not students:
        raise InputError("no candidate may fit: there is nothing to train")
    tokens = options.tokens
    if tokens is None and recipe.train.tokens is None:
        raise InputError(
            "--train needs a token budget, and the recipe's length is not in tokens",
            hint="set --tokens, such as --tokens 4000000",
        )
    rounds = plan_rounds(len(students), tokens or len(students) * (recipe.train.tokens or 0))
    tasks = [task for task in recipe.evaluate.tasks if is_retrieval(task)]
    collections = load_collections(tasks)
    digest = text_sha256("\n".join(repr(collection) for collection in collections))
    return _Plan(recipe, name, search, rounds, tasks, collections, digest)


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trained:
    """One student after a round.

    Attributes:
        candidate: Its sizes.
        run: The run that trained it.
        record: Record of this distillation.
        round_: Number of the round, from 1.
        tokens: Its training tokens.
        score: Larger is better.
    """

    candidate: Candidate
    run: RunDir
    record: DistillRecord
    round_: int
    tokens: int
    score: float


def _halve(plan: _Plan, students: Sequence[Candidate]) -> list[_Trained]:
    """Returns every student after its last round: those of later rounds first, then by score."""
    ranking: list[_Trained] = []
    for number, round_ in enumerate(plan.rounds, start=1):
        console.say(
            f"round {number} of {len(plan.rounds)}: {plural(round_.students, 'student')}, "
            f"{round_.tokens:,} tokens each"
        )
        trained = [
            _train(plan, candidate, number, round_.tokens)
            for candidate in students[: round_.students]
        ]
        # The order decides who is in the next round.
        trained.sort(key=lambda student: -student.score)
        students = [student.candidate for student in trained]
        # A student's later round replaces its earlier one.
        sizes = set(map(sizes_of, students))
        ranking = trained + [s for s in ranking if sizes_of(s.candidate) not in sizes]
    return ranking


def _train(plan: _Plan, candidate: Candidate, number: int, tokens: int) -> _Trained:
    """Distils one student, or reads its finished run."""
    from edgedistil.distill.stage import distill

    name = checked_name(f"{plan.name}.{sizes_label(candidate)}.{tokens}")
    # The name says what decides the result, so that other budgets make other runs.
    recipe = candidate_recipe(plan.recipe, candidate, plan.teacher_sizes, tokens=tokens)
    run, record = distill(recipe, run_name=name, resume=(runs_root() / name).is_dir())
    score = _score(run, record, plan)
    console.say(f"{name}: {score:.4f}")
    return _Trained(candidate, run, record, number, tokens, score)


def candidate_recipe(
    recipe: Recipe, candidate: Candidate, teacher_sizes: tuple[int, int, int], *, tokens: int
) -> Recipe:
    """Returns a recipe with a candidate's sizes and a number of training tokens.

    Args:
        recipe: The recipe of the search.
        candidate: The sizes.
        teacher_sizes: Units, heads and tokens of the teacher, which need no keys.
        tokens: Length of the run.
    Raises:
        RecipeError: The recipe cannot have these sizes.
    """
    units, heads, vocabulary = teacher_sizes
    # A copy of the object would skip the checks of the sections.
    data = recipe.model_dump(mode="json", exclude_none=True)
    section = recipe.student.vocabulary
    trimmed = {"size": candidate.vocabulary, "text": section.text if section else None}
    data["student"] |= {
        "layers": _layers(recipe, candidate),
        "intermediate": _below(candidate.intermediate, units),
        "heads": _below(candidate.heads, heads),
        "embedding": candidate.embedding,
        "vocabulary": trimmed if candidate.vocabulary < vocabulary else None,
    }
    data["train"] |= {"tokens": tokens, "epochs": None, "steps": None}
    return parse_recipe(data, where=f"recipe '{recipe.name}' with the sizes of a candidate")


def _layers(recipe: Recipe, candidate: Candidate) -> list[int]:
    """The recipe's own layers where their number is right, otherwise evenly spread ones."""
    from edgedistil.models.student import alternate_layers

    # A recipe may name layers that its author knows to be good.
    layers = recipe.student.layers
    if layers != "alternate" and len(layers) == candidate.layers:
        return layers
    source = read_teacher_folder(recipe.teacher)
    return alternate_layers(source.family.layers(source.config), candidate.layers)


def _below(size: int, teacher: int) -> int | None:
    return size if size < teacher else None


# --- scores --------------------------------------------------------------------------------------


def _metric(plan: _Plan, trained: _Trained) -> str:
    if not isinstance(_heldout(trained.record), HeldoutVectors):
        return "minus the held-out masked-LM loss, nats for each token of the teacher"
    if plan.collections:
        return f"mean nDCG@10 of {', '.join(plan.tasks)}"
    return "rank correlation of held-out similarities with the teacher's"


def _score(run: RunDir, record: DistillRecord, plan: _Plan) -> float:
    heldout = _heldout(record)
    if isinstance(heldout, HeldoutMlm):
        # A smaller vocabulary has more tokens for the same text, each of them easier.
        growth = read_record(run.trim, TrimRecord).heldout.growth if run.trim.exists() else 1.0
        return -heldout.mlm_loss_nats * growth
    return _mean_ndcg(run, plan) if plan.collections else heldout.rank_correlation


def _heldout(record: DistillRecord) -> HeldoutMlm | HeldoutVectors:
    """The last held-out figures of the student."""
    return [figures for figures in record.heldout if figures.model == "student"][-1]


def _mean_ndcg(run: RunDir, plan: _Plan) -> float:
    from edgedistil.evaluate.retrieval.stage import student_ndcg

    # The teacher and the baselines, which `evaluate` scores too, decide nothing here. Encoding a
    # collection takes minutes: the same weights have the same score on the same texts.
    key = text_sha256(f"{plan.collections_sha256} {sha256_file(run.distill)}")
    file = run.path / _SCORE
    if file.is_file():
        stored = read_record(file, StudentScore)
        if stored.key == key:
            return stored.ndcg
    score = student_ndcg(run, plan.collections)
    write_record(file, StudentScore(key=key, ndcg=score))
    return score


# --- records -------------------------------------------------------------------------------------


def _records(trained: Sequence[_Trained]) -> Iterator[TrainedStudent]:
    for student in trained:
        # Students of other rounds had other numbers of tokens.
        of_round = [other for other in trained if other.round_ == student.round_]
        optimal = pareto([_costs(other) for other in of_round])
        yield TrainedStudent(
            run=student.run.name,
            candidate=student.candidate,
            round=student.round_,
            tokens=student.tokens,
            score=student.score,
            is_pareto=optimal[of_round.index(student)],
            distill_sha256=sha256_file(student.run.distill),
        )


def _costs(student: _Trained) -> tuple[float, ...]:
    """Error, bytes and time, of which less is better."""
    candidate = student.candidate
    return (-student.score, candidate.file_bytes.low, candidate.latency_ms.low)

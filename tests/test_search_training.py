"""Searches that train: small ones from the recipe to the artefact, and their verdicts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

import edgedistil
from edgedistil.cli import app
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.errors import (
    GateError,
    InputError,
    Interrupted,
    RecipeError,
    RunError,
    StorageError,
    TargetError,
)
from edgedistil.core.export_records import ExportRecord
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.recipe import Recipe, write_recipe
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.search_records import TrainedSearch
from edgedistil.distill import stage as distill_stage
from edgedistil.export import artefacts
from edgedistil.runtime.host import identity
from edgedistil.runtime.match import match_device
from edgedistil.search_training import RECORD, candidate_recipe, require_winner
from tests.distill.sentences import sentence_recipe, sentence_teacher
from tests.evaluate.retrieval.conftest import write_lines
from tests.fixtures.boards import Sshd, install_python
from tests.fixtures.tiny_distillation import WORDS

pytestmark = pytest.mark.usefixtures("own_cache")

Make = Callable[..., Recipe]


@pytest.fixture
def recipe(tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path) -> Recipe:
    teacher = sentence_teacher(tiny_teacher, tmp_path / "teacher")
    return sentence_recipe(tiny_recipe, teacher, export={"precisions": ["fp32"]})


def options(**changes: object) -> SearchOptions:
    settings = {"device": "rpi4", "under": ["40MB"], "length": 16, "train": 2, "tokens": 8000}
    return SearchOptions(**{**settings, **changes})  # type: ignore[arg-type]


def trained(recipe: Recipe, settings: SearchOptions) -> tuple[RunDir, TrainedSearch]:
    candidates = edgedistil.search(recipe, settings)
    return edgedistil.train_search(recipe, candidates, settings)


def test_a_search_trains_halves_and_ends_in_one_artefact(
    recipe: Recipe, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, record = trained(recipe, options())
    assert [student.round for student in record.students] == [2, 1]
    assert [student.tokens for student in record.students] == [4000, 2000]
    assert record.tokens == 8000
    # The student of the second round is the one with the better score in the first.
    winner = record.winner
    assert winner is record.students[0]
    assert winner.method == "predicted"
    # Two students that differ in more than their heads.
    assert [s.candidate.heads for s in record.students] == [2, 2]
    export = RunDir(runs / winner.run).export("student", "feature-extraction")
    assert (export / "onnx" / "model.onnx").is_file()
    assert read_record(export / "export.fp32.json", ExportRecord).target_device == "rpi4"
    # The teacher is not exported.
    assert [folder.name for folder in export.parent.iterdir()] == [export.name]
    assert record.students[1].failure is None
    # The folder has record, table and picture.
    assert read_record(folder.path / RECORD, TrainedSearch) == record
    page = (folder.path / "search.md").read_text()
    assert "| round |" in page
    assert page.count("within the budget") == 1
    picture = (folder.path / "search.svg").read_text()
    assert "var(" not in picture
    assert picture.startswith("<?xml")

    # Everything is done: the same command trains and exports nothing again, and says so.
    def written() -> dict[Path, int]:
        names = ("distill.json", "export.fp32.json", "model.onnx", "rpi4.predicted.json")
        files = [path for path in runs.rglob("*") if path.name in names]
        return {path: path.stat().st_mtime_ns for path in files}

    before = written()
    assert len(before) == 3 + 3
    capsys.readouterr()
    _, again = trained(recipe, options())
    assert again.students == record.students
    assert written() == before
    printed = capsys.readouterr()
    line = f"{winner.run}: its artefact passed before and is not exported again"
    assert line in printed.out + printed.err

    # Another budget is compared with the artefact that is there.
    _, other = trained(recipe, options(under=["39MB"]))
    after = written()
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed == {"rpi4.predicted.json"}
    assert other.winner is not None

    # An artefact that was changed is exported again.
    model = export / "onnx" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    _, repaired = trained(recipe, options())
    assert repaired.winner is not None
    assert repaired.winner.artefact_sha256 == winner.artefact_sha256


def limit_that_nothing_meets_for_sure(recipe: Recipe) -> str:
    """Limit within the band of the fastest student."""
    bands = [candidate.latency_ms for candidate in edgedistil.search(recipe, options()).candidates]
    fastest = min(bands, key=lambda band: band.high)
    return f"{(fastest.low + fastest.high) / 2:.6f}ms"


def test_a_band_around_the_limit_is_no_proof(recipe: Recipe, runs: Path) -> None:
    settings = options(under=[limit_that_nothing_meets_for_sure(recipe)], train=1)
    _, record = trained(recipe, settings)
    assert record.students[0].candidate.fit == "may fit"
    assert record.winner is None
    with pytest.raises(GateError, match=r"no trained student meets the budget on rpi4: .* ms"):
        require_winner(record)


def test_the_command_ends_with_3_without_a_winner(
    recipe: Recipe, runs: Path, tmp_path: Path
) -> None:
    write_recipe(tmp_path / "small.toml", recipe)
    limit = limit_that_nothing_meets_for_sure(recipe)
    arguments = ["search", str(tmp_path / "small.toml"), "--device", "rpi4", "--under", limit]
    arguments += ["--length", "16", "--train", "1", "--tokens", "2000"]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, GateError)
    assert done.exception.exit_code == 3
    assert (runs / "small-search" / RECORD).is_file()


def test_an_artefact_that_fails_its_gate_makes_way_for_the_next(
    recipe: Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_graph = artefacts.make_graph
    spoiled = []

    def spoil_the_first(*arguments: object) -> object:
        graph, advice = make_graph(*arguments)  # type: ignore[arg-type]
        if not spoiled:
            spoiled.append(enlarge_a_weight(graph.graph))
        return graph, advice

    monkeypatch.setattr(artefacts, "make_graph", spoil_the_first)
    _, record = trained(recipe, options())
    first, second = record.students
    assert "student feature-extraction fp32 failed the parity check" in (first.failure or "")
    assert first.latency_ms is None
    assert record.winner is second


def enlarge_a_weight(graph: ir.Graph) -> str:
    """Multiplies the first weight of a feed-forward, and returns its name."""
    name = next(name for name in graph.initializers if "lin1.weight" in name)
    value = graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.Tensor(value.const_value.numpy() * np.float32(1000), name=name)
    return name


def write_collection(folder: Path, answers: dict[str, str]) -> Path:
    """A BEIR folder in which every word is a document and a query."""
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [{"_id": word, "text": word} for word in answers])
    write_lines(folder / "queries.jsonl", [{"_id": word, "text": word} for word in answers])
    lines = "".join(f"{query}\t{document}\t1\n" for query, document in answers.items())
    (folder / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


def test_sentence_vectors_are_judged_by_the_collections_of_the_recipe(
    tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path, runs: Path
) -> None:
    words = WORDS[:30]
    own = write_collection(tmp_path / "own", {word: word for word in words})
    others = dict(zip(words, words[7:] + words[:7], strict=True))
    other = write_collection(tmp_path / "other", others)
    teacher = sentence_teacher(tiny_teacher, tmp_path / "teacher")
    recipe = sentence_recipe(
        tiny_recipe, teacher, export={"precisions": ["fp32"]}, evaluate={"tasks": [str(own)]}
    )
    _, record = trained(recipe, options(train=1, tokens=2000))
    assert record.metric == f"mean nDCG@10 of {own}"
    (student,) = record.students
    settings = EvaluateOptions(tasks=[str(own)], models=["student"])
    edgedistil.evaluate(student.run, settings)
    evaluation = json.loads((runs / student.run / "evaluation.json").read_text())
    (row,) = [row for row in evaluation["retrieval"] if row["model"] == "student"]
    assert student.score == row["metrics"]["ndcg@10"] > 0

    # Scores of other collections stay in the run's record, and do not count.
    settings = EvaluateOptions(tasks=[str(other)], models=["student"])
    both = edgedistil.evaluate(student.run, settings)[1].retrieval
    scores = {row.metrics["ndcg@10"] for row in both if row.model == "student"}
    assert len(scores) == 2
    record_file = runs / student.run / "student_score.json"
    before = record_file.stat().st_mtime_ns
    _, again = trained(recipe, options(train=1, tokens=2000))
    assert again.students[0].score == student.score
    # The same weights and texts are not encoded again; other texts are.
    assert record_file.stat().st_mtime_ns == before
    # A file that was edited by hand is named, with what to do.
    intact = record_file.read_text()
    record_file.write_text(intact.replace('"ndcg"', '"score"'))
    with pytest.raises(StorageError, match="not a valid StudentScore") as caught:
        trained(recipe, options(train=1, tokens=2000))
    assert caught.value.hint is not None and "the student is scored again" in caught.value.hint
    record_file.write_text(intact)
    write_lines(own / "corpus.jsonl", [{"_id": word, "text": others[word]} for word in words])
    _, changed = trained(recipe, options(train=1, tokens=2000))
    assert changed.students[0].score != student.score


def test_masked_lms_are_judged_by_their_held_out_loss(tiny_recipe: Make, runs: Path) -> None:
    recipe = tiny_recipe(student={"dropout": 0.0}, export={"precisions": ["fp32"]})
    _, record = trained(recipe, options(train=1, tokens=2000))
    assert record.metric.startswith("minus the held-out masked-LM loss")
    assert record.students[0].score < 0
    assert record.winner is not None


def test_sizes_of_a_candidate_become_keys_of_the_student(recipe: Recipe) -> None:
    candidate = edgedistil.search(recipe, options()).candidates[-1]
    assert (candidate.layers, candidate.heads, candidate.intermediate) == (1, 1, 44)
    narrow = candidate_recipe(recipe, candidate, (44, 2, candidate.vocabulary), tokens=5000)
    assert narrow.student.layers == [0]
    assert (narrow.student.heads, narrow.student.intermediate, narrow.student.vocabulary) == (
        1, None, None,
    )  # fmt: skip
    assert (narrow.train.tokens, narrow.train.steps) == (5000, None)
    smaller = candidate_recipe(recipe, candidate, (88, 2, 10**5), tokens=5000)
    assert smaller.student.intermediate == 44
    assert smaller.student.vocabulary is not None
    assert smaller.student.vocabulary.size == candidate.vocabulary


def test_the_recipe_of_a_candidate_is_checked_as_any_recipe(recipe: Recipe) -> None:
    candidate = edgedistil.search(recipe, options()).candidates[-1]
    further = recipe.student.model_copy(update={"init": "runs/earlier/student"})
    with pytest.raises(RecipeError, match="heads is set and init is"):
        candidate_recipe(
            recipe.model_copy(update={"student": further}),
            candidate,
            (44, 2, candidate.vocabulary),
            tokens=5000,
        )


def test_a_search_needs_a_token_budget(recipe: Recipe, runs: Path) -> None:
    candidates = edgedistil.search(recipe, options())
    with pytest.raises(InputError, match="--train needs a token budget"):
        edgedistil.train_search(recipe, candidates, options(tokens=None))


def test_a_run_of_a_distillation_is_not_overwritten(recipe: Recipe, runs: Path) -> None:
    candidates = edgedistil.search(recipe, options())
    (runs / "mine").mkdir(parents=True)
    (runs / "mine" / "recipe.toml").touch()
    with pytest.raises(RunError, match="'mine' is the run of a distillation"):
        edgedistil.train_search(recipe, candidates, options(run="mine"))


def own_device() -> str:
    """The device that a server on this machine is; any other one where no file matches."""
    spec = match_device(identity())
    return "rpi4" if spec is None else spec.name


def test_the_budget_is_checked_on_the_board(recipe: Recipe, runs: Path, quick: Sshd) -> None:
    settings = options(
        device=own_device(), under=["1s"], train=1, tokens=2000, ssh=quick.destination
    )
    _, record = trained(recipe, settings)
    (student,) = record.students
    assert student.method == "measured"
    assert isinstance(student.latency_ms, float)
    assert isinstance(student.memory_bytes, int)
    assert quick.leftovers() == []


def test_an_unreachable_board_is_found_before_training(recipe: Recipe, runs: Path) -> None:
    settings = options(ssh="me@127.0.0.1:9")
    candidates = edgedistil.search(recipe, settings)
    with pytest.raises(TargetError, match=r"no ssh server listens on this port") as error:
        edgedistil.train_search(recipe, candidates, settings)
    assert error.value.exit_code == 4
    assert not runs.exists() or not list(runs.iterdir())


def test_a_board_without_onnxruntime_is_found_before_training(
    recipe: Recipe, runs: Path, board: Sshd
) -> None:
    install_python(board, flags="-I -S")
    settings = options(ssh=board.destination)
    candidates = edgedistil.search(recipe, settings)
    with pytest.raises(TargetError, match="has no numpy and no onnxruntime") as error:
        edgedistil.train_search(recipe, candidates, settings)
    assert "--bootstrap" in str(error.value.hint)
    assert not runs.exists() or not list(runs.iterdir())


def test_an_interrupted_search_names_the_command_that_resumes_it(
    recipe: Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = options(train=1, tokens=2000, run="mine", under=["40MB", "1s"])
    candidates = edgedistil.search(recipe, settings)
    make_graph = artefacts.make_graph

    def interrupt(*_: object) -> object:
        raise KeyboardInterrupt

    # In the export, after the training.
    monkeypatch.setattr(artefacts, "make_graph", interrupt)
    with pytest.raises(Interrupted) as error:
        edgedistil.train_search(recipe, candidates, settings)
    start, command = str(error.value.hint).split(": ")
    assert start == "resume the search with"
    arguments = shlex.split(command)
    assert arguments[:2] == ["edgedistil", "search"]
    assert "--run" in arguments
    monkeypatch.setattr(artefacts, "make_graph", make_graph)
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/distill.json")}
    assert CliRunner().invoke(app, arguments[1:]).exit_code == 0
    assert read_record(runs / "mine" / RECORD, TrainedSearch).winner is not None
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/distill.json")} == before


def test_an_interruption_of_a_distillation_resumes_the_search(
    recipe: Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> object:
        raise Interrupted("interrupted", hint="resume with: edgedistil distill")

    monkeypatch.setattr(distill_stage, "distill", interrupt)
    settings = options(train=1, tokens=2000)
    with pytest.raises(Interrupted) as error:
        edgedistil.train_search(recipe, edgedistil.search(recipe, settings), settings)
    assert "edgedistil search" in str(error.value.hint)
    assert "edgedistil distill" not in str(error.value.hint)


def test_word_embeddings_of_a_candidate_are_factorised(recipe: Recipe, runs: Path) -> None:
    settings = options(train=1, tokens=2000, keep=["embedding"])
    section = recipe.student.model_copy(update={"embedding": 7})
    _, record = trained(recipe.model_copy(update={"student": section}), settings)
    (student,) = record.students
    assert student.candidate.embedding == 7
    assert student.run.endswith("x7.2000")
    config = json.loads((runs / student.run / "student" / "config.json").read_text())
    assert config["embedding_rank"] == 7
    assert record.winner is not None
    # What shapes predict is what was written.
    assert student.file_bytes is not None
    assert student.candidate.file_bytes.low <= student.file_bytes
    assert student.file_bytes <= student.candidate.file_bytes.high


def test_a_board_that_is_lost_after_the_training_costs_no_training(
    recipe: Recipe, runs: Path, quick: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = options(device=own_device(), train=1, tokens=2000, ssh=quick.destination)
    candidates = edgedistil.search(recipe, settings)
    publish = artefacts.make_graph

    def unplug(*arguments: object) -> object:
        (quick.bin / "python3").unlink()
        return publish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(artefacts, "make_graph", unplug)
    with pytest.raises(TargetError) as error:
        edgedistil.train_search(recipe, candidates, settings)
    assert error.value.exit_code == 4
    *_, last = str(error.value.hint).split("\n")
    assert "the students are trained; continue the search with: edgedistil search" in last
    assert f"--ssh {quick.destination}" in last

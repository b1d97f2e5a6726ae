"""`distill` from end to end on a small recipe: outputs, resuming, and errors."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertModel, pipeline

from edgedistil.core.digests import require_unchanged
from edgedistil.core.distill_records import CorpusRecord, DistillRecord
from edgedistil.core.errors import InputError, ModelError, OfflineError, RunError, StorageError
from edgedistil.core.recipe import Recipe, load_recipe
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir, open_run
from edgedistil.distill.stage import distill
from edgedistil.report.distill_tables import describe_initialization

Make = Callable[..., Recipe]
TRACED = (
    "step",
    "loss",
    "soft_target",
    "mlm",
    "cosine",
    "gradient_norm",
    "learning_rate",
    "tokens",
)


def trace(run: RunDir) -> list[list[Any]]:
    """The figures of each step that do not depend on the machine's speed."""
    steps = []
    for line in run.metrics.read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "train":
            steps.append([entry[key] for key in TRACED])
    return steps


def heldout(run: RunDir) -> list[Any]:
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == "heldout"]


def test_the_contents_of_a_run(tiny_recipe: Make, runs: Path) -> None:
    recipe = tiny_recipe()
    run, record = distill(recipe, run_name=None, resume=False)
    assert load_recipe(run.recipe) == recipe
    assert read_record(run.distill, DistillRecord) == record
    assert read_record(run.corpus, CorpusRecord).sources[0].documents > 500
    assert open_run("latest") == run
    assert (
        len(run.heldout_text.read_text().splitlines())
        == read_record(run.corpus, CorpusRecord).heldout_documents
    )
    assert record.steps == 11
    assert record.layer_map == [0, 3]
    assert [(h.model, h.step) for h in record.heldout] == [
        ("teacher", 0),
        ("student", 0),
        ("student", 11),
    ]
    assert len({h.masked_tokens for h in record.heldout}) == 1
    assert record.tokens_seen == 11 * 6 * 23
    for folder in (run.teacher, run.student, run.student_step0):
        AutoModelForMaskedLM.from_pretrained(folder)
        assert len(AutoTokenizer.from_pretrained(folder)) == 82


# --- damaged files of a run ----------------------------------------------------------------------


def flip_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    # Unlinked first: the teacher's files are hard links.
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["teacher", "student", "student-step0"])
def test_damaged_weights_of_a_run_are_named(tiny_recipe: Make, runs: Path, name: str) -> None:
    run, record = distill(tiny_recipe(train={"steps": 1}), run_name=None, resume=False)
    folders = {"teacher": run.teacher, "student": run.student, "student-step0": run.student_step0}
    assert set(record.files) > {f"{name}/model.safetensors", f"{name}/tokenizer.json"}
    require_unchanged(run, folders.values())
    flip_one_bit(folders[name] / "model.safetensors")
    with pytest.raises(RunError, match=rf"{name}/model\.safetensors was changed"):
        require_unchanged(run, [folders[name]])
    others = [folder for other, folder in folders.items() if other != name]
    require_unchanged(run, others)


def test_a_run_does_not_continue_with_a_damaged_teacher(tiny_recipe: Make, runs: Path) -> None:
    recipe = tiny_recipe(train={"steps": 1})
    run, _ = distill(recipe, run_name=None, resume=False)
    run.distill.unlink()
    flip_one_bit(run.teacher / "model.safetensors")
    with pytest.raises(RunError, match=r"teacher/model\.safetensors was changed(.|\n)*restore it"):
        distill(recipe, run_name=None, resume=True)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\0"])
def test_a_corrupt_record_names_the_way_out_and_it_works(
    tiny_recipe: Make, runs: Path, content: str
) -> None:
    recipe = tiny_recipe(train={"steps": 2})
    run, record = distill(recipe, run_name="mine", resume=False)
    run.distill.write_text(content)
    advice = r"remove it and continue from the last checkpoint: edgedistil distill .*recipe\.toml"
    with pytest.raises(StorageError, match=advice):
        distill(recipe, run_name="mine", resume=True)
    run.distill.unlink()
    _, again = distill(recipe, run_name="mine", resume=True)
    assert again.student == record.student
    assert again.files == record.files


def test_a_trace_without_its_first_evaluations_is_not_a_result(
    tiny_recipe: Make, runs: Path
) -> None:
    recipe = tiny_recipe(train={"steps": 2})
    run, _ = distill(recipe, run_name="mine", resume=False)
    run.distill.unlink()
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join(lines[1:]))
    with pytest.raises(StorageError, match="no held-out evaluation of the teacher at step 0"):
        distill(recipe, run_name="mine", resume=True)


# --- students of students ------------------------------------------------------------------------


def test_a_run_keeps_the_teacher_from_before_its_head_was_fitted(
    tiny_recipe: Make, tiny_teacher: Path, runs: Path, tmp_path: Path
) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(tiny_teacher, headless)
    BertModel.from_pretrained(tiny_teacher).save_pretrained(headless)
    fit = {"steps": 3, "encoder_rate": 0.05}
    section = {"source": str(headless), "mlm_head": "fit", "fit": fit}
    run, record = distill(tiny_recipe(teacher=section), run_name=None, resume=False)
    linked, fitted = (
        BertModel.from_pretrained(folder).encoder.state_dict()
        for folder in (run.teacher_as_given, run.teacher)
    )
    original = BertModel.from_pretrained(headless).encoder.state_dict()
    assert all(torch.equal(linked[name], original[name]) for name in original)
    # The reason to keep it: fitting a head may train the encoder too.
    assert not all(torch.equal(fitted[name], original[name]) for name in original)
    # The student starts from the teacher as given.
    student = AutoModelForMaskedLM.from_pretrained(run.student_step0).distilbert
    for layer, source in zip(student.transformer.layer, (0, 3), strict=True):
        name = f"layer.{source}.attention.self.query.weight"
        assert torch.equal(layer.attention.q_lin.weight, original[name])
    assert "teacher-as-given/model.safetensors" in record.files
    assert "teacher-as-given/model.safetensors" in json.loads(run.initial_digests.read_text())


def test_a_teacher_with_a_head_is_not_stored_twice(tiny_recipe: Make, runs: Path) -> None:
    run, _ = distill(tiny_recipe(train={"steps": 1}), run_name=None, resume=False)
    assert run.teachers == (run.teacher,)


def test_the_record_has_the_student_that_a_run_began_with(tiny_recipe: Make, runs: Path) -> None:
    first, record = distill(tiny_recipe(train={"steps": 2}), run_name="first", resume=False)
    assert describe_initialization(record) == "student layers initialized from teacher layers 0, 3"
    further = tiny_recipe(train={"steps": 2}, student={"init": str(first.student)})
    _, record = distill(further, run_name="further", resume=False)
    assert describe_initialization(record) == f"student initialized from {first.student}"
    assert record.heldout[1].mlm_loss_nats == pytest.approx(_student_now(first), abs=1e-6)


def _student_now(run: RunDir) -> float:
    return read_record(run.distill, DistillRecord).heldout[-1].mlm_loss_nats


def test_the_saved_student_fills_masks(tiny_recipe: Make, runs: Path) -> None:
    """A DistilBERT takes no token types, so its tokenizer must not return any."""
    run, _ = distill(tiny_recipe(train={"steps": 2}), run_name="fills", resume=False)
    fill = pipeline("fill-mask", model=str(run.student))
    assert len(fill("worda1 [MASK] worda3")) == 5


def test_a_student_with_all_layers_starts_as_the_teacher(tiny_recipe: Make, runs: Path) -> None:
    _, record = distill(
        tiny_recipe(student={"layers": [0, 1, 2, 3]}, train={"steps": 1}),
        run_name=None,
        resume=False,
    )
    before = record.heldout[1]
    assert before.agreement == 1.0
    assert before.kl_nats == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_bit_for_bit(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """SIGKILL at several moments, also during a checkpoint; the trace is an undisturbed run's."""
    settings = {"steps": 60, "evaluate_every": 20, "checkpoint_minutes": 1e-9}
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(1)  # as in the processes below: sums over other threads round otherwise
    alone, _ = distill(
        tiny_recipe(train={**settings, "checkpoint_minutes": 9.0}), run_name="alone", resume=False
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["edgedistil.distill.stage"])
    moments = random.Random(time.time_ns())
    killed = RunDir(runs / "killed")
    goals = sorted(moments.sample(range(1, 55), 3))
    kills = 0
    for goal in goals:
        child = context.Process(
            target=distill,
            args=(tiny_recipe(train=settings),),
            kwargs={"run_name": "killed", "resume": True},
        )
        child.start()
        while child.is_alive() and (not killed.metrics.exists() or len(trace_lines(killed)) < goal):
            time.sleep(0.002)
        time.sleep(moments.random() * 0.05)
        child.kill()
        child.join()
        kills += child.exitcode == -9
    distill(tiny_recipe(train=settings), run_name="killed", resume=True)
    assert kills == 3
    assert trace(killed) == trace(alone), f"kills at {goals}"
    assert heldout(killed) == heldout(alone)
    one, two = (
        AutoModelForMaskedLM.from_pretrained(r.student).state_dict() for r in (alone, killed)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list(killed.checkpoints.glob(".*"))


def trace_lines(run: RunDir) -> list[str]:
    return [
        line for line in run.metrics.read_text().splitlines() if line.startswith('{"kind": "train"')
    ]


def test_a_finished_run_is_returned_as_it_is(
    tiny_recipe: Make, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(train={"steps": 2})
    run, record = distill(recipe, run_name=None, resume=False)
    before = run.student.stat().st_mtime_ns
    again, same = distill(recipe, run_name=None, resume=True)
    assert (again, same) == (run, record)
    assert run.student.stat().st_mtime_ns == before
    assert "run small is finished already" in capsys.readouterr().err


def test_an_existing_name_is_rejected_and_the_run_unchanged(tiny_recipe: Make, runs: Path) -> None:
    run, record = distill(tiny_recipe(train={"steps": 2}), run_name=None, resume=False)
    with pytest.raises(RunError, match="run 'small' already exists") as caught:
        distill(tiny_recipe(train={"steps": 3}), run_name=None, resume=False)
    assert caught.value.exit_code == 2
    with pytest.raises(RunError, match=r"was started with another recipe: train.steps 2 → 3"):
        distill(tiny_recipe(train={"steps": 3}), run_name=None, resume=True)
    assert read_record(run.distill, DistillRecord) == record


def test_a_changed_corpus_is_rejected(
    tiny_recipe: Make, runs: Path, tmp_path: Path, tiny_text: Path
) -> None:
    text = tmp_path / "own.txt"
    text.write_text(tiny_text.read_text())
    recipe = tiny_recipe(corpus={"sources": [{"files": str(text)}]}, train={"steps": 2})
    run, _ = distill(recipe, run_name=None, resume=False)
    run.distill.unlink()  # as if it had not finished
    text.write_text(text.read_text() + "worda1 worda2\n" * 50)
    with pytest.raises(RunError, match="the corpus of run 'small' has changed"):
        distill(recipe, run_name=None, resume=True)


def test_trackers_get_the_trace(tiny_recipe: Make, runs: Path) -> None:
    run, _ = distill(
        tiny_recipe(train={"steps": 2, "trackers": ["tensorboard"]}), run_name=None, resume=False
    )
    assert list(run.path.rglob("events.out.tfevents*"))


def test_lines_and_rarity_masking_of_compressed_text(
    tiny_recipe: Make, runs: Path, tmp_path: Path, tiny_text: Path
) -> None:
    (tmp_path / "text.txt.zst").write_bytes(zstandard.compress(tiny_text.read_bytes()))
    sources = [{"files": str(tmp_path / "*.zst"), "licence": "our own"}]
    recipe = tiny_recipe(
        corpus={"layout": "lines", "sources": sources},
        masking={"kind": "rarity"},
        loss={"positions": "masked"},
        train={"steps": 2},
    )
    _, record = distill(recipe, run_name=None, resume=False)
    assert record.steps == 2


def test_bfloat16(tiny_recipe: Make, runs: Path) -> None:
    exact, _ = distill(tiny_recipe(), run_name="exact", resume=False)
    rough, record = distill(
        tiny_recipe(train={"precision": "bfloat16"}), run_name="rough", resume=False
    )
    assert record.precision == "bfloat16"
    for one, two in zip(trace(exact), trace(rough), strict=True):
        assert two[1] == pytest.approx(one[1], rel=0.03)
    assert trace(exact) != trace(rough)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"student": {"layers": [0, 4]}},
            ModelError,
            "student.layers [0, 4]: the teacher has no layer 4",
        ),
        (
            {"corpus": {"block_length": 68}},
            ModelError,
            "corpus.block_length is 68; the teacher has positions for 67 tokens",
        ),
        (
            {"train": {"precision": "float16"}},
            InputError,
            'train.precision = "float16" needs a GPU',
        ),
        ({"train": {"trackers": ["tensorbord"]}}, InputError, "unknown tracker 'tensorbord'"),
        ({"train": {"trackers": ["wandb"]}}, InputError, "tracker 'wandb' is not installed"),
        (
            {"teacher": {"source": "no-owner/no-model"}},
            OfflineError,
            "cannot download model 'no-owner/no-model'",
        ),
    ],
)
def test_bad_input_is_reported_and_leaves_no_files(
    tiny_recipe: Make,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type[InputError],
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "precision" in str(change) and torch.cuda.is_available():
        pytest.skip("a GPU computes float16")
    with pytest.raises(error) as caught:
        distill(tiny_recipe(**change), run_name=None, resume=False)
    assert message in caught.value.message
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert not (runs / "small").exists()


def test_a_disk_that_fills_up_while_it_trains(tiny_recipe: Make, runs: Path) -> None:
    """Files are limited to 100 kB: the student's weights fit, the optimizer's moments do not."""
    recipe = tiny_recipe(train={"steps": 3, "checkpoint_minutes": 1e-9})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*step-00000001") as caught:
            distill(recipe, run_name=None, resume=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = RunDir(runs / "small")
    assert caught.value.exit_code == 1
    assert f"then resume with: edgedistil distill {run.recipe} --run small --resume" in (
        caught.value.hint or ""
    )
    _, record = distill(recipe, run_name=None, resume=True)
    assert record.steps == 3
    assert [entry[0] for entry in trace(run)] == [1, 2, 3]


def test_another_precision_is_rejected(tiny_recipe: Make, runs: Path) -> None:
    """`auto` may resolve to another precision on another machine."""
    run, _ = distill(tiny_recipe(train={"steps": 2}), run_name=None, resume=False)
    run.distill.unlink()  # as if it had not finished
    with pytest.raises(
        RunError,
        match=r"was computed in float32 up to .*step-00000002, and would continue in bfloat16",
    ):
        distill(
            tiny_recipe(train={"steps": 2, "precision": "bfloat16"}), run_name=None, resume=True
        )


def test_two_processes_cannot_work_on_one_run(tiny_recipe: Make, runs: Path) -> None:
    runs.mkdir()
    with (runs / ".small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is distilling into run 'small'"):
            distill(tiny_recipe(), run_name=None, resume=False)


@pytest.mark.parametrize("finished", [False, True])
def test_a_resume_changes_the_recipe_of_an_interrupted_run_alone(
    tiny_recipe: Make, runs: Path, finished: bool
) -> None:
    recipe = tiny_recipe(train={"steps": 2})
    run, record = distill(recipe, run_name=None, resume=False)
    other = tiny_recipe(train={"steps": 2, "keep_checkpoints": 7})
    if not finished:
        run.distill.unlink()
    before = run.recipe.read_bytes()
    with (runs / ".small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is distilling into run 'small'"):
            distill(other, run_name=None, resume=True)
    assert run.recipe.read_bytes() == before
    _, again = distill(other, run_name=None, resume=True)
    # The record has the digest of the run's recipe.
    assert load_recipe(run.recipe) == (recipe if finished else other)
    assert again.recipe_sha256 == load_recipe(run.recipe).sha256
    assert (again == record) is finished


def test_an_unwritable_folder(
    tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEDISTIL_RUNS", str(tmp_path / "file" / "runs"))
    with pytest.raises(StorageError, match="cannot write"):
        distill(tiny_recipe(), run_name=None, resume=False)

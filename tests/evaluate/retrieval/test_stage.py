"""`evaluate --task` with a BEIR folder: models, baseline and modes on a small collection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertModel

from edgedistil.core.errors import InputError, TaskError
from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir, create_run
from edgedistil.evaluate.retrieval import searches, stage
from edgedistil.evaluate.retrieval.embedders import static_embedder, torch_embedder
from edgedistil.evaluate.retrieval.ranking import METRICS, RetrievalScores
from edgedistil.evaluate.retrieval.stage import is_retrieval
from edgedistil.evaluate.stage import evaluate
from edgedistil.evaluate.untrimmed import has_untrimmed_run

from .conftest import WORDS, save_model


def test_models_and_baseline_are_scored(run: RunDir, collection: Path) -> None:
    options = EvaluateOptions(tasks=[str(collection)], models=["teacher", "student"])
    record = evaluate(run, options)
    by_model = {score.model: score for score in record.retrieval}
    names = ["teacher", "student", "student in teacher's index", "student-step0", "static"]
    assert list(by_model) == names
    for score in by_model.values():
        assert (score.collection, score.queries, score.documents) == ("birds", 3, 4)
        assert 0 <= score.low <= score.metrics["ndcg@10"] <= score.high <= 1
        assert score.metrics["recall@100"] == 1, "all four documents are among the first hundred"
    assert by_model["teacher"].retention == 1
    student, teacher = by_model["student"], by_model["teacher"]
    assert student.retention == pytest.approx(
        student.metrics["ndcg@10"] / teacher.metrics["ndcg@10"]
    )
    # Words in common find the right document, even with random word vectors.
    assert by_model["static"].metrics["ndcg@10"] == 1
    assert read_record(run.evaluation, EvaluationRecord) == record


def test_a_teacher_that_finds_nothing_is_no_reference(
    run: RunDir, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four documents are always among the first ten.
    nothing = {metric: np.zeros(3) for metric in METRICS}
    monkeypatch.setattr(
        searches, "score_vectors", lambda *_: RetrievalScores(("q1", "q2", "q3"), nothing)
    )
    options = EvaluateOptions(tasks=[str(collection)], models=["teacher", "student"])
    with pytest.raises(TaskError, match="birds: teacher ranks no relevant document"):
        evaluate(run, options)


def test_other_results_of_the_run_stay(run: RunDir, collection: Path) -> None:
    evaluate(run, EvaluateOptions(tasks=[str(collection)], models=["student"]))
    other = collection.rename(collection.with_name("mosses"))
    record = evaluate(run, EvaluateOptions(tasks=[str(other)], models=["student"]))
    assert {score.collection for score in record.retrieval} == {"birds", "mosses"}


def test_the_student_is_compared_with_what_it_was_before(run: RunDir, collection: Path) -> None:
    record = evaluate(run, EvaluateOptions(tasks=[str(collection)], models=["student"]))
    scores = {score.model: score.metrics["ndcg@10"] for score in record.retrieval}
    compared = {row.other: row for row in record.retrieval_differences}
    assert set(compared) == {"student-step0", "static"}
    for other, row in compared.items():
        assert row.difference == pytest.approx(scores["student"] - scores[other])
        assert row.low <= row.difference <= row.high


def test_texts_that_are_cut_are_counted(run: RunDir, collection: Path) -> None:
    long = {"_id": "d5", "text": "moss " * 31}
    with (collection / "corpus.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    record = evaluate(run, EvaluateOptions(tasks=[str(collection)], models=["student"]))
    notes = record.retrieval[0].notes
    # 32 positions with [CLS] and [SEP].
    assert any(
        note.startswith("student cuts 0 of 3 queries and 1 of 5 documents") for note in notes
    )


def test_graded_pairs_are_scored_alone(run: RunDir, tmp_path: Path) -> None:
    lines = [f"gull {word}\tsea\t{grade}\n" for grade, word in enumerate(WORDS * 2)]
    (tmp_path / "sts.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join(lines))
    task = f"sts:{tmp_path / 'sts.tsv'}"
    record = evaluate(run, EvaluateOptions(tasks=[task], models=["student"]))
    assert [score.model for score in record.pairs] == [
        "teacher",
        "student",
        "student-step0",
        "static",
    ]
    for score in record.pairs:
        assert (score.name, score.pairs) == ("sts", 16)
        assert score.spearman_low <= score.spearman <= score.spearman_high
    assert record.retrieval == []


def write_recipe(run: RunDir, *, seed: int, steps: int = 3, size: int | None = None) -> None:
    sources = '[[corpus.sources]]\nasset = "bible"\n'
    run.recipe.write_text(
        f'name = "x"\nseed = {seed}\n[teacher]\nsource = "asset:minilm"\n[train]\n'
        f"steps = {steps}\n{sources}"
        + (f"[student]\nvocabulary = {{ size = {size} }}\n" if size is not None else "")
    )


def test_students_of_other_seeds_make_one_model_with_an_interval_over_both(
    run: RunDir, collection: Path, runs: Path
) -> None:
    write_recipe(run, seed=1)
    for number in (2, 3):
        other = create_run(f"seed{number}")
        save_model(other.student, layers=1, seed=10 + number)
        write_recipe(other, seed=number)
    options = EvaluateOptions(
        tasks=[str(collection)], models=["student"], seed_runs=["seed2", "seed3"]
    )
    record = evaluate(run, options)
    by_model = {score.model: score for score in record.retrieval}
    assert by_model["student"].seeds == 3 and by_model["teacher"].seeds == 1
    assert "3 distillations" in by_model["student"].interval
    write_recipe(create_run("seed3", resume=True), seed=2)
    with pytest.raises(InputError, match="'seed3' has the seed 2 of another run"):
        evaluate(run, options)
    write_recipe(create_run("seed3", resume=True), seed=3, steps=4)
    with pytest.raises(InputError, match=r"'seed3' has another recipe than .*: train\.steps"):
        evaluate(run, options)
    with pytest.raises(InputError, match="add --task retrieval"):
        evaluate(run, EvaluateOptions(tasks=["sentiment"], seed_runs=["seed2"]))


def test_a_trimmed_run_has_the_baselines_that_did_one_thing_only(
    run: RunDir, collection: Path, runs: Path
) -> None:
    write_recipe(run, seed=1, size=99)
    save_model(run.teacher_trimmed, layers=2, seed=5)
    other = create_run("complete")
    save_model(other.student, layers=1, seed=11)
    write_recipe(other, seed=1)
    options = EvaluateOptions(tasks=[str(collection)], models=["student"])
    names = {score.model for score in evaluate(run, options).retrieval}
    assert "teacher-trimmed" in names
    assert "student-untrimmed" not in names
    evaluate(run, replace(options, untrimmed_run="complete"))
    # The name stays in the run, so the next evaluation has the row too.
    record = evaluate(run, options)
    scores = {score.model: score for score in record.retrieval}
    assert {"teacher-trimmed", "student-untrimmed"} <= set(scores)
    own = torch_embedder("student", other.student).embed(["gull"], "query")
    assert not np.allclose(own, torch_embedder("student", run.student).embed(["gull"], "query"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 1, "steps": 4}, r"is not the recipe of .*: train\.steps"),
        ({"seed": 2}, r"is not the recipe of .*: seed"),
    ],
)
def test_an_untrimmed_run_differs_in_the_vocabulary_alone(
    changes: dict[str, int], problem: str, run: RunDir, collection: Path, runs: Path
) -> None:
    options = EvaluateOptions(tasks=[str(collection)], untrimmed_run="complete")
    with pytest.raises(InputError, match="did not trim its vocabulary"):
        evaluate(run, options)
    write_recipe(run, seed=1, size=99)
    save_model(run.teacher_trimmed, layers=2, seed=5)
    other = create_run("complete")
    save_model(other.student, layers=1, seed=11)
    write_recipe(other, **changes)
    with pytest.raises(InputError, match=problem):
        evaluate(run, options)
    assert not has_untrimmed_run(run)
    write_recipe(other, seed=1)
    save_model(other.teacher_trimmed, layers=2, seed=5)
    with pytest.raises(InputError, match="it trims, too"):
        evaluate(run, options)


def test_an_embedder_pools_real_tokens_only(run: RunDir) -> None:
    embedder = torch_embedder("student", run.student)
    together = embedder.embed(["gull", "gull sea harbour letter"], "query")
    alone = embedder.embed(["gull"], "query")
    np.testing.assert_allclose(together[0], alone[0], atol=1e-6)


def test_static_vectors_weigh_rare_words_more(run: RunDir) -> None:
    texts = ["gull gull gull gull sea"]
    embed = static_embedder(run.teacher, texts).embed
    gull, sea = embed(["gull"], "query")[0], embed(["sea"], "query")[0]
    table = BertModel.from_pretrained(run.teacher).get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(gull, table[5] * 1e-3 / (1e-3 + 0.8), rtol=1e-5)
    np.testing.assert_allclose(sea, table[6] * 1e-3 / (1e-3 + 0.2), rtol=1e-5)


def test_names_of_collections(collection: Path) -> None:
    assert is_retrieval("retrieval") and is_retrieval("retrieval:verses")
    assert is_retrieval(str(collection)) and not is_retrieval("sentiment")


def test_an_unknown_collection(run: RunDir) -> None:
    with pytest.raises(TaskError, match="did you mean 'code'"):
        evaluate(run, EvaluateOptions(tasks=["retrieval:cod"]))


def test_names_are_checked_without_reading_a_package(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "load_packaged", lambda name: pytest.fail(f"read {name}"))
    stage.check_collections(["retrieval", "retrieval:manual", str(collection)])
    monkeypatch.undo()
    with pytest.raises(TaskError, match="unknown retrieval collection 'manuel'"):
        stage.check_collections(["retrieval:manuel"])

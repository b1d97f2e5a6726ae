"""Runs with a trimmed vocabulary: teacher, corpus and student have the same tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgedistil.core.distill_records import CorpusRecord
from edgedistil.core.errors import InputError, RecipeError, RunError
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir, read_json
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.trim_records import TrimRecord
from edgedistil.distill import initialize
from edgedistil.distill.plan import timing
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.stage import distill
from edgedistil.models.teacher import read_teacher
from tests.distill.sentences import DIMENSION, HIDDEN, sentence_recipe, sentence_teacher
from tests.fixtures.tiny_distillation import WORDS

Make = Callable[..., Recipe]
# Five special tokens, 77 words and their characters.
SIZE = 60


@pytest.fixture
def spelled_teacher(tiny_teacher: Path, tmp_path: Path) -> Path:
    """The small teacher with tokens for single characters, so that words can go."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    characters = sorted(set("".join(WORDS)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    tokens += [f"##{character}" for character in characters] + WORDS
    folder = tmp_path / "spelled"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    BertWordPieceTokenizer(str(folder / "vocab.txt")).save(str(folder / "tokenizer.json"))
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig.from_pretrained(tiny_teacher)
    config.vocab_size = len(tokens)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_a_run_trains_on_the_tokens_that_stay(
    spelled_teacher: Path, tiny_recipe: Make, runs: Path
) -> None:
    recipe = tiny_recipe(
        teacher={"source": str(spelled_teacher)},
        student={"vocabulary": {"size": SIZE}},
        train={"steps": 2},
    )
    run, record = distill(recipe, run_name="trimmed", resume=False)
    full = read_tokenizer(spelled_teacher)
    assert (record.teacher.vocabulary, record.student.vocabulary) == (full.size, SIZE)
    assert read_record(run.corpus, CorpusRecord).vocabulary == SIZE
    # The run's teacher is complete; the trimmed one has the student's tokens.
    assert read_tokenizer(run.teacher).size == full.size
    student, trimmed = read_tokenizer(run.student), read_tokenizer(run.teacher_trimmed)
    assert student.backend.get_vocab() == trimmed.backend.get_vocab()
    trim = read_record(run.trim, TrimRecord)
    assert trim.counted_on == "the corpus"
    assert trim.heldout.unknown_after == trim.heldout.unknown_before == 0
    assert trim.heldout.tokens_after > trim.heldout.tokens_before
    # The teacher's logits of the tokens that stay are those of the complete teacher.
    assert trim.proof.max_abs <= trim.proof.tolerance
    rows = read_teacher(run.teacher_trimmed, name="t").model.get_input_embeddings().weight
    complete = read_teacher(run.teacher, name="t").model.get_input_embeddings().weight
    assert torch.equal(rows, complete[trim.old_ids])
    # Evaluated on the same tokens, it agrees with itself.
    assert [h.agreement for h in record.heldout if h.model == "teacher"] == [1.0]


def test_a_run_that_trims_is_resumed_with_the_same_tokens(
    spelled_teacher: Path, tiny_recipe: Make, runs: Path
) -> None:
    recipe = tiny_recipe(
        teacher={"source": str(spelled_teacher)},
        student={"vocabulary": {"coverage": 0.8}},
        train={"steps": 2},
    )
    run, first = distill(recipe, run_name="resumed", resume=False)
    run.distill.unlink()
    shutil.rmtree(run.student)
    _, again = distill(recipe, run_name="resumed", resume=True)
    assert again.student.weights_sha256 == first.student.weights_sha256


def test_a_changed_module_of_the_teacher_is_not_read_from_the_cache(
    spelled_teacher: Path, tiny_recipe: Make, runs: Path, tmp_path: Path
) -> None:
    folder = sentence_teacher(spelled_teacher, tmp_path / "sentences")
    recipe = sentence_recipe(
        tiny_recipe, folder, student={"vocabulary": {"size": SIZE}}, train={"steps": 1}
    )
    first, _ = distill(recipe, run_name="first", resume=False)
    # The next run reads the cached copy of the first one.
    cached, _ = distill(recipe, run_name="cached", resume=False)
    weights = "2_Dense/model.safetensors"
    assert (cached.teacher_trimmed / weights).samefile(first.teacher_trimmed / weights)
    torch.manual_seed(12)
    changed = {"linear.weight": torch.randn(DIMENSION, HIDDEN), "linear.bias": torch.randn(19)}
    save_file(changed, folder / weights)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("mean", "cls"))
    second, _ = distill(recipe, run_name="second", resume=False)
    for name in (weights, "1_Pooling/config.json"):
        assert (second.teacher_trimmed / name).read_bytes() == (folder / name).read_bytes()
        assert (first.teacher_trimmed / name).read_bytes() != (folder / name).read_bytes()


def test_a_trimmed_run_with_stated_prompts_is_resumed_with_the_same_teacher(
    spelled_teacher: Path, tiny_recipe: Make, runs: Path, tmp_path: Path
) -> None:
    folder = sentence_teacher(spelled_teacher, tmp_path / "sentences")
    (folder / "config_sentence_transformers.json").unlink()
    recipe = sentence_recipe(
        tiny_recipe,
        folder,
        teacher={"source": str(folder), "query_prompt": "worda1 ", "document_prompt": "wordb2 "},
        student={"vocabulary": {"size": SIZE}},
        train={"steps": 2},
    )
    run, first = distill(recipe, run_name="resumed", resume=False)
    run.distill.unlink()
    shutil.rmtree(run.student)
    shutil.rmtree(run.checkpoints)
    # The run's copy of the teacher has the prompts in its files, and the folder does not.
    _, again = distill(recipe, run_name="resumed", resume=True)
    assert again.student.weights_sha256 == first.student.weights_sha256


def test_the_record_is_of_the_counted_text(
    spelled_teacher: Path, tiny_recipe: Make, tiny_text: Path, runs: Path, tmp_path: Path
) -> None:
    counted, runs_of_text = [], []
    for name in ("one", "two"):
        text = tmp_path / f"{name}.txt"
        # The same tokens are selected.
        text.write_text(tiny_text.read_text() * (1 if name == "one" else 2))
        recipe = tiny_recipe(
            teacher={"source": str(spelled_teacher)},
            student={"vocabulary": {"size": SIZE, "text": str(text)}},
            train={"steps": 1},
        )
        run, _ = distill(recipe, run_name=name, resume=False)
        trim = read_record(run.trim, TrimRecord)
        assert trim.counted_on == str(text)
        counted.append(trim.counted_tokens)
        runs_of_text.append(trim.old_ids)
    assert counted[1] == 2 * counted[0]
    assert runs_of_text[0] == runs_of_text[1]


def test_remains_of_another_recipes_preparation_are_removed(
    spelled_teacher: Path,
    tiny_recipe: Make,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    first = tiny_recipe(
        teacher={"source": str(spelled_teacher)}, student={"vocabulary": {"size": SIZE}}
    )
    with monkeypatch.context() as patch:
        patch.setattr(initialize, "write_recipe", killed)
        with pytest.raises(RuntimeError, match="killed"):
            distill(first, run_name="mixed", resume=False)
    mixed = RunDir(runs / "mixed")
    assert mixed.teacher_trimmed.exists() and mixed.trim.exists() and mixed.student_step0.exists()
    second = tiny_recipe(train={"steps": 2})
    clean, expected = distill(second, run_name="clean", resume=False)
    _, record = distill(second, run_name="mixed", resume=True)
    assert mixed.teachers == (mixed.teacher,) and not mixed.trim.exists()
    assert read_json(mixed.initial_digests) == read_json(clean.initial_digests)
    assert record.files == expected.files


def test_a_plan_counts_the_trimmed_student(
    spelled_teacher: Path, tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_REPEATS", 1)
    monkeypatch.setattr(timing, "_MAX_MICRO_BATCH_S", 0.0)
    recipe = tiny_recipe(
        teacher={"source": str(spelled_teacher)},
        student={"vocabulary": {"size": SIZE}},
        train={"steps": None, "tokens": 3000},
    )
    record = plan(recipe)
    assert record.student.vocabulary == SIZE < record.teacher.vocabulary
    # A text has more tokens of a small vocabulary.
    whole = plan(tiny_recipe(teacher={"source": str(spelled_teacher)}))
    assert record.corpus_tokens > whole.corpus_tokens  # type: ignore[operator]
    run, distilled = distill(recipe, run_name="mine", resume=False)
    assert record.steps == distilled.steps
    assert record.corpus_tokens == read_record(run.corpus, CorpusRecord).train_tokens


def test_another_text_of_the_vocabulary_is_named_on_resume(
    spelled_teacher: Path, tiny_recipe: Make, runs: Path, tmp_path: Path
) -> None:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(WORDS[:20]))
    recipe = tiny_recipe(
        teacher={"source": str(spelled_teacher)},
        student={"vocabulary": {"size": SIZE, "text": str(text)}},
        train={"steps": 1},
    )
    run, _ = distill(recipe, run_name="mine", resume=False)
    run.distill.unlink()
    text.write_text(" ".join(WORDS[-20:]))
    with pytest.raises(RunError, match=r"student\.vocabulary\.text of run 'mine' has changed"):
        distill(recipe, run_name="mine", resume=True)


def test_a_size_below_the_characters_is_refused_before_anything_is_written(
    spelled_teacher: Path, tiny_recipe: Make, runs: Path
) -> None:
    recipe = tiny_recipe(
        teacher={"source": str(spelled_teacher)}, student={"vocabulary": {"size": 9}}
    )
    with pytest.raises(InputError, match="the least size that works is"):
        distill(recipe, run_name="small", resume=False)
    assert not (runs / "small").exists()


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        ({"vocabulary": {}}, "expected exactly one of size, coverage; got none"),
        ({"vocabulary": {"size": 9, "coverage": 0.5}}, "got size and coverage"),
        ({"intermediate": 9, "init": "runs/x/student"}, "intermediate is set and init is"),
        ({"embedding": 1, "init": "runs/x/student"}, "embedding is set and init is"),
        ({"heads": 1, "init": "runs/x/student"}, "heads is set and init is"),
        ({"vocabulary": {"size": 9}, "init": "runs/x/student"}, "has its sizes already"),
    ],
)
def test_recipes_that_contradict_themselves(
    student: dict[str, object], problem: str, tiny_recipe: Make
) -> None:
    with pytest.raises(RecipeError, match=problem):
        tiny_recipe(student=student)

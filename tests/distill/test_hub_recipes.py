"""Recipes for teachers of the hub, run on small folders of the same layout as theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgedistil.core.distill_records import CorpusRecord
from edgedistil.core.errors import ModelError
from edgedistil.core.recipe import Recipe, load_recipe
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.sentence_vector import POOLING_SWITCHES, read_sentence_vector
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.distill.plan import timing
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.sentence_setup import teacher_vector
from edgedistil.distill.stage import distill
from edgedistil.models.teacher import read_teacher
from tests.export.families.conftest import CASES, HIDDEN, make_model
from tests.fixtures.tokenizer_folders import our_text

E5_PROMPTS = {"query": "query: ", "document": "passage: "}


@dataclass(frozen=True)
class Layout:
    """What the folder of a recipe's teacher holds.

    Attributes:
        family: Family of the model, with 3 layers here.
        student: Family of the student.
        tokenizer: Layout of `tokenizer_folders`.
        pooling: How it pools; None for a model with its MLM head and without modules.json.
        prompts: Prompts of the student: the folders have none.
    """

    family: str
    student: str
    tokenizer: str
    pooling: str | None = None
    prompts: dict[str, str] | None = None


LAYOUTS = {
    "bge": Layout(
        "bert",
        "distilbert",
        "bert",
        "cls",
        {"query": "Represent this sentence for searching relevant passages: "},
    ),
    "e5": Layout("bert", "distilbert", "bert", "mean", E5_PROMPTS),
    "gte": Layout("modernbert", "modernbert", "modernbert", "cls", {}),
    "multilingual-e5": Layout("bert", "distilbert", "xlm-roberta", "mean", E5_PROMPTS),
    "roberta": Layout("roberta", "roberta", "roberta"),
    "xlm-roberta": Layout("xlm-roberta", "xlm-roberta", "xlm-roberta"),
}
WithFolder = Callable[[str], Recipe]


def write_hub_folder(layout: Layout, folder: Path, tokenizer: Path) -> None:
    """Writes weights, tokenizer and modules as the hub's folder has them."""
    task = "fill-mask" if layout.pooling is None else "feature-extraction"
    make_model(CASES[layout.family], task, num_hidden_layers=3).save_pretrained(folder)
    for file in TOKENIZER_FILES:
        if (tokenizer / file).is_file():
            shutil.copyfile(tokenizer / file, folder / file)
    if layout.pooling is None:
        return
    names = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(names.items())
    ]
    switches = {switch: mode == layout.pooling for mode, switch in POOLING_SWITCHES.items()}
    (folder / "1_Pooling").mkdir()
    contents = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, **switches},
        "sentence_bert_config.json": {"max_seq_length": 61, "do_lower_case": False},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))


@pytest.fixture
def recipe_here(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> WithFolder:
    """Loads a shipped recipe with a local teacher, a text of its columns, and two steps."""

    def load(name: str) -> Recipe:
        layout, folder = LAYOUTS[name], tmp_path / name
        write_hub_folder(layout, folder, tokenizer_folders[layout.tokenizer])
        text = tmp_path / "pairs.jsonl"
        pairs = [{"text": line, "query": line[:40], "answer": line} for line in our_text()]
        text.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
        local = []
        for source in load_recipe(name).corpus.sources:
            columns = f'field = "{source.field}"'
            if source.query_field is not None:
                columns += f', query_field = "{source.query_field}"'
            local.append(f'{{files = "{text}", {columns}}}')
        overrides = [
            f'teacher.source="{folder}"',
            f"corpus.sources=[{', '.join(local)}]",
            "corpus.block_length=29",
            "train.steps=2",
            "train.global_batch=6",
            "train.micro_batch=3",
            "train.heldout_tokens=600",
            'train.precision="float32"',
        ]
        if load_recipe(name).student.vocabulary is not None:
            overrides.append("student.vocabulary.size=800")
        return load_recipe(name, overrides)

    return load


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_recipe_trains_on_a_folder_of_its_teachers_layout(
    name: str, recipe_here: WithFolder, runs: Path
) -> None:
    layout, recipe = LAYOUTS[name], recipe_here(name)
    run, record = distill(recipe, run_name=name, resume=False)
    assert (record.teacher.model_type, record.student.model_type) == (layout.family, layout.student)
    assert record.layer_map == [0, 2]
    if recipe.student.vocabulary is not None:
        assert record.student.vocabulary == 800
    if layout.pooling is None:
        assert record.objective == "mlm"
        return
    assert record.objective == "representation"
    # The folder of the hub has no prompts; those of the run have the recipe's, so that every later
    # stage reads them.
    for folder in (run.student, run.teacher):
        vector = read_sentence_vector(folder, hidden=HIDDEN)
        assert vector.pooling == (layout.pooling,)
        assert vector.is_normalized
        assert vector.prompts == layout.prompts
    assert not (Path(recipe.teacher.source) / "config_sentence_transformers.json").exists()


def test_prompts_change_what_the_student_reads_and_a_resumed_run_keeps_them(
    recipe_here: WithFolder, runs: Path
) -> None:
    recipe = recipe_here("e5")
    without = recipe.teacher.model_copy(update={"query_prompt": None, "document_prompt": None})
    tokens = []
    for name, section in (("with", recipe.teacher), ("without", without)):
        changed = recipe.model_copy(update={"teacher": section})
        run, record = distill(changed, run_name=name, resume=False)
        tokens.append(read_record(run.corpus, CorpusRecord).train_tokens)
        # As if it had been killed before the record was written.
        run.distill.unlink()
        assert distill(changed, run_name=name, resume=True)[1].tokens_seen == record.tokens_seen
    assert tokens[0] > tokens[1]


def test_the_recipe_cannot_contradict_the_prompts_of_a_folder(recipe_here: WithFolder) -> None:
    recipe = recipe_here("e5")
    folder = Path(recipe.teacher.source)
    settings = {"prompts": {"query": "search: "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="query_prompt is query: , and the teacher's own config_"):
        teacher_vector(read_teacher(folder, name="e5"), recipe.teacher)


def test_prompts_need_a_pooling_that_somebody_states(recipe_here: WithFolder, runs: Path) -> None:
    recipe = recipe_here("e5")
    (Path(recipe.teacher.source) / "modules.json").unlink()
    with pytest.raises(ModelError, match="nothing says how the teacher pools"):
        distill(recipe, run_name="guess", resume=False)
    stated = recipe.teacher.model_copy(update={"pooling": "cls"})
    recipe = recipe.model_copy(update={"teacher": stated})
    run, _ = distill(recipe, run_name="stated", resume=False)
    vector = read_sentence_vector(run.teacher, hidden=HIDDEN)
    assert (vector.pooling, vector.prompts, vector.is_guess) == (("cls",), E5_PROMPTS, False)


@pytest.mark.parametrize("name", ["gte", "xlm-roberta"])
def test_a_recipe_is_planned_on_one_gpu_and_on_eight(
    name: str, recipe_here: WithFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_REPEATS", 1)
    recipe = recipe_here(name)
    train = recipe.train.model_copy(update={"global_batch": 24})
    record = plan(recipe.model_copy(update={"train": train}))
    here, *gpus = record.devices
    assert not isinstance(here.seconds, NotMeasured)
    assert {device.processes for device in gpus} == {1, 8}

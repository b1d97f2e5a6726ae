"""The ablation: fair or refused, changes with their sign and noise, and the paper's order."""

from pathlib import Path

import pytest

from edgedistil.ablate import FULL_RECIPE, ablation_recipes, changed_keys, order_against_paper
from edgedistil.core.errors import RecipeError
from edgedistil.core.evaluation_records import Variation
from edgedistil.core.options import TaskOptions
from edgedistil.core.records import NotMeasured

TEXT = """name = "{name}"
[teacher]
source = "asset:minilm"
[[corpus.sources]]
asset = "reviews"
[loss]
cosine = {cosine}
[train]
tokens = {tokens}
"""


def folder_of(tmp_path: Path, **recipes: tuple[float, int]) -> Path:
    for name, (cosine, tokens) in recipes.items():
        (tmp_path / f"{name}.toml").write_text(TEXT.format(name=name, cosine=cosine, tokens=tokens))
    return tmp_path


def variation(name: str, change: float, paper: float | None, *, noisy: bool = False) -> Variation:
    return Variation(
        name=name,
        description="",
        run=name,
        changed={},
        tokens_seen=1,
        score=0.5,
        per_task={},
        change=change,
        change_low=change - 0.004,
        change_high=change + 0.004,
        spread=0.01,
        within_noise=noisy,
        paper_change=NotMeasured(not_measured="none") if paper is None else paper,
    )


def test_shipped_ablations_are_fair_and_full_comes_first():
    recipes = ablation_recipes(Path("recipes/ablation"))
    assert next(iter(recipes)) == FULL_RECIPE
    assert {"no-soft-target", "no-cosine", "no-mlm", "random-init"} <= set(recipes)
    assert changed_keys(recipes[FULL_RECIPE], recipes["no-cosine"]) == {"loss.cosine": "0.0 (1.0)"}


def test_other_budget_is_refused(tmp_path):
    with pytest.raises(
        RecipeError,
        match=r"'less' is not comparable with the full recipe: train.tokens is 50 \(100\)",
    ):
        ablation_recipes(folder_of(tmp_path, full=(1.0, 100), less=(0.0, 50)))


@pytest.mark.parametrize("recipes", [{"full": (1.0, 100)}, {"a": (1.0, 100), "b": (0.0, 100)}])
def test_folder_without_a_comparison_is_refused(tmp_path, recipes):
    with pytest.raises(RecipeError, match=r"expected full\.toml and variations of it"):
        ablation_recipes(folder_of(tmp_path, **recipes))


def test_a_missing_folder_is_named(tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(RecipeError, match=f"folder '{missing}' does not exist"):
        ablation_recipes(missing)


def test_order_is_held_against_the_papers():
    same = [
        variation("cosine", -0.02, -0.0146),
        variation("mlm", -0.01, -0.0031),
        variation("own", -0.5, None),
    ]
    assert order_against_paper(same) == "worst first: cosine < mlm: the paper's order"
    other = [variation("cosine", -0.01, -0.0146), variation("mlm", -0.02, -0.0031)]
    assert order_against_paper(other) == (
        "worst first: mlm < cosine: not the paper's order (cosine < mlm)"
    )
    noisy = [other[0], variation("mlm", -0.02, -0.0031, noisy=True)]
    assert order_against_paper(noisy) == "inconclusive: within the noise: mlm"
    assert order_against_paper(same[:1]).startswith("inconclusive")


def test_changes_that_cannot_be_ordered_have_no_order() -> None:
    """Both differ from the full recipe for certain, and not from each other."""
    rows = [variation("cosine", -0.016, -0.0146), variation("mlm", -0.01, -0.0031)]
    assert order_against_paper(rows) == "inconclusive: the intervals of cosine and mlm overlap"
    absent = NotMeasured(not_measured="one seed")
    rows[1] = variation("mlm", -0.001, -0.0031).model_copy(update={"change_low": absent})
    assert order_against_paper(rows).startswith("inconclusive: the intervals")


def test_ablation_compares_runs_cell_by_cell(tmp_path, runs, monkeypatch):
    """Distillation is played by two ready-made runs; evaluation and comparison are the real ones on
    their cells.
    """
    from edgedistil import ablate as module
    from edgedistil.core.evaluation_records import (
        AblationRecord,
        Cell,
        EvaluationRecord,
        Summary,
        TaskFacts,
    )
    from edgedistil.core.records import provenance, read_record, write_record
    from edgedistil.core.rundir import RunDir
    from edgedistil.evaluate.cells import CellFile

    labels = [float(i % 2) for i in range(101)]

    def ready(recipe, _options) -> RunDir:
        run = RunDir(runs / recipe.name)
        cells = []
        for seed in (1, 2, 3):
            wrong = 10 + seed + (20 + seed if recipe.loss.cosine == 0 else 0)
            predictions = [1 - label if i < wrong else label for i, label in enumerate(labels)]
            score = 1 - wrong / len(labels)
            cell = Cell(
                task="t",
                model="student",
                seed=seed,
                scores={"accuracy": score},
                metric="accuracy",
                dev_examples=101,
                train_examples=1,
                seconds=1,
                provenance=provenance(),
            )
            write_record(
                run.cells / "t" / f"student-{seed}.json",
                CellFile(
                    key="k", model_sha256="m", cell=cell, labels=labels, predictions=predictions
                ),
            )
            cells.append(cell)
        middle = sorted(cell.scores["accuracy"] for cell in cells)[1]
        summary = Summary(
            task="t",
            model="student",
            metric="accuracy",
            seeds=[1, 2, 3],
            median=middle,
            mean=sum(cell.scores["accuracy"] for cell in cells) / 3,
            lowest=0,
            highest=1,
        )
        facts = TaskFacts(
            name="t",
            title="T",
            kind="classification",
            metric="accuracy",
            train_examples=1,
            dev_examples=101,
            baseline=0.5,
            baseline_rule="",
            origin="",
            licence="",
            settings_source="",
        )
        record = EvaluationRecord(
            cells=cells, summaries=[summary], retentions=[], tasks=[facts], provenance=provenance()
        )
        write_record(run.evaluation, record)
        return run

    monkeypatch.setattr(module, "_distil_and_evaluate", ready)
    monkeypatch.setattr(module, "_tokens_seen", lambda run: 100)
    folder = folder_of(tmp_path, full=(1.0, 100), none=(0.0, 100))
    home, record = module.ablate(folder, TaskOptions())
    assert read_record(home.ablation, AblationRecord) == record
    full, none = record.variations
    assert isinstance(full.change, NotMeasured)
    assert none.change == pytest.approx(-22 / 101)
    assert none.change_low < none.change < none.change_high < 0
    assert none.spread == pytest.approx(1 / 101)
    assert not none.within_noise
    assert none.paper_change == -0.0146

"""Every shipped recipe loads; base.toml is the paper's; an ablation changes what its name says and
nothing else.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.assets import ASSETS
from edgedistil.core.recipe import load_recipe, shipped_recipes
from edgedistil.core.recipe_diff import differences
from edgedistil.core.shipped import shipped_folder

FOLDER = shipped_folder("recipes")
FILES = sorted(FOLDER.rglob("*.toml"))
# What an ablation changes against ablation/full, besides its name.
ABLATIONS = {
    "no-soft-target": {"loss.soft_target": 0.0},
    "no-cosine": {"loss.cosine": 0.0},
    "no-mlm": {"loss.mlm": 0.0},
    "random-init": {"student.init": "random"},
    "no-distillation": {"loss.soft_target": 0.0, "loss.cosine": 0.0},
    "fold-off": {"student.fold_segment": False},
    "positions-all": {"loss.positions": "all"},
}


def test_all_recipes_are_shipped() -> None:
    ablations = {f"ablation/{name}" for name in ("full", *ABLATIONS)}
    ours = {"base", "tiny", "mlm", "embedding", "embedding-long"}
    # tests/distill/test_hub_recipes.py runs each of these.
    of_the_hub = {"bge", "e5", "gte", "multilingual-e5", "roberta", "xlm-roberta"}
    expected = ours | of_the_hub | ablations
    assert {str(p.relative_to(FOLDER).with_suffix("")) for p in FILES} == expected
    assert expected <= set(shipped_recipes())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_recipe_loads_and_says_how_to_run_it(path: Path) -> None:
    recipe = load_recipe(path)
    text = path.read_text(encoding="utf-8")
    assert recipe.description
    assert f" recipes/{path.relative_to(FOLDER)}" in text
    for source in recipe.corpus.sources:
        assert source.asset is None or source.asset in ASSETS


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_ablation_changes_one_thing(name: str) -> None:
    full, ablation = load_recipe("ablation/full"), load_recipe(f"ablation/{name}")
    changed = set(differences(full, ablation)) - {"name", "description"}
    assert changed == set(ABLATIONS[name])
    for key, value in ABLATIONS[name].items():
        section, _, last = key.partition(".")
        assert getattr(getattr(ablation, section), last) == value
    assert ablation.name == f"ablation-{name}"


def test_every_ablation_is_listed_here() -> None:
    assert {p.stem for p in (FOLDER / "ablation").glob("*.toml")} == {"full", *ABLATIONS}


def test_the_full_ablation_is_the_recipe_with_a_fitted_head() -> None:
    changed = differences(load_recipe("mlm"), load_recipe("ablation/full"))
    assert {key for key in changed if not key.startswith(("evaluate.", "export.", "profile."))} == {
        "name",
        "description",
    }


def test_base_is_the_paper() -> None:
    base = load_recipe("base")
    assert base.student.layers == [0, 2, 4, 7, 9, 11]
    assert (base.loss.soft_target, base.loss.mlm, base.loss.cosine, base.loss.temperature) == (
        5,
        2,
        1,
        2,
    )
    assert base.loss.positions == "all"
    assert (base.train.global_batch, base.world_size, base.train.epochs) == (4096, 8, 3)
    assert (base.train.learning_rate, base.train.betas, base.train.epsilon) == (
        5e-4,
        (0.9, 0.98),
        1e-6,
    )
    assert (base.train.warmup, base.train.clip, base.train.weight_decay) == (0.05, 5.0, 0.0)
    assert (base.masking.kind, base.masking.share, base.masking.rarity_exponent) == (
        "rarity",
        0.15,
        0.7,
    )


def test_mlm_differs_from_the_paper_as_its_comment_says() -> None:
    base, small = load_recipe("base"), load_recipe("mlm")
    changes = set(differences(base, small))
    assert {key for key in changes if key.startswith("loss.")} == {"loss.positions"}
    assert (base.masking.kind, small.masking.kind) == ("rarity", "bert")
    assert base.student.init == small.student.init == "teacher"

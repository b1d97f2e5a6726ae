"""Table 4's benchmark: its recipes, and its rule on records whose outcome is known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertTokenizer, DistilBertConfig, DistilBertForMaskedLM

from edgedistil.core.recipe import load_recipe

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def table4() -> ModuleType:
    import table4

    return table4


@pytest.fixture
def own_bert() -> ModuleType:
    import own_bert

    return own_bert


def record(score: float) -> dict[str, Any]:
    return {
        "tokens": 1,
        "few_labels": score,
        "agreement": score,
        "kl_nats": 1 - score,
        "top1_hidden": score,
    }


def records(**scores: float) -> dict[str, dict[int, dict[str, Any]]]:
    """Five seeds around each score; a seed shifts all variations by the same amount."""
    return {
        name.replace("_", "-"): {
            seed: record(score + 0.03 * seed + 0.001 * (seed * len(name) % 3)) for seed in range(5)
        }
        for name, score in scores.items()
    }


def changes(page: str, name: str) -> str:
    """The row of a variation's differences from the full recipe."""
    table = page.split("## Differences")[1].split("## The paper's order")[0]
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return row


def test_a_variation_changes_only_what_it_is_named_for(table4: ModuleType, tmp_path: Path) -> None:
    table4.write_recipes(tmp_path)
    assert len(list(tmp_path.glob("*.toml"))) == len(table4.VARIATIONS) * 5
    full = load_recipe(tmp_path / "table4-full-57.toml")
    words = load_recipe(tmp_path / "table4-words-only-57.toml")
    assert (words.loss.soft_target, words.loss.cosine, words.loss.mlm) == (0, 0, full.loss.mlm)
    assert words.seed == full.seed == 57
    same = {"name", "loss"}
    assert words.model_dump(exclude=same) == full.model_dump(exclude=same)


def test_signs_and_order_of_the_paper_are_recognized(table4: ModuleType) -> None:
    scores = {"no_soft_target": 0.60, "no_cosine": 0.66, "no_mlm": 0.70, "random_init": 0.5}
    page = table4.render(records(full=0.68, **scores))
    assert changes(page, "no-soft-target").count("reproduced") == len(table4.FIGURES)
    # Better without masked words is the other sign than the paper's.
    assert changes(page, "no-mlm").count("contradicted") == len(table4.FIGURES)
    assert "| no-soft-target | no-cosine | -5." in page


def test_a_difference_within_the_noise_is_inconclusive(table4: ModuleType) -> None:
    by_seed = records(full=0.68, no_mlm=0.6801)
    change = table4.difference(by_seed, "no-mlm", "full", table4.FIGURES[0])
    assert change.outcome(-1) == change.outcome(1) == "inconclusive"


def test_one_seed_gives_no_interval(table4: ModuleType) -> None:
    one = {name: {56: record(0.5)} for name in ("full", "no-mlm")}
    with pytest.raises(SystemExit, match="share 1 seeds"):
        table4.difference(one, "no-mlm", "full", table4.FIGURES[0])


def test_a_new_model_attends_to_near_positions(own_bert: ModuleType, tmp_path: Path) -> None:
    own_bert.make_model(tmp_path, layers=1, vocabulary=9)
    model = BertForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    # Without words, only the positions differ.
    ids = torch.full((1, own_bert.POSITIONS), 7)
    with torch.inference_mode():
        attention_LL = model(ids, output_attentions=True).attentions[0].mean(dim=(0, 1))
    at, far = 64, 96
    assert attention_LL[at].argmax() == at
    assert attention_LL[at, at + 1] > attention_LL[at, at + 4] > attention_LL[at, far]


def command(own_bert: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["own_bert.py", *map(str, arguments)])
    own_bert.main()


def test_a_new_model_has_as_many_embeddings_as_tokens(
    own_bert: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, folder = tmp_path / "text.txt", tmp_path / "model"
    text.write_text("hello world\nother words\n")
    command(own_bert, monkeypatch, "new", text, folder, "--layers", 1)
    tokens = len(BertTokenizer.from_pretrained(folder))
    embeddings = BertForMaskedLM.from_pretrained(folder).bert.embeddings.word_embeddings
    assert embeddings.num_embeddings == tokens < own_bert.VOCABULARY
    # An existing folder is refused in one line and not changed.
    with pytest.raises(SystemExit, match=r"exists; remove it, or name another folder$"):
        command(own_bert, monkeypatch, "new", text, folder)


def test_a_missing_input_leaves_no_folder(
    own_bert: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"cannot read .*: No such file"):
        command(own_bert, monkeypatch, "new", tmp_path / "text.txt", tmp_path / "model")
    with pytest.raises(SystemExit, match=r"has no config\.json; expected the student folder"):
        command(own_bert, monkeypatch, "stack", tmp_path / "shallow", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_too_small_for_the_letters_is_refused() -> None:
    from word_pieces import word_pieces

    # Five special tokens, eight letters, and seven of them inside words.
    text = ["abcdefgh"]
    assert len(word_pieces(text, 20)) == 20
    with pytest.raises(ValueError, match="are 20 tokens, more than the size 19; set a size of 20"):
        word_pieces(text, 19)


def test_a_stacked_model_has_each_layer_twice(own_bert: ModuleType, tmp_path: Path) -> None:
    config = DistilBertConfig(vocab_size=9, dim=8, n_heads=2, hidden_dim=16, n_layers=2)
    shallow = DistilBertForMaskedLM(config)
    (tmp_path / "shallow").mkdir()
    shallow.save_pretrained(tmp_path / "shallow")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "shallow" / name).write_text("{}")
    own_bert.stack(tmp_path / "shallow", tmp_path / "deep")
    deep = DistilBertForMaskedLM.from_pretrained(tmp_path / "deep")
    layers = deep.distilbert.transformer.layer
    assert len(layers) == 4
    for index, layer in enumerate(layers):
        below = shallow.distilbert.transformer.layer[index % 2].state_dict()
        assert all(torch.equal(value, below[name]) for name, value in layer.state_dict().items())
    embeddings = deep.distilbert.embeddings.word_embeddings.weight
    assert torch.equal(embeddings, shallow.distilbert.embeddings.word_embeddings.weight)
    assert (tmp_path / "deep" / "tokenizer.json").is_file()

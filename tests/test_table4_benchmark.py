"""Table 4's benchmark: its recipes, and its rule on records whose outcome is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM, BertTokenizer, DistilBertConfig, DistilBertForMaskedLM

from edgedistil.core.recipe import load_recipe, write_recipe
from edgedistil.core.records import write_record
from edgedistil.core.rundir import RunDir
from tests.report.conftest import distilled

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


TEXTS, DRAWS = 300, 4
SEEDS = range(56, 61)


def record(score: float, *, right: float | None = None, seed: int = 0) -> dict[str, Any]:
    """A record with this score everywhere.

    Args:
        score: Held-out figures; KL is 1 minus it.
        right: Share of the judged texts that are right; the score by default.
        seed: Selects which further texts a seed has right.
    """
    share = score if right is None else right
    # The same texts are easy for all models; a seed has a few more, by chance.
    difficulty = np.random.default_rng(0).random((DRAWS, TEXTS))
    luck = np.random.default_rng(seed).normal(0, 0.01, (DRAWS, TEXTS))
    packed = sys.modules["value_judge"].pack(list(difficulty + luck < share))
    figures = {"agreement": score, "kl_nats": 1 - score, "top1_hidden": score}
    half = {"agreement": score / 2, "kl_nats": 2 - score, "top1_hidden": score / 2}
    return {
        "measured": {"machine": "a machine", "cores": 2, "versions": {"torch": "2"}},
        "tokens": 2_000_000,
        "weights_sha256": f"{score} {seed}",
        "teacher_sha256": "of the teacher",
        "correct": {"sentiment": packed, "topics": packed},
        **figures,
        "by_tokens": [
            {"step": 0, "tokens": 0, **half},
            {"step": 9, "tokens": 2_000_000, **figures},
        ],
    }


def records(seeds: Sequence[int] = SEEDS, **scores: float) -> dict[str, dict[int, dict[str, Any]]]:
    """Records around each score; a seed shifts all variations by the same amount."""
    return {
        name.replace("_", "-"): {
            seed: record(
                score + 0.03 * (seed - 58) + 0.001 * (seed * len(name) % 3),
                right=score,
                seed=seed * len(name),
            )
            for seed in seeds
        }
        for name, score in scores.items()
    }


def render(table4: ModuleType, by_variation: Mapping[str, Any]) -> str:
    page: str = table4.render(table4.Comparison(by_variation))
    return page


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
    page = render(table4, records(full=0.68, **scores))
    assert changes(page, "no-soft-target").count("reproduced") == len(table4.FIGURES)
    # Better without masked words is the other sign than the paper's.
    assert changes(page, "no-mlm").count("contradicted") == len(table4.FIGURES)
    assert "| no-soft-target | no-cosine | 5 | -5." in page


def test_a_difference_within_the_noise_is_inconclusive(table4: ModuleType) -> None:
    comparison = table4.Comparison(records(full=0.68, no_mlm=0.6801))
    for figure in table4.FIGURES:
        change = comparison.difference("no-mlm", "full", figure)
        assert change.outcome(-1) == change.outcome(1) == "inconclusive"


def test_fewer_seeds_give_no_verdict(table4: ModuleType) -> None:
    page = render(table4, records(seeds=[56, 57, 60], full=0.68, no_soft_target=0.5))
    row = changes(page, "no-soft-target")
    assert row.startswith("| no-soft-target | 3 | -2.96 |")
    assert row.count("no verdict") == row.count("–") == len(table4.FIGURES)
    # One seed does not even give an interval.
    page = render(table4, records(seeds=[56], full=0.68, no_soft_target=0.5))
    row = changes(page, "no-soft-target")
    assert "| -18.75: no verdict |" in row
    assert "–" not in row


def test_means_name_their_seeds(table4: ModuleType) -> None:
    by_seed = records(full=0.68, no_mlm=0.6)
    del by_seed["no-mlm"][58]
    page = render(table4, by_seed)
    assert "| full | 56 57 58 59 60 |" in page
    assert "| no-mlm | 56 57 59 60 |" in page
    assert changes(page, "no-mlm").startswith("| no-mlm | 4 |")
    with pytest.raises(SystemExit, match="no-mlm and full have no seed in common"):
        render(table4, {"full": {56: record(0.6)}, "no-mlm": {57: record(0.6)}})


def test_few_label_intervals_have_the_noise_of_the_judged_texts(table4: ModuleType) -> None:
    """Five equal students differ by nothing but the texts that another sample would have."""
    generator = np.random.default_rng(1)
    pack = sys.modules["value_judge"].pack
    by_variation: dict[str, dict[int, dict[str, Any]]] = {}
    for name, share in (("full", 0.7), ("no-mlm", 0.6)):
        packed = pack([generator.random(TEXTS) < share] * DRAWS)
        same = {**record(share), "correct": {"sentiment": packed, "topics": packed}}
        by_variation[name] = dict.fromkeys(SEEDS, same)
    change = table4.Comparison(by_variation).difference("no-mlm", "full", table4.FEW_LABEL_ACCURACY)
    expected = 1.96 * np.sqrt((0.7 * 0.3 + 0.6 * 0.4) / TEXTS)
    assert (change.interval.high - change.interval.low) / 2 == pytest.approx(expected, rel=0.15)


def test_a_report_is_written_with_its_figures(
    table4: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table4, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(table4, "judged_groups", dict)
    with pytest.raises(SystemExit, match="has no record of full"):
        table4.write_report(None)
    for name, by_seed in records(seeds=[56, 57], full=0.68, no_mlm=0.6).items():
        for seed, content in by_seed.items():
            named = {"variation": name, "seed": seed, **content}
            table4.save(tmp_path / "records" / f"{name}-{seed}.json", named)
    table4.write_report(tmp_path / "results")
    [written] = (tmp_path / "results").glob("table4-*.json")
    raw = json.loads(written.read_text())
    assert len(raw["means"]) == 2 * len(table4.FIGURES)
    agreement = next(row for row in raw["differences"] if row["figure"] == "agreement")
    assert (agreement["variation"], agreement["seeds"]) == ("no-mlm", 2)
    assert agreement["low"] < agreement["is"] < agreement["high"] < 0


def test_the_page_has_the_records_machine_and_a_table_by_tokens(table4: ModuleType) -> None:
    by_seed = records(full=0.68, undistilled=0.3)
    by_seed["full"][57]["measured"] = {**by_seed["full"][57]["measured"], "machine": "another"}
    page = render(table4, by_seed)
    assert "\n\na machine, 2 cores · torch 2\n\nanother, 2 cores · torch 2\n\n" in page
    by_tokens = page.split("## Held-out figures by tokens seen")[1]
    assert "| agreement | 0.0M | 2.0M |\n|---|---|---|\n| full | 34." in by_tokens
    # The undistilled student has seen none.
    assert "undistilled" not in by_tokens


class NoEncoder:
    """In place of a model, whose judging takes half a minute."""

    @classmethod
    def load(cls, folder: Path) -> NoEncoder:
        assert (folder / "model.safetensors").is_file()
        return cls()


def finished_run(folder: Path) -> RunDir:
    """A run with its record, trace and weights, without models."""
    run, result = RunDir(folder), distilled()
    hidden = [{"top1_hidden": 0.05}, {"top1_hidden": 0.3}]
    evaluated = [
        figures.model_copy(update=update)
        for figures, update in zip(result.heldout[1:], hidden, strict=True)
    ]
    write_record(
        run.distill, result.model_copy(update={"heldout": [result.heldout[0], *evaluated]})
    )
    for path in (run.student, run.student_step0, run.teacher):
        path.mkdir()
        (path / "model.safetensors").write_bytes(path.name.encode())
    recipe = load_recipe(BENCHMARKS / "table4" / "full.toml")
    named = recipe.model_copy(update={"name": "table4-full-57", "seed": 57})
    write_recipe(run.recipe, named)
    before, after = ({"kind": "heldout", **one.model_dump(mode="json")} for one in evaluated)
    step = {"kind": "train", "step": 200, "loss": 1.0, "tokens": 820_000}
    lines = "".join(json.dumps(entry) + "\n" for entry in (before, step, after))
    run.metrics.write_text(lines)
    return run


def test_judging_a_full_run_writes_its_student_and_the_undistilled_one(
    table4: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run")
    task = SimpleNamespace(name="sentiment")
    monkeypatch.setattr(table4, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(table4, "Encoder", NoEncoder)
    monkeypatch.setattr(table4, "film_sentences", lambda: task)
    monkeypatch.setattr(table4, "topics", lambda: SimpleNamespace(name="topics"))
    monkeypatch.setattr(table4, "task_vectors", lambda encoder, task: task.name)
    monkeypatch.setattr(table4, "few_labels", lambda task, vectors: {"of": vectors})
    table4.write_records([run.path])
    full, undistilled = (
        json.loads((tmp_path / "records" / f"{name}-57.json").read_text())
        for name in ("full", "undistilled")
    )
    assert full["correct"] == {"sentiment": {"of": "sentiment"}, "topics": {"of": "topics"}}
    assert (full["agreement"], full["top1_hidden"], full["tokens"]) == (0.53, 0.3, 820_000)
    assert (undistilled["agreement"], undistilled["top1_hidden"]) == (0.17, 0.05)
    assert undistilled["tokens"] == 0
    assert undistilled["by_tokens"] == []
    by_tokens = [(row["step"], row["tokens"], row["agreement"]) for row in full["by_tokens"]]
    assert by_tokens == [(0, 0, 0.17), (200, 820_000, 0.53)]
    assert full["weights_sha256"] != undistilled["weights_sha256"]
    # What is judged is not judged again; other weights are another run.
    monkeypatch.setattr(table4, "few_labels", lambda *_: pytest.fail("judged again"))
    table4.write_records([run.path])
    # Of the undistilled student only the held-out figures differ between seeds.
    (tmp_path / "records" / "undistilled-57.json").rename(
        tmp_path / "records" / "undistilled-56.json"
    )
    table4.write_records([run.path])
    (run.student / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SystemExit, match="is of other weights; remove it"):
        table4.write_records([run.path])


def test_a_run_outside_of_the_protocol_has_no_record(table4: ModuleType, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    recipe = load_recipe(run.recipe)
    for change in ({"name": "table4-fuller-57"}, {"name": "table4-full-3", "seed": 3}):
        write_recipe(run.recipe, recipe.model_copy(update=change))
        with pytest.raises(SystemExit, match="which the protocol does not have"):
            table4.write_records([run.path])


def test_a_figure_that_was_not_measured_is_refused(table4: ModuleType) -> None:
    before = distilled().heldout[1]
    with pytest.raises(SystemExit, match=r"top-1 at \[MASK\] at step 0: "):
        table4._figures(before)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"teacher_sha256": "another"}, "different teachers"),
        ({"tokens": 9}, "different numbers of tokens"),
        ({"weights_sha256": "0.68 56"}, "of the same weights"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(
    table4: ModuleType, change: dict[str, Any], problem: str
) -> None:
    by_variation = {
        "full": {56: {**record(0.68, seed=56)}, 57: {**record(0.68, seed=57), **change}}
    }
    with pytest.raises(SystemExit, match=problem):
        table4.check_records(by_variation)


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


def test_a_bert_is_not_stacked(
    own_bert: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would draw random weights in place of those with other names."""
    own_bert.make_model(tmp_path / "bert", 1, vocabulary=9)
    with pytest.raises(SystemExit, match="is not a DistilBERT with a head"):
        command(own_bert, monkeypatch, "stack", tmp_path / "bert", tmp_path / "model")
    assert not (tmp_path / "model").exists()


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

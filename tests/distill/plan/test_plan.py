"""`--plan`: figures of a run, with and without the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgedistil.core.errors import InputError, OfflineError
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import NotMeasured
from edgedistil.distill.plan import timing
from edgedistil.distill.plan.plan import plan

Make = Callable[..., Recipe]


def test_plan_of_a_run(tiny_recipe: Make, runs: Path) -> None:
    random_state = torch.get_rng_state()
    record = plan(tiny_recipe(train={"steps": 11}, teacher={}))
    assert (record.steps, record.tokens_per_step, record.tokens) == (11, 6 * 23, 11 * 6 * 23)
    assert (record.teacher.layers, record.student.layers, record.layer_map) == (4, 2, [0, 3])
    assert record.corpus_how == "counted"
    here, *gpus = record.devices
    assert here.method == "measured"
    assert not isinstance(here.seconds, NotMeasured)
    assert here.seconds > 0
    assert {g.method for g in gpus} == {"predicted"}
    assert all("assumed" in g.how for g in gpus)
    assert not runs.exists()
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_known_teacher_and_text_without_the_hub(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    monkeypatch.setattr(timing, "_REPEATS", 1)
    monkeypatch.setattr(timing, "_MAX_MICRO_BATCH_S", 0.0)  # one row is enough here
    monkeypatch.setattr(timing, "HELDOUT_BATCH_ROWS", 1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    record = plan(
        tiny_recipe(
            teacher={"source": "google-bert/bert-base-uncased"},
            corpus={
                "sources": [{"hub": "wikimedia/wikipedia", "config": "20231101.en"}],
                "block_length": 8,
            },
            world_size=2,
        )
    )
    assert record.teacher.parameters == 109_514_298
    assert record.student.parameters == 66_985_530
    assert "the hub is not reachable" in record.teacher.how
    assert record.corpus_tokens == pytest.approx(20.2e9 / 4.57 * 0.98, rel=1e-3)
    assert "20.2 GB assumed, not read from its card" in record.corpus_how
    assert {device.processes for device in record.devices[1:]} == {1, 2}


def test_a_known_sentence_encoder_and_a_text_of_unknown_size_without_the_hub(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_REPEATS", 1)
    monkeypatch.setattr(timing, "_MAX_MICRO_BATCH_S", 0.0)
    monkeypatch.setattr(timing, "HELDOUT_BATCH_ROWS", 3)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = tiny_recipe(
        teacher={"source": "BAAI/bge-small-en-v1.5"},
        student={"layers": [0], "vocabulary": {"size": 2000}},
        corpus={"sources": [{"hub": "no-owner/no-text"}], "block_length": 8},
    )
    record = plan(recipe)
    assert (record.teacher.layers, record.student.vocabulary) == (12, 2000)
    assert record.corpus_tokens == NotMeasured(
        not_measured="the size of data set 'no-owner/no-text' is unknown, "
        "and a plan does not download it"
    )
    assert record.tokens == 11 * 6 * 8


def test_a_text_that_does_not_exist_is_not_one_of_unknown_size(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = tiny_recipe(
        teacher={"source": "BAAI/bge-small-en-v1.5"},
        corpus={"sources": [{"asset": "no-such-asset"}]},
    )
    with pytest.raises(InputError, match="no-such-asset"):
        plan(recipe)


@pytest.mark.parametrize(
    ("files", "message"),
    [("https://a.b/c.txt", "size of 'https://a.b/c.txt' is unknown"), ("/no/*.txt", "no file")],
)
def test_a_known_teacher_with_files_that_are_not_here(
    files: str, message: str, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to divide by was an error of Python."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = tiny_recipe(
        teacher={"source": "BAAI/bge-small-en-v1.5"},
        corpus={"sources": [{"files": files}]},
        train={"steps": None, "epochs": 1},
    )
    with pytest.raises(InputError, match=re.escape(message)):
        plan(recipe)


def test_an_unknown_teacher_without_the_hub(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match="cannot download model 'no-owner/no-model'"):
        plan(tiny_recipe(teacher={"source": "no-owner/no-model"}))


def test_a_data_set_of_unknown_size(tiny_recipe: Make) -> None:
    sources = {"sources": [{"hub": "no-owner/no-text", "config": "de"}]}
    recipe = tiny_recipe(corpus=sources, train={"steps": None, "epochs": 1})
    with pytest.raises(InputError, match="the size of data set 'no-owner/no-text, de' is unknown"):
        plan(recipe)


def test_processes_have_to_divide_the_batch(tiny_recipe: Make) -> None:
    with pytest.raises(InputError, match="world size 4 does not divide"):
        plan(tiny_recipe(world_size=4))

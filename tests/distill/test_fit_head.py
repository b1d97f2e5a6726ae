"""A fitted head: it learns, is cached by its inputs, and is written completely or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from edgedistil.core.errors import TrainingDiverged
from edgedistil.core.recipe import FitHead, Masking
from edgedistil.core.rundir import tree_manifest
from edgedistil.data.batches import BatchOrder
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.distill import fit_head as fitting
from edgedistil.distill.batches import Masker, micro_batches_at
from edgedistil.distill.fit_head import (
    fit_head,
    initialise_head,
    store_sha256,
    token_counts,
    train_mlm,
)
from edgedistil.distill.schedule import learning_rate_factor
from edgedistil.models.mlm_head import mlm_head
from edgedistil.models.teacher import Teacher, read_teacher
from tests.export.families.conftest import CASES, make_model

ROWS, L, V = 97, 13, 41


def write_store(folder: Path, *, rows: int = ROWS) -> TokenStore:
    """Rows that repeat one token: a masked token can be read from its neighbours."""
    writer = StoreWriter(folder, vocabulary=V, row_length=L)
    for row in range(rows):
        writer.append(np.array([2, *[5 + row % (V - 5)] * (L - 2), 3]), np.array([L]))
    writer.close()
    return TokenStore(folder)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return write_store(tmp_path / "store")


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    return read_teacher(save_headless(tmp_path), name="headless")


def save_headless(tmp_path: Path) -> Path:
    """Saves a BERT without a head, with a tokenizer of numbered words."""
    from transformers import BertTokenizer

    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=V,
        hidden_size=22,
        num_attention_heads=2,
        intermediate_size=31,
        num_hidden_layers=1,
        max_position_embeddings=L,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(tmp_path / "headless")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(5, V))]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(
        tmp_path / "headless"
    )
    return tmp_path / "headless"


def fit(teacher: Teacher, store: TokenStore, cache: Path, **changes: Any) -> Teacher:
    seed = changes.pop("seed", 5)
    defaults = {"steps": 60, "batch_tokens": 16 * L, "learning_rate": 1e-2, "warmup": 0.1}
    settings = FitHead.model_validate({**defaults, **changes})
    return fit_head(teacher, store, settings, seed=seed, cache=cache)


@pytest.mark.parametrize("name", ["mobilebert", "modernbert"])
def test_heads_of_other_forms_learn_too(name: str, tmp_path: Path, store: TokenStore) -> None:
    torch.manual_seed(2)
    model = make_model(CASES[name], "fill-mask", vocab_size=V).requires_grad_(True)
    counts_V = token_counts(store, V)
    initialise_head(model, counts_V)
    head = mlm_head(model)
    # MobileBERT's word embeddings are a part of its projection.
    assert torch.equal(head.weight_VD, model.get_input_embeddings().weight) == (
        name != "mobilebert"
    )
    # It starts as the frequencies.
    assert torch.isfinite(head.bias_V).all() and bool(head.bias_V.any())
    order = BatchOrder(store, seed=5, global_batch=16, micro_batch=16)
    tokenizer = read_teacher(save_headless(tmp_path), name="headless").tokenizer
    masker = Masker(tokenizer, counts_V.numpy(), Masking(share=0.15), seed=5)
    settings = FitHead(steps=40, batch_tokens=16 * L, learning_rate=5e-3, warmup=0.1)
    losses = train_mlm(
        model,
        lambda step: micro_batches_at(
            step, order, masker, pad_id=0, device=model.device, purpose="test"
        ),
        settings,
        tokens_per_step=16.0 * L,
        dtype=torch.float32,
    )
    unigram = math.log(V - 5)
    assert sum(losses[-5:]) / 5 < unigram - 0.3


def test_it_learns_the_rows(teacher: Teacher, store: TokenStore, tmp_path: Path) -> None:
    # The random encoder is frozen: its states say little of a hidden token's neighbours.
    fitted = fit(teacher, store, tmp_path / "cache", steps=200)
    assert fitted.has_mlm_head and not teacher.has_mlm_head and fitted.name == "headless"
    assert not fitted.model.training
    trace = json.loads((fitted.folder / "fit.json").read_text())["mlm_loss_nats"]
    unigram = math.log(V - 5)  # the loss without looking at the neighbours
    assert len(trace) == 200 and abs(trace[0] - unigram) < 0.5
    assert sum(trace[-5:]) / 5 < unigram - 0.1
    head = fitted.model.cls.predictions
    assert head.decoder.weight is fitted.model.bert.embeddings.word_embeddings.weight
    assert fitted.tokenizer.size == V


def test_the_first_prediction_is_near_the_unigram_distribution(
    teacher: Teacher, store: TokenStore
) -> None:
    counts_V = token_counts(store, V)
    assert int(counts_V.sum()) == ROWS * L and int(counts_V[2]) == ROWS
    initialise_head(teacher.model, counts_V)
    with torch.no_grad():
        logits_V = teacher.model(torch.tensor([[2, 7, 4, 9, 3]])).logits[0, 2]
    unigram_V = counts_V / counts_V.sum()
    assert float(logits_V.softmax(-1)[[0, 1, 4]].sum()) < 0.02  # ids that never occur
    assert float((logits_V.softmax(-1) - unigram_V).abs().sum()) < 0.6


def test_a_second_fit_comes_from_the_cache(
    teacher: Teacher, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit(teacher, store, tmp_path / "cache", steps=2)
    monkeypatch.setattr(fitting, "train_mlm", lambda *_, **__: pytest.fail("it was trained again"))
    again = fit(teacher, store, tmp_path / "cache", steps=2)
    assert again.folder == first.folder
    for ours, theirs in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_same_input_same_weights_other_input_other_folder(
    teacher: Teacher, store: TokenStore, tmp_path: Path
) -> None:
    first = fit(teacher, store, tmp_path / "one", steps=2)
    again = fit(teacher, store, tmp_path / "two", steps=2)
    assert first.folder.name == again.folder.name
    for ours, theirs in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    others = [
        fit(teacher, store, tmp_path / "one", steps=3),
        fit(teacher, store, tmp_path / "one", steps=2, seed=6),
        fit(teacher, store, tmp_path / "one", steps=2, learning_rate=2e-2),
        fit(teacher, store, tmp_path / "one", steps=2, encoder_rate=0.05),
        fit(teacher, write_store(tmp_path / "fewer", rows=ROWS - 1), tmp_path / "one", steps=2),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 6


def test_a_small_encoder_rate_keeps_the_encoder(
    teacher: Teacher, store: TokenStore, tmp_path: Path
) -> None:
    def moved(**changes: float) -> tuple[float, float]:
        fitted = fit(teacher, store, tmp_path / "cache", steps=20, **changes)
        before, after = teacher.model.bert.state_dict(), fitted.model.bert.state_dict()
        trace = json.loads((fitted.folder / "fit.json").read_text())["mlm_loss_nats"]
        return max(float((after[name] - before[name]).abs().max()) for name in before), trace[
            0
        ] - trace[-1]

    at_most, _ = moved(encoder_rate=0.05)
    at_a_tenth, _ = moved(encoder_rate=0.005)
    at_zero, decrease = moved(encoder_rate=0.0)
    assert at_zero == 0 and decrease > 0  # the head alone has learnt
    assert 0 < at_a_tenth < at_most / 5


def test_a_killed_fit_leaves_no_files(
    teacher: Teacher, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(teacher, store, tmp_path / "cache", steps=1)
    left = [path.name for path in (tmp_path / "cache" / "teachers").iterdir()]
    assert left == []


def test_remains_of_a_killed_process_are_removed(
    teacher: Teacher, store: TokenStore, tmp_path: Path
) -> None:
    name = fit(teacher, store, tmp_path / "one", steps=1).folder.name
    remains = tmp_path / "two" / "teachers" / f".{name}.abcd1234"
    (remains / name).mkdir(parents=True)
    (remains / name / "model.safetensors").write_bytes(b"half")
    fit(teacher, store, tmp_path / "two", steps=1)
    assert sorted(path.name for path in remains.parent.iterdir()) == [name]


@pytest.mark.parametrize("victim", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_teacher_in_the_cache_is_fitted_again(
    teacher: Teacher,
    store: TokenStore,
    tmp_path: Path,
    victim: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = fit(teacher, store, tmp_path, steps=1).folder
    intact = tree_manifest(folder)
    damaged = bytearray((folder / victim).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    # A copy first: the tokenizer's files may be linked.
    (folder / victim).unlink()
    (folder / victim).write_bytes(damaged)
    fit(teacher, store, tmp_path, steps=1)
    assert tree_manifest(folder) == intact
    assert f"{victim} was changed" in capsys.readouterr().err


def test_the_original_teacher_is_not_changed(
    teacher: Teacher, store: TokenStore, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    fit(teacher, store, tmp_path / "cache", steps=2)
    assert all(
        torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items()
    )


def test_divergence_is_reported(teacher: Teacher, store: TokenStore, tmp_path: Path) -> None:
    with torch.no_grad():
        teacher.model.bert.embeddings.LayerNorm.bias.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="the loss is nan at step 0") as caught:
        fit(teacher, store, tmp_path / "cache")
    assert "learning_rate" in str(caught.value)
    assert not list((tmp_path / "cache" / "teachers").glob("headless-mlm-*/"))


def test_lines_of_different_length_are_padded_and_fitted(teacher: Teacher, tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "lines", vocabulary=V, row_length=None)
    for row in range(53):
        inner = 5 + (row + np.arange(3 + row % 7)) % (V - 5)
        writer.append(np.array([2, *inner, 3]), np.array([len(inner) + 2]))
    writer.close()
    fitted = fit(teacher, TokenStore(tmp_path / "lines"), tmp_path / "cache", steps=3)
    assert fitted.has_mlm_head


def test_digest_of_a_store_follows_its_rows(tmp_path: Path) -> None:
    first, same, other = (
        write_store(tmp_path / str(n), rows=rows) for n, rows in enumerate((7, 7, 8))
    )
    assert store_sha256(first) == store_sha256(same) != store_sha256(other)


def test_the_tokenizer_is_the_same_to_the_byte(
    teacher: Teacher, store: TokenStore, tmp_path: Path
) -> None:
    """A corpus is cached by its tokenizer, and a resumed run reads the fitted teacher's."""
    fitted = fit(teacher, store, tmp_path / "cache", steps=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (fitted.folder / name).read_bytes() == (teacher.folder / name).read_bytes()


@pytest.mark.parametrize(("steps", "warmup"), [(14, 0.1), (3, 0.0), (7, 0.5)])
def test_the_learning_rate_follows_the_schedule_of_the_training_loop(
    teacher: Teacher,
    store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    warmup: float,
) -> None:
    """Fitting had a schedule of its own, which rounded the warm-up to the nearest step."""
    rates = []

    class RecordingAdamW(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", RecordingAdamW)
    fit(teacher, store, tmp_path / "cache", steps=steps, warmup=warmup, learning_rate=1e-3)
    factors = [learning_rate_factor(step, steps=steps, warmup=warmup) for step in range(steps)]
    assert rates == [1e-3 * factor for factor in factors]

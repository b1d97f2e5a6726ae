"""Fits an MLM head to a teacher that has none, on the corpus, once.

The head is fitted to a copy whose encoder is frozen, or trained at a fraction of the head's rate.
The copy serves soft targets only: the student's layers and the states that it learns are those of
the teacher as given. The head starts close to the unigram distribution
(docs/log.md#initial-state-of-the-head).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistil.core import console
from edgedistil.core.digests import is_intact, write_manifest
from edgedistil.core.errors import TrainingDiverged
from edgedistil.core.fetch import cache_lock
from edgedistil.core.recipe import FitHead, Loss, Masking
from edgedistil.core.rundir import replacing, storage_errors, write_json
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.data.batches import BatchOrder
from edgedistil.data.token_store import TokenStore
from edgedistil.distill.batches import BatchesAt, Masker, MicroBatch, micro_batches_at
from edgedistil.distill.distributed import TORCH_DTYPES, resolve_precision
from edgedistil.distill.losses import distillation_loss
from edgedistil.distill.memory import retain_freed_memory
from edgedistil.distill.schedule import learning_rate_factor
from edgedistil.models.facts import weights_sha256
from edgedistil.models.fast.encoder import encode
from edgedistil.models.mlm_head import head_names, mlm_head
from edgedistil.models.quiet import quiet
from edgedistil.models.teacher import Teacher, read_teacher

# BERT's share; others were not tried (docs/log.md#length-of-the-heads-training).
MASKED_SHARE = 0.15
# Initial gain of the LayerNorm before the projection. A smaller one limits learning: with Adam it
# cannot grow by more than the sum of the rates (docs/log.md#initial-state-of-the-head).
NORM_GAIN = 1.0
# Format of the cache; increased when the same settings would give another head.
# 4: a frozen encoder is not part of the optimizer.
_FORMAT = 4
# The training loop's default; the optimizer settings of a head are not in the recipe.
_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.01
_CLIP = 1.0  # norm of the gradient
_MLM_ONLY = Loss(soft_target=0.0, mlm=1.0, cosine=0.0, temperature=1.0, positions="masked")
# Added to each token's count, so that tokens that do not occur have a finite log frequency.
_SMOOTHING = 0.1
# Stream of random numbers that the masks are drawn from; the training loop has another one.
_STREAM = "fit-head"
# Rows whose tokens are counted at once: a few MB instead of the entire corpus.
_ROWS_AT_ONCE = 4096
# Steps over which the progress bar averages the loss.
_DISPLAYED_STEPS = 20


def fit_head(
    teacher: Teacher, train_store: TokenStore, settings: FitHead, *, seed: int, cache: Path
) -> Teacher:
    """Returns the teacher with a fitted MLM head, from the cache or trained into it.

    Args:
        teacher: Its encoder is the starting point; its own head is ignored.
        train_store: Rows to train on, without held-out text.
        settings: Recipe section [teacher.fit].
        seed: Seed of masks and order.
        cache: Root of the cache. The fitted teacher is stored under a hash of all inputs
            (docs/decisions.md#a-fitted-teacher-is-cached-by-its-inputs).
    Raises:
        TrainingDiverged: The loss is not finite.
        StorageError: The cache cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = TORCH_DTYPES[resolve_precision("auto", device)]
    inputs = _inputs(teacher, train_store, settings, seed=seed, dtype=dtype)
    # 96 bits: enough that no two inputs share a folder.
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache / "teachers" / f"{teacher.name}-mlm-{key}"
    with cache_lock(folder):
        # Another process may have built it while this one waited for the lock.
        if not is_intact(folder, cache=cache):
            model = copy.deepcopy(teacher.model).to(device)
            losses = fit_model(
                model, teacher.tokenizer, train_store, settings, seed=seed, dtype=dtype
            )
            _write(folder, model, teacher, {**inputs, "mlm_loss_nats": losses})
    return read_teacher(folder, name=teacher.name)


def _inputs(
    teacher: Teacher, store: TokenStore, settings: FitHead, *, seed: int, dtype: torch.dtype
) -> dict[str, object]:
    """Everything that determines the fitted head; the cache key is its digest."""
    # Lengths and rates as they are in the recipe; device and corpus by what they lead to.
    return {
        "format": _FORMAT,
        "masked_share": MASKED_SHARE,
        "norm_gain": NORM_GAIN,
        "teacher": weights_sha256(teacher.model.base_model),
        "tokenizer": teacher.tokenizer.sha256,
        "rows": store_sha256(store),
        "steps": settings.steps,
        "batch_tokens": settings.batch_tokens,
        "learning_rate": settings.learning_rate,
        "warmup": settings.warmup,
        "seed": seed,
        "dtype": str(dtype),
        "encoder_rate": settings.encoder_rate,
    }


# --- training ------------------------------------------------------------------------------------


def fit_model(
    model: PreTrainedModel,
    tokenizer: TextTokenizer,
    store: TokenStore,
    settings: FitHead,
    *,
    seed: int,
    dtype: torch.dtype,
) -> list[float]:
    """Initialises and trains the head of a model in place; returns the loss of each step.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        store: Rows to train on.
        settings: Recipe section [teacher.fit].
        seed: Seed of masks and order.
        dtype: Dtype of the forward passes.
    """
    # A bias of token frequencies saves the steps that would learn them.
    counts_V = token_counts(store, model.config.vocab_size)
    initialise_head(model, counts_V)

    order = _batch_order(store, settings, seed=seed)
    masker = Masker(tokenizer, counts_V.numpy(), Masking(share=MASKED_SHARE), seed=seed)
    pad_id, device = tokenizer.pad_id, model.device

    def batches_at(step: int) -> list[MicroBatch]:
        return micro_batches_at(step, order, masker, pad_id=pad_id, device=device, purpose=_STREAM)

    tokens_per_step = order.micro_batch * store.tokens / len(store)
    with retain_freed_memory():
        return train_mlm(model, batches_at, settings, tokens_per_step=tokens_per_step, dtype=dtype)


def _batch_order(store: TokenStore, settings: FitHead, *, seed: int) -> BatchOrder:
    """Order of the rows, in one micro-batch per step."""
    # Entire rows, as many as come closest to the tokens of a step.
    tokens_per_row = store.tokens / len(store)
    rows = max(1, min(len(store), round(settings.batch_tokens / tokens_per_row)))
    return BatchOrder(store, seed=seed, global_batch=rows, micro_batch=rows)


def initialise_head(model: PreTrainedModel, token_counts_V: Tensor) -> None:
    """Initialises the head so that its first prediction is near the unigram distribution.

    The transform is the identity with gain `NORM_GAIN`, the output bias the log frequency of the
    tokens.
    """
    names, head = head_names(model), mlm_head(model)
    # `setup.recipe_objective` refuses a head that is a projection only (EuroBERT's).
    assert names.dense is not None and names.norm is not None
    with torch.no_grad():
        _make_identity(model.get_submodule(names.dense), model.get_submodule(names.norm))
        smoothed_V = token_counts_V.double().to(head.bias_V.device) + _SMOOTHING
        head.bias_V.copy_((smoothed_V / smoothed_V.sum()).log())


def _make_identity(dense: Any, norm: Any) -> None:
    """Makes a head's transform the identity, but for its activation."""
    nn.init.eye_(dense.weight)
    norm.weight.fill_(NORM_GAIN)
    # ModernBERT's head has no biases but that of the projection.
    for bias in (dense.bias, norm.bias):
        if bias is not None:
            bias.zero_()


def train_mlm(
    model: PreTrainedModel,
    batches_at: BatchesAt,
    settings: FitHead,
    *,
    tokens_per_step: float,
    dtype: torch.dtype,
) -> list[float]:
    """Trains the head, and a little of the encoder, in place; returns the loss of each step.

    Args:
        model: The model, on its device.
        batches_at: Returns the masked batches of a step, on the device.
        settings: Recipe section [teacher.fit].
        tokens_per_step: Mean tokens of a step, for the progress bar.
        dtype: Dtype of the forward passes.
    Returns:
        Losses in nats per masked token.
    Raises:
        TrainingDiverged: A loss is not finite.
    """
    # Without dropout: so short a training never sees a row twice.
    model.eval()
    optimizer = _build_optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(step, steps=settings.steps, warmup=settings.warmup),
    )
    losses: list[float] = []
    with console.progress(
        "fitting an MLM head to the teacher", settings.steps * tokens_per_step, unit="tokens"
    ) as bar:
        for step in range(settings.steps):
            # Forward and backward passes.
            loss = 0.0
            for batch in batches_at(step):
                loss += _backward(model, batch, dtype)
            _check_finite(loss, step)

            # Update.
            nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            # Zeroing costs less than the page faults of newly allocated gradients.
            optimizer.zero_grad(set_to_none=False)
            schedule.step()

            # Record the loss.
            losses.append(round(loss, 4))
            displayed = losses[-_DISPLAYED_STEPS:]
            bar.advance(tokens_per_step)
            bar.note(f"MLM loss {sum(displayed) / len(displayed):.2f}")
    return losses


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"fitting the MLM head: the loss is {loss} at step {step}",
            hint="set a smaller learning_rate or a longer warmup in [teacher.fit]",
        )


def _build_optimizer(model: PreTrainedModel, settings: FitHead) -> torch.optim.AdamW:
    """AdamW in which the encoder has its own learning rate, or no part."""
    # The head's projection is tied to the word embeddings, which belong to the encoder.
    encoder_ids = {id(parameter) for parameter in model.base_model.parameters()}
    head = [p for p in model.parameters() if id(p) not in encoder_ids]
    head_ids = {id(parameter) for parameter in head}
    encoder = [p for p in model.parameters() if id(p) not in head_ids]
    groups: list[dict[str, Any]] = [{"params": head, "lr": settings.learning_rate}]
    if settings.encoder_rate > 0:
        rate = settings.learning_rate * settings.encoder_rate
        groups.append({"params": encoder, "lr": rate})
    else:
        for parameter in encoder:
            parameter.requires_grad_(False)
    return torch.optim.AdamW(groups, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True)


def _backward(model: PreTrainedModel, batch: MicroBatch, dtype: torch.dtype) -> float:
    """Runs the forward and backward pass of a batch; returns its loss."""
    # A frozen encoder needs no backward pass, which is two thirds of the work.
    is_frozen = not model.get_input_embeddings().weight.requires_grad
    with torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
        with torch.set_grad_enabled(not is_frozen):
            hidden_BLD = encode(model, batch.input_ids_BL, batch.attention_mask_BL)
        loss = distillation_loss(
            hidden_BLD,
            None,
            student_head=mlm_head(model),
            teacher_head=None,
            labels_BL=batch.labels_BL,
            attention_mask_BL=batch.attention_mask_BL,
            counts=batch.counts,
            settings=_MLM_ONLY,
        )
    loss.total.backward()  # type: ignore[no-untyped-call]
    return float(loss.total.detach())


# --- the corpus ----------------------------------------------------------------------------------


def token_counts(store: TokenStore, vocabulary: int) -> Tensor:
    """Returns how often each token occurs in the rows of a store, int64, shape (V,)."""
    counts_V = np.zeros(vocabulary, np.int64)
    for first in range(0, len(store), _ROWS_AT_ONCE):
        rows = range(first, min(first + _ROWS_AT_ONCE, len(store)))
        ids = np.concatenate([store[row] for row in rows])
        counts_V += np.bincount(ids, minlength=vocabulary)
    return torch.from_numpy(counts_V)


def store_sha256(store: TokenStore) -> str:
    """Returns the digest of all rows of a store, in order."""
    digest = hashlib.sha256(f"{len(store)} {store.row_length}".encode())
    for row in range(len(store)):
        digest.update(store[row].tobytes())
    return digest.hexdigest()


# --- the cache -----------------------------------------------------------------------------------


def _write(
    folder: Path, model: PreTrainedModel, teacher: Teacher, record: dict[str, object]
) -> None:
    """Writes the fitted teacher with its tokenizer and `fit.json`."""
    with replacing(folder) as unfinished, storage_errors(folder), quiet():
        unfinished.mkdir()
        model.cpu().save_pretrained(unfinished)
        # Byte for byte: a corpus is cached by its tokenizer's hash, and a resumed run reads it
        # with this tokenizer.
        for name in TOKENIZER_FILES:
            if (teacher.folder / name).is_file():
                shutil.copyfile(teacher.folder / name, unfinished / name)
        write_json(unfinished / "fit.json", record)
        # Last, because it has the digests of all other files.
        write_manifest(unfinished)

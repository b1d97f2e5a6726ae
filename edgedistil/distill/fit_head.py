"""An MLM head for a teacher that comes without one: head and encoder trained together on the corpus, once.

The head alone on a frozen encoder stays far behind, so the encoder learns too. What was found by trying (figures in
docs/log.md): the output bias starts as the log frequency of the tokens, the LayerNorm before the projection starts
small, and the dense layer as the identity, so that the first prediction is about the unigram distribution.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM

from edgedistil.core import console
from edgedistil.core.errors import TrainingDiverged
from edgedistil.core.fetch import cache_lock, remove_stale_builds
from edgedistil.core.rundir import replacing, sha256_file, storage_errors, write_json
from edgedistil.data.batches import BatchOrder, TokenBatch
from edgedistil.data.masking import MaskedBatch, mask_bert, row_generator
from edgedistil.data.token_store import TokenStore
from edgedistil.distill.allocator import freed_memory_kept
from edgedistil.distill.distributed import TORCH_DTYPES, chosen_precision
from edgedistil.distill.losses import count_tokens, distillation_loss
from edgedistil.models.facts import weights_sha256
from edgedistil.models.fast.encoder import encode, mlm_head
from edgedistil.models.quiet import quiet
from edgedistil.models.teacher import Teacher, read_teacher

MASKED_SHARE = 0.15
NORM_GAIN = 1.0
_FORMAT = 2  # of what is cached: raise it when the way of fitting changes
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def fit_head(
    teacher: Teacher,
    train_store: TokenStore,
    *,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
    encoder_rate: float = 1.0,
    warmup: float,
    seed: int,
    cache: Path,
) -> Teacher:
    """The teacher with a fitted MLM head, out of the cache or trained into it.

    Args:
        teacher: Its encoder is where training starts; its own head is drawn anew.
        train_store: Rows to train on; held-out text is in none of them.
        steps: Optimizer steps.
        batch_tokens: Tokens of a step, about: whole rows.
        learning_rate: Highest one; linear warm-up, then linear decay to 0.
        encoder_rate: The encoder's learning rate as a share of the head's: a small one keeps more of what it knows.
        warmup: Share of the steps.
        seed: Of masks and order.
        cache: The fitted teacher lies below it under the hash of all of the above.
    Raises:
        TrainingDiverged: The loss is not finite.
        StorageError: The cache cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = TORCH_DTYPES[chosen_precision("auto", device)]
    settings = {
        "format": _FORMAT,
        "masked_share": MASKED_SHARE,
        "norm_gain": NORM_GAIN,
        "teacher": weights_sha256(teacher.model.bert),
        "tokenizer": sha256_file(teacher.folder / "tokenizer.json"),
        "rows": store_sha256(train_store),
        "steps": steps,
        "batch_tokens": batch_tokens,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "seed": seed,
        "dtype": str(dtype),
        **({} if encoder_rate == 1 else {"encoder_rate": encoder_rate}),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache / "teachers" / f"{teacher.name}-mlm-{key}"
    with cache_lock(folder):
        remove_stale_builds(folder)
        if not folder.is_dir():  # else another process has made it while we waited
            model = copy.deepcopy(teacher.model).to(device)
            initialise_head(model, token_counts(train_store, model.config.vocab_size))
            batches = _Batches(train_store, teacher, batch_tokens=batch_tokens, seed=seed)
            with freed_memory_kept():
                trace = train_mlm(
                    model,
                    batches,
                    steps=steps,
                    learning_rate=learning_rate,
                    encoder_rate=encoder_rate,
                    warmup=warmup,
                    dtype=dtype,
                )
            _write(folder, model, teacher, {**settings, "mlm_loss_nats": trace})
    return read_teacher(folder, name=teacher.name)


def initialise_head(model: BertForMaskedLM, token_counts_V: Tensor) -> None:
    """A head whose first prediction is the unigram distribution: identity, small gain, log frequencies."""
    head = model.cls.predictions
    with torch.no_grad():
        nn.init.eye_(head.transform.dense.weight)
        head.transform.dense.bias.zero_()
        head.transform.LayerNorm.weight.fill_(NORM_GAIN)
        head.transform.LayerNorm.bias.zero_()
        smoothed_V = token_counts_V.double().to(head.decoder.bias.device) + 0.1
        head.decoder.bias.copy_((smoothed_V / smoothed_V.sum()).log())


def train_mlm(
    model: BertForMaskedLM,
    batches: _Batches,
    *,
    steps: int,
    learning_rate: float,
    encoder_rate: float = 1.0,
    warmup: float,
    dtype: torch.dtype,
) -> list[float]:
    """Trains `model` in place; returns the loss of each step, nats per masked token.

    Without dropout: so short a training never sees a row twice.
    Raises:
        TrainingDiverged: A loss is not finite.
    """
    model.eval()
    device = model.device
    head = list(model.cls.parameters())  # without the tied table: that is the encoder's
    of_head = {id(each) for each in head} - {id(each) for each in model.bert.parameters()}
    groups = [
        {
            "params": [p for p in model.parameters() if id(p) not in of_head],
            "lr": learning_rate * encoder_rate,
        },
        {"params": [p for p in head if id(p) in of_head], "lr": learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, warmup))
    trace: list[float] = []
    with console.progress(
        "fitting an MLM head to the teacher", steps * batches.tokens, unit="tokens"
    ) as bar:
        for step in range(steps):
            loss = sum(
                _backward(model, batch, mask_BL, dtype, device)
                for batch, mask_BL in batches.at(step)
            )
            if not math.isfinite(loss):
                raise TrainingDiverged(
                    f"fitting the MLM head: the loss is {loss} at step {step}",
                    hint="give teacher.fit a smaller learning_rate or a longer warmup",
                )
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)  # fresh memory would cost more than zeroing it
            schedule.step()
            trace.append(round(loss, 4))
            bar.advance(batches.tokens)
            bar.note(f"MLM loss {sum(trace[-20:]) / len(trace[-20:]):.2f}")
    return trace


def _backward(
    model: BertForMaskedLM,
    batch: MaskedBatch,
    attention_mask_BL: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    labels_BL = batch.labels_BL.to(device)
    mask_BL = None if attention_mask_BL is None else attention_mask_BL.to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        loss = distillation_loss(
            encode(model, batch.input_ids_BL.to(device), mask_BL),
            None,
            student_head=mlm_head(model),
            teacher_head=None,
            labels_BL=labels_BL,
            attention_mask_BL=mask_BL,
            counts=count_tokens(labels_BL, mask_BL),
            soft_target=0.0,
            mlm=1.0,
            cosine=0.0,
            temperature=1.0,
            positions="masked",
        )
    loss.total.backward()  # type: ignore[no-untyped-call]
    return float(loss.total.detach())


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = max(1, round(warmup * steps))
    return (step + 1) / rising if step < rising else (steps - step) / max(1, steps - rising)


class _Batches:
    """Masked batches by step."""

    def __init__(
        self, store: TokenStore, teacher: Teacher, *, batch_tokens: int, seed: int
    ) -> None:
        row = store.tokens / len(store)
        rows = max(1, min(len(store), round(batch_tokens / row)))
        self.tokens = rows * row
        self._order = BatchOrder(store, seed=seed, global_batch=rows, micro_batch=rows)
        self._seed, self._vocabulary = seed, teacher.model.config.vocab_size
        self._pad_id: int = teacher.tokenizer.pad_token_id
        self._mask_id: int = teacher.tokenizer.mask_token_id
        self._special_ids: list[int] = teacher.tokenizer.all_special_ids

    def at(self, step: int) -> list[tuple[MaskedBatch, Tensor | None]]:
        """The step's batches; no attention mask where nothing is padded."""
        return [
            self._masked(batch, step)
            for batch in self._order.micro_batches(step, pad_id=self._pad_id)
        ]

    def _masked(self, batch: TokenBatch, step: int) -> tuple[MaskedBatch, Tensor | None]:
        masked = mask_bert(
            batch.input_ids_BL,
            batch.attention_mask_BL,
            generator=row_generator(self._seed, step, batch.row_indices_B, purpose="fit-head"),
            share=MASKED_SHARE,
            mask_id=self._mask_id,
            vocabulary=self._vocabulary,
            special_ids=self._special_ids,
        )
        return masked, None if bool(batch.attention_mask_BL.all()) else batch.attention_mask_BL


def token_counts(store: TokenStore, vocabulary: int) -> Tensor:
    """How often each id stands in the rows of a store, int64 (V)."""
    counts = np.zeros(vocabulary, np.int64)
    for row in range(0, len(store), 4096):
        ids = np.concatenate([store[each] for each in range(row, min(row + 4096, len(store)))])
        counts += np.bincount(ids, minlength=vocabulary)
    return torch.from_numpy(counts)


def store_sha256(store: TokenStore) -> str:
    """Digest of all rows in order."""
    digest = hashlib.sha256(f"{len(store)} {store.row_length}".encode())
    for row in range(len(store)):
        digest.update(store[row].tobytes())
    return digest.hexdigest()


def _write(
    folder: Path, model: BertForMaskedLM, teacher: Teacher, fitted: dict[str, object]
) -> None:
    with replacing(folder) as aside, storage_errors(folder), quiet():
        aside.mkdir()
        model.cpu().save_pretrained(aside)
        # Byte for byte: the corpus is cached by its tokenizer's hash, and a resumed run reads it with this one.
        for name in _TOKENIZER_FILES:
            if (teacher.folder / name).is_file():
                shutil.copyfile(teacher.folder / name, aside / name)
        write_json(aside / "fit.json", fitted)

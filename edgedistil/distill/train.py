"""THE loop: from a step's batches to its update, its line in the trace, and now and then a checkpoint.

Everything random is a function of (seed, step, place in the step): the order of the data, the masks, the dropout. So a
run resumes exactly, and two processes do what one would do with the same global batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core import console
from edgedistil.core.errors import Interrupted, TrainingDiverged
from edgedistil.core.records import HeldoutMlm
from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.data.counter_rng import stream_key
from edgedistil.distill.allocator import freed_memory_kept
from edgedistil.distill.batches import BatchesAt, MicroBatch, ahead
from edgedistil.distill.checkpoint import (
    Checkpoints,
    Place,
    random_state,
    read_place,
    restore,
    restore_random_state,
)
from edgedistil.distill.interruption import Interruption
from edgedistil.distill.losses import Positions, TokenCounts, distillation_loss
from edgedistil.distill.metrics import Metrics
from edgedistil.models.fast.encoder import encode, encode_with_head, mlm_head


class Objective(nn.Module):
    """Student, teacher and losses as one module: all that has a gradient happens inside its forward pass.

    DDP counts on that. The teacher is no submodule: it has no gradients, and every process loads it by itself.
    """

    def __init__(
        self,
        student: DistilBertForMaskedLM,
        teacher: BertForMaskedLM,
        *,
        soft_target: float,
        mlm: float,
        cosine: float,
        temperature: float,
        positions: Positions,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self._encode_teacher = torch.compile(encode) if compiled else encode
        # On a CPU dropout draws its bits outside of torch: a compiled student would fall apart at each of them.
        whole = compiled and next(student.parameters()).device.type != "cpu"
        self._encode_student = torch.compile(encode_with_head) if whole else encode_with_head
        self._teacher = (teacher,)
        self._soft_target, self._mlm, self._cosine = soft_target, mlm, cosine
        self._temperature, self._positions = temperature, positions

    @property
    def teacher(self) -> BertForMaskedLM:
        return self._teacher[0]

    def forward(self, batch: MicroBatch, counts: TokenCounts) -> tuple[Tensor, Tensor]:
        """The loss to go backward from, and (soft-target, MLM, cosine) summed over the batch's tokens."""
        needs_teacher = self._soft_target > 0 or self._cosine > 0
        taught_BLD = None
        if needs_teacher:
            with torch.no_grad():
                taught_BLD = self._encode_teacher(
                    self.teacher, batch.input_ids_BL, batch.attention_mask_BL
                )
        student_BLD, student_head = self._encode_student(
            self.student, batch.input_ids_BL, batch.attention_mask_BL
        )
        loss = distillation_loss(
            student_BLD,
            taught_BLD,
            student_head=student_head,
            teacher_head=mlm_head(self.teacher) if needs_teacher else None,
            labels_BL=batch.labels_BL,
            attention_mask_BL=batch.attention_mask_BL,
            counts=counts,
            soft_target=self._soft_target,
            mlm=self._mlm,
            cosine=self._cosine,
            temperature=self._temperature,
            positions=self._positions,
        )
        return loss.total, torch.stack([loss.soft_target_sum, loss.mlm_sum, loss.cosine_sum])


@dataclass(frozen=True)
class StepLosses:
    """Means over all tokens of a step, nats (cosine: 0..2), and the norm of its gradient before clipping."""

    total: float
    soft_target: float
    mlm: float
    cosine: float
    gradient_norm: float


def train(
    objective: Objective,
    batches_at: BatchesAt,
    *,
    accelerator: Accelerator,
    steps: int,
    tokens: int,
    seed: int,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    warmup: float,
    clip: float,
    mean: Literal["step", "micro-batch"],
    precision: str,
    positions: Positions,
    checkpoints: Checkpoints,
    checkpoint_every_s: float,
    resume_from: Path | None,
    metrics: Metrics,
    judge: Callable[[int], HeldoutMlm],
    judge_every: int,
    diverged: Path,
) -> Place:
    """Trains the student in place, to the last step.

    Args:
        batches_at: This process's micro-batches of a step, masked, on the device.
        tokens: What the run will see, about: for the progress bar.
        warmup: Share of the steps in which the learning rate rises; then it falls, both linearly.
        clip: Norm that the gradient is clipped to.
        mean: `step`: one mean over all tokens of a step; `micro-batch`: the original's mean of means.
        judge: Held-out figures of the student after so many steps.
        diverged: Folder for the ids of a batch whose loss is not finite.
    Returns:
        The last step, the tokens seen, and the seconds spent, over all sessions of the run.
    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint was saved.
        TrainingDiverged: A loss is NaN or infinite.
        StorageError: A checkpoint or the trace cannot be written.
    """
    student = objective.student
    trained = [p for p in student.parameters() if p.requires_grad]
    fused = AdamW(
        trained, lr=learning_rate, betas=betas, eps=epsilon, weight_decay=weight_decay, fused=True
    )
    module, optimizer = accelerator.prepare(objective, fused)
    place = Place(step=0, tokens_seen=0, seconds=0.0, precision=precision)
    if resume_from is not None:
        place = read_place(resume_from)
        scaler_state = restore(resume_from, student=student, optimizer=fused)
        restore_random_state(resume_from, rank=accelerator.process_index)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(scaler_state)

    def save() -> None:
        states = gather_object([random_state()])
        if accelerator.is_main_process:
            metrics.sync()
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
            checkpoints.save(
                place, student=student, optimizer=fused, scaler=scaler, random_states=states
            )

    def stop() -> NoReturn:
        save()
        raise Interrupted(
            f"interrupted after step {place.step} of {steps}; everything up to it is saved"
        )

    student.train()
    seconds_before = place.seconds
    began = saved_at = time.monotonic()
    with (
        freed_memory_kept(),
        Interruption() as interruption,
        ahead(batches_at, steps=steps) as coming,
        console.progress("distilling", tokens, unit="tokens", start=place.tokens_seen) as bar,
    ):
        for step in range(place.step, steps):
            step_began = time.monotonic()
            micro_batches = coming(step)
            counts, asked = _agree(accelerator, micro_batches, interruption.asked)
            if asked:
                stop()

            fused.param_groups[0]["lr"] = learning_rate * schedule(step, steps=steps, warmup=warmup)
            parts = torch.zeros(3, device=accelerator.device)
            totals = []
            for index, batch in enumerate(micro_batches):
                if interruption.asked and accelerator.num_processes == 1:
                    stop()  # alone, nobody waits for the rest of a long step; it is done again from its start
                # The same dropout whichever process this micro-batch is on, and whenever it is done again.
                torch.manual_seed(stream_key(seed, "dropout", step, batch.number))
                # DDP averages over processes; with the counts so divided, its average is the sum we want.
                over = counts.divided(accelerator.num_processes)
                if mean == "micro-batch":
                    over = batch.counts.times(len(micro_batches))
                last = index == len(micro_batches) - 1
                with nullcontext() if last else accelerator.no_sync(module):
                    total, summed = module(batch, over)
                    accelerator.backward(total)
                totals.append(total.detach())
                parts += summed

            norm = accelerator.clip_grad_norm_(trained, clip)
            losses = _losses(accelerator, totals, parts, norm, counts, positions)
            if not _finite(losses, scaled=accelerator.scaler is not None):
                _refuse(
                    step, losses, micro_batches, totals, diverged, rank=accelerator.process_index
                )
            optimizer.step()
            optimizer.zero_grad()

            now, seen = time.monotonic(), int(counts.attended)
            place = replace(
                place,
                step=step + 1,
                tokens_seen=place.tokens_seen + seen,
                seconds=seconds_before + now - began,
            )
            speed = seen / (now - step_began)
            _tell(
                metrics,
                accelerator,
                place,
                losses,
                rate=fused.param_groups[0]["lr"],
                tokens_per_s=speed,
            )
            bar.advance(seen)
            bar.note(
                f"loss {losses.total:.3f} · soft {losses.soft_target:.3f} · mlm {losses.mlm:.3f} "
                f"· cos {losses.cosine:.3f}"
            )

            if place.step % judge_every == 0 or place.step == steps:
                figures = judge(place.step)
                metrics.write_heldout(figures)
                accelerator.log(
                    {f"heldout/{k}": v for k, v in _numbers(figures).items()}, step=place.step
                )
            if time.monotonic() - saved_at >= checkpoint_every_s or place.step == steps:
                save()
                saved_at = time.monotonic()
    return place


def schedule(step: int, *, steps: int, warmup: float) -> float:
    """Share of the full learning rate at a step (from 0): linear rise over the warm-up, then linear fall to 0.

    The first step's share is not 0: a step that learns nothing is a step wasted.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(steps - rising, 1)


def _agree(
    accelerator: Accelerator, batches: list[MicroBatch], asked: bool
) -> tuple[TokenCounts, bool]:
    """The step's tokens over all processes, and whether any of them was asked to stop: one all-reduce."""
    own = sum((batch.counts for batch in batches), TokenCounts(0, 0))
    whole = torch.tensor(
        [own.attended, own.masked, asked], dtype=torch.int64, device=accelerator.device
    )
    attended, masked, stop = accelerator.reduce(whole, "sum").tolist()
    return TokenCounts(attended, masked), stop > 0


def _losses(
    accelerator: Accelerator,
    totals: list[Tensor],
    parts: Tensor,
    norm: Tensor,
    counts: TokenCounts,
    positions: Positions,
) -> StepLosses:
    own = torch.cat([torch.stack(totals).sum().float().reshape(1), parts])
    total, soft, mlm, cosine = accelerator.reduce(own, "sum").tolist()
    soft_tokens = counts.attended if positions == "all" else counts.masked
    return StepLosses(
        total / accelerator.num_processes,
        soft / soft_tokens,
        mlm / counts.masked,
        cosine / counts.attended,
        float(norm),
    )


def _finite(losses: StepLosses, *, scaled: bool) -> bool:
    """A gradient that overflows under a loss scaler is business as usual: the scaler skips the step."""
    return math.isfinite(losses.total) and (scaled or math.isfinite(losses.gradient_norm))


def _refuse(
    step: int,
    losses: StepLosses,
    batches: list[MicroBatch],
    totals: list[Tensor],
    folder: Path,
    *,
    rank: int,
) -> None:
    """Saves the ids of this process's batches at fault (all of them when only the gradient is), and stops."""
    guilty = [b for b, total in zip(batches, totals, strict=True) if not torch.isfinite(total)]
    if math.isfinite(losses.total):
        guilty = batches
    path = folder / f"step-{step + 1:08d}.rank-{rank}.npz"
    if guilty:
        with replacing(path) as aside, storage_errors(path), aside.open("wb") as file:
            arrays = {f"input_ids_{b.number}": b.input_ids_BL.cpu().numpy() for b in guilty}
            arrays |= {f"labels_{b.number}": b.labels_BL.cpu().numpy() for b in guilty}
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types its keywords as allow_pickle
    raise TrainingDiverged(
        f"the loss is {losses.total:g} at step {step + 1} (soft target {losses.soft_target:g}, MLM {losses.mlm:g}, "
        f"cosine {losses.cosine:g}, gradient norm {losses.gradient_norm:g}); its batch: {path if guilty else folder}",
        hint='try a lower train.learning_rate, a longer train.warmup, or train.precision = "float32"; '
        "a recipe that changes them needs a run of another name",
    )


def _tell(
    metrics: Metrics,
    accelerator: Accelerator,
    place: Place,
    losses: StepLosses,
    *,
    rate: float,
    tokens_per_s: float,
) -> None:
    values = {
        "loss": losses.total,
        "soft_target": losses.soft_target,
        "mlm": losses.mlm,
        "cosine": losses.cosine,
        "gradient_norm": losses.gradient_norm if math.isfinite(losses.gradient_norm) else None,
        "learning_rate": rate,
        "tokens": place.tokens_seen,
        "tokens_per_s": round(tokens_per_s, 1),
        "seconds": round(place.seconds, 3),
    }
    metrics.write("train", step=place.step, **values)
    accelerator.log({f"train/{k}": v for k, v in values.items() if v is not None}, step=place.step)


def _numbers(figures: HeldoutMlm) -> dict[str, float]:
    return {k: float(v) for k, v in figures.model_dump().items() if isinstance(v, int | float)}

"""The training loop: from the batches of a step to its update, its trace and its checkpoint.

Everything random is a function of the seed, the step and the position in the step: the order of
the data, the masks, the dropout. So a run resumes exactly, and two processes compute what one does
with the same global batch and micro-batches of the same size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import AdamW

from edgedistil.core import console
from edgedistil.core.distill_records import HeldoutFigures
from edgedistil.core.errors import Interrupted, TrainingDiverged
from edgedistil.core.recipe import Train
from edgedistil.core.rundir import replacing, storage_errors
from edgedistil.data.counter_rng import stream_key
from edgedistil.distill.batches import BatchesAt, MicroBatch, prefetch
from edgedistil.distill.checkpoint import (
    Checkpoints,
    TrainingProgress,
    random_state,
    read_progress,
    restore,
    restore_random_state,
)
from edgedistil.distill.distributed import precision_of
from edgedistil.distill.interruption import Interruption
from edgedistil.distill.losses import TokenCounts
from edgedistil.distill.memory import retain_freed_memory, return_freed_memory
from edgedistil.distill.metrics import Metrics
from edgedistil.distill.objective import Objective
from edgedistil.distill.schedule import RunLength, evaluation_interval, learning_rate_factor


@dataclass(frozen=True)
class StepLosses:
    """Losses of a step over all processes.

    Attributes:
        total: The loss of the step: the weighted sum of the parts, or with loss.mean =
            "micro-batch" the mean of the micro-batches' sums.
        parts: Mean of each loss of the objective, by its name.
        gradient_norm: Norm of the gradient before clipping.
    """

    total: float
    parts: Mapping[str, float]
    gradient_norm: float


@dataclass(frozen=True)
class TrainingOutputs:
    """Destinations of what the loop produces besides the student.

    Attributes:
        metrics: The trace.
        checkpoints: The checkpoints.
        diverged: Folder for the batch of a step whose loss is not finite.
        evaluate: Returns the held-out figures of the student after a number of steps.
    """

    metrics: Metrics
    checkpoints: Checkpoints
    diverged: Path
    evaluate: Callable[[int], HeldoutFigures]


class Trainer:
    """Trains a student over one session of a run."""

    def __init__(
        self,
        objective: Objective,
        settings: Train,
        *,
        length: RunLength,
        seed: int,
        accelerator: Accelerator,
        outputs: TrainingOutputs,
    ) -> None:
        """Builds the optimizer; nothing is trained yet.

        Args:
            objective: Student, teacher and losses.
            settings: Recipe section [train].
            length: Length of the run.
            seed: Seed of the dropout.
            accelerator: Supplies processes, precision, loss scaler and trackers.
            outputs: Trace, checkpoints and evaluations.
        """
        self._settings, self._length, self._seed = settings, length, seed
        self._accelerator, self._outputs = accelerator, outputs
        self._objective, self._trained = objective, objective.trained
        self._trainable = [p for p in self._trained.parameters() if p.requires_grad]
        self._adamw = AdamW(
            self._trainable,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        # `_module` is the objective under DDP; `_optimizer` skips a step whose gradient overflowed.
        self._module, self._optimizer = accelerator.prepare(objective, self._adamw)
        self._progress = TrainingProgress(0, 0, 0.0, precision=precision_of(accelerator))

    def resume(self, checkpoint: Path) -> None:
        """Restores student, optimizer, loss scaler, random states and progress."""
        self._progress = read_progress(checkpoint)
        scaler_state = restore(checkpoint, student=self._trained, optimizer=self._adamw)
        restore_random_state(checkpoint, rank=self._accelerator.process_index)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(scaler_state)

    def train(self, batches_at: BatchesAt) -> TrainingProgress:
        """Trains the student in place, up to the last step.

        Args:
            batches_at: Returns this process's micro-batches of a step, masked and on the device.
        Returns:
            Progress over all sessions of the run.
        Raises:
            Interrupted: SIGINT or SIGTERM; a checkpoint was saved.
            TrainingDiverged: A loss is NaN or infinite.
            StorageError: A checkpoint or the trace cannot be written.
        """
        steps, resumed = self._length.steps, self._progress
        self._trained.train()
        began = saved_at = time.monotonic()
        with (
            retain_freed_memory(),
            Interruption() as interruption,
            prefetch(batches_at, steps=steps) as prefetched,
            console.progress(
                "distilling", self._length.tokens, unit="tokens", start=resumed.tokens_seen
            ) as bar,
        ):
            for step in range(resumed.step, steps):
                # Compute the step.
                step_began = time.monotonic()
                batches = prefetched(step)
                losses, tokens = self._step(step, batches, interruption)

                # Record the step.
                now = time.monotonic()
                self._advance(tokens, seconds=resumed.seconds + now - began)
                self._log_step(losses, tokens_per_s=tokens / (now - step_began))
                bar.advance(tokens)
                bar.note(_format_losses(losses))

                # Evaluate the student on held-out text.
                is_last = self._progress.step == steps
                if is_last or self._progress.step % self._evaluation_interval == 0:
                    self._evaluate()

                # Save a checkpoint.
                if is_last or time.monotonic() - saved_at >= self._checkpoint_interval_s:
                    self._save()
                    saved_at = time.monotonic()
        return self._progress

    # --- one step --------------------------------------------------------------------------------

    def _step(
        self, step: int, batches: list[MicroBatch], interruption: Interruption
    ) -> tuple[StepLosses, int]:
        """Computes the gradient of a step and updates the student.

        Returns:
            The losses, and the attended tokens over all processes.
        """
        # Add up the token counts of all processes, and whether one of them received a signal: all
        # stop at the same step.
        counts, stop = self._reduce_counts(batches, interruption.requested)
        if stop:
            self._save_and_stop()

        # Forward and backward passes.
        self._set_learning_rate(step)
        totals, sums = self._accumulate_gradients(step, batches, counts, interruption)

        # Check losses and gradient before the update, so that no checkpoint holds NaN.
        norm = self._accelerator.clip_grad_norm_(self._trainable, self._settings.clip)
        losses = self._reduce_losses(totals, sums, norm, counts)
        if not _is_finite(losses, scaled=self._accelerator.scaler is not None):
            name = f"step-{step + 1:08d}.rank-{self._accelerator.process_index}.npz"
            responsible = _responsible(batches, totals, losses)
            _raise_diverged(step, losses, responsible, self._outputs.diverged / name)

        # Update the student.
        self._optimizer.step()
        self._optimizer.zero_grad()
        return losses, int(counts.attended)

    def _reduce_counts(
        self, batches: list[MicroBatch], stop_requested: bool
    ) -> tuple[TokenCounts, bool]:
        """Token counts of a step over all processes, and whether any of them has to stop."""
        own = sum((batch.counts for batch in batches), TokenCounts(0, 0))
        sums = torch.tensor(
            [own.attended, own.masked, own.texts, stop_requested],
            dtype=torch.int64,
            device=self._accelerator.device,
        )
        # One all-reduce for all of them (docs/decisions.md#one-all-reduce-before-the-passes).
        attended, masked, texts, stops = self._accelerator.reduce(sums, "sum").tolist()
        return TokenCounts(attended, masked, texts), stops > 0

    def _set_learning_rate(self, step: int) -> None:
        # Set at each step instead of by a scheduler: a resumed run needs no state for it.
        factor = learning_rate_factor(step, steps=self._length.steps, warmup=self._settings.warmup)
        self._adamw.param_groups[0]["lr"] = self._settings.learning_rate * factor

    def _accumulate_gradients(
        self,
        step: int,
        batches: list[MicroBatch],
        counts: TokenCounts,
        interruption: Interruption,
    ) -> tuple[list[Tensor], Tensor]:
        """Runs the forward and backward passes of this process's micro-batches.

        Returns:
            The loss of each micro-batch, and the sum of each loss, in the objective's order.
        """
        totals = []
        sums = torch.zeros(len(self._objective.loss_names), device=self._accelerator.device)
        for index, batch in enumerate(batches):
            # A single process need not finish a long step: it is repeated from its start.
            if interruption.requested and self._accelerator.num_processes == 1:
                self._save_and_stop()
            # The same dropout on whichever process this micro-batch is, and if it is repeated.
            torch.manual_seed(stream_key(self._seed, "dropout", step, batch.number))
            # DDP all-reduces the gradients in the last pass only.
            is_last = index == len(batches) - 1
            with nullcontext() if is_last else self._accelerator.no_sync(self._module):
                total, batch_sums = self._module(
                    batch, self._counts_of_mean(batch, batches, counts)
                )
                self._accelerator.backward(total)
            totals.append(total.detach())
            sums += batch_sums
        return totals, sums

    def _counts_of_mean(
        self, batch: MicroBatch, batches: list[MicroBatch], counts: TokenCounts
    ) -> TokenCounts:
        """Number of tokens that the losses of a micro-batch are divided by."""
        # The original's way: a mean over micro-batches of means over their tokens.
        if self._objective.mean == "micro-batch":
            return batch.counts.times(len(batches))
        # DDP averages over the processes; with counts divided by their number it adds up.
        return counts.divided(self._accelerator.num_processes)

    def _reduce_losses(
        self, totals: list[Tensor], sums: Tensor, norm: Tensor, counts: TokenCounts
    ) -> StepLosses:
        """Mean losses over all processes: one all-reduce."""
        own = torch.cat([torch.stack(totals).sum().float().reshape(1), sums])
        total, *sums_of_losses = self._accelerator.reduce(own, "sum").tolist()
        parts = {}
        for name, loss_sum, count in zip(
            self._objective.loss_names,
            sums_of_losses,
            self._objective.loss_counts(counts),
            strict=True,
        ):
            parts[name] = loss_sum / count
        return StepLosses(
            total=total / self._accelerator.num_processes, parts=parts, gradient_norm=float(norm)
        )

    # --- trace, evaluation, checkpoint -----------------------------------------------------------

    @property
    def _evaluation_interval(self) -> int:
        return evaluation_interval(self._settings, steps=self._length.steps)

    @property
    def _checkpoint_interval_s(self) -> float:
        return self._settings.checkpoint_minutes * 60

    def _advance(self, tokens: int, *, seconds: float) -> None:
        """Counts a completed step."""
        self._progress = TrainingProgress(
            step=self._progress.step + 1,
            tokens_seen=self._progress.tokens_seen + tokens,
            seconds=seconds,
            precision=self._progress.precision,
        )

    def _log_step(self, losses: StepLosses, *, tokens_per_s: float) -> None:
        """Writes a step to the trace and the trackers."""
        gradient_norm: float | None = losses.gradient_norm
        # Under a loss scaler a gradient may overflow; the trace is JSON, which has no infinity.
        if not math.isfinite(losses.gradient_norm):
            gradient_norm = None
        values = {
            "loss": losses.total,
            **losses.parts,
            "gradient_norm": gradient_norm,
            "learning_rate": self._adamw.param_groups[0]["lr"],
            "tokens": self._progress.tokens_seen,
            "tokens_per_s": round(tokens_per_s, 1),
            "seconds": round(self._progress.seconds, 3),
        }
        self._outputs.metrics.write("train", step=self._progress.step, **values)
        tracked = {f"train/{name}": value for name, value in values.items() if value is not None}
        self._accelerator.log(tracked, step=self._progress.step)

    def _evaluate(self) -> None:
        """Writes the student's held-out figures to the trace and the trackers."""
        figures = self._outputs.evaluate(self._progress.step)
        self._outputs.metrics.write_heldout(figures)
        tracked = {}
        for name, value in figures.model_dump().items():
            if isinstance(value, int | float):
                tracked[f"heldout/{name}"] = float(value)
        self._accelerator.log(tracked, step=self._progress.step)

    def _save(self) -> None:
        """Writes a checkpoint; all processes call this, the main one writes."""
        # Rarely enough that the pages that are faulted in again take no visible time.
        return_freed_memory()
        states = gather_object([random_state()])
        if not self._accelerator.is_main_process:
            return
        # The trace first: a checkpoint must never be ahead of it.
        self._outputs.metrics.sync()
        scaler = {}
        if self._accelerator.scaler is not None:
            scaler = self._accelerator.scaler.state_dict()
        self._outputs.checkpoints.save(
            self._progress,
            student=self._trained,
            optimizer=self._adamw,
            scaler=scaler,
            random_states=states,
        )

    def _save_and_stop(self) -> NoReturn:
        self._save()
        raise Interrupted(
            f"interrupted after step {self._progress.step} of {self._length.steps}; "
            "everything up to it is saved"
        )


def _format_losses(losses: StepLosses) -> str:
    parts = [f"{_label(name)} {value:.3f}" for name, value in losses.parts.items()]
    return " · ".join([f"loss {losses.total:.3f}", *parts])


def _label(name: str) -> str:
    return "MLM" if name == "mlm" else name.replace("_", " ")


# --- divergence ----------------------------------------------------------------------------------


def _is_finite(losses: StepLosses, *, scaled: bool) -> bool:
    """Whether a step can be applied."""
    # Under a loss scaler an overflowing gradient is normal: the scaler skips the step.
    return math.isfinite(losses.total) and (scaled or math.isfinite(losses.gradient_norm))


def _responsible(
    batches: list[MicroBatch], totals: list[Tensor], losses: StepLosses
) -> list[MicroBatch]:
    """This process's micro-batches whose loss is not finite; all if only the gradient is not."""
    if math.isfinite(losses.total):
        return batches
    pairs = zip(batches, totals, strict=True)
    return [batch for batch, total in pairs if not torch.isfinite(total)]


def _raise_diverged(
    step: int, losses: StepLosses, responsible: list[MicroBatch], path: Path
) -> NoReturn:
    """Saves the responsible micro-batches, and raises TrainingDiverged."""
    # Another process may have the batch; it saves it to the same folder.
    saved = path.parent
    if responsible:
        _save_batches(path, responsible)
        saved = path
    parts = [f"{_label(name)} {value:g}" for name, value in losses.parts.items()]
    parts.append(f"gradient norm {losses.gradient_norm:g}")
    raise TrainingDiverged(
        f"the loss is {losses.total:g} at step {step + 1} ({', '.join(parts)}); its batch: {saved}",
        hint="try a lower train.learning_rate, a longer train.warmup, or "
        'train.precision = "float32"; '
        "a recipe that changes them needs a run of another name",
    )


def _save_batches(path: Path, batches: list[MicroBatch]) -> None:
    """Saves the ids and labels of micro-batches."""
    arrays = {}
    for batch in batches:
        arrays[f"input_ids_{batch.number}"] = batch.input_ids_BL.cpu().numpy()
        arrays[f"labels_{batch.number}"] = batch.labels_BL.cpu().numpy()
    with replacing(path) as unfinished, storage_errors(path), unfinished.open("wb") as file:
        # numpy declares its keywords as `allow_pickle`.
        np.savez(file, **arrays)  # type: ignore[arg-type]
